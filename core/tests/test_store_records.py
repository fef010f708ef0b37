"""What the store refuses before PostgreSQL does, and how it names it."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as ClientDataError

from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord
from headrace.payloads import DocumentFacts
from headrace.store.error_mapping import postgresql_errors
from headrace.store.fusion import fuse
from headrace.store.generations import embedding_table
from headrace.store.pool import StoreSettings
from headrace.store.queries import load
from headrace.store.rows import Generation, IndexChunk, IndexDocument, validate
from headrace.store.schema import migrate, require_pgvector

pytestmark = pytest.mark.unit

GENERATION = Generation("first", "toy", 2)
NAN = b"\x00\x00\xc0\x7f" * 2


def chunk(**changes: object) -> IndexChunk:
    """A sound chunk, changed."""
    values = {
        "chunk_id": b"\1" * 16,
        "section": (),
        "start": 0,
        "end": 3,
        "text": "one",
        "text_hash": b"h",
        "vector": b"\1" * 8,
    }
    return IndexChunk(**(values | changes))  # type: ignore[arg-type]


def facts(pages: tuple[int, ...] = ()) -> DocumentFacts:
    """Sound facts but for the pages."""
    return DocumentFacts("T", "text/plain", b"h", pages=pages)


def document(**changes: object) -> IndexDocument:
    """A sound document, changed."""
    values = {"tenant": "acme", "document_id": "d", "version": 1, "facts": facts(), "chunks": (chunk(),)}
    return IndexDocument(**(values | changes))  # type: ignore[arg-type]


def test_a_sound_document_passes() -> None:
    """The checks below could pass because everything is refused."""
    validate(document(), GENERATION)
    validate(document(chunks=(chunk(vector=None),)), GENERATION)


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (document(tenant=""), "tenant"),
        (document(document_id=""), "document_id"),
        (document(version=-1), "version"),
        (document(version=2**63), "version"),
        (document(deleted=True), "chunks"),
        (document(facts=facts(pages=(5, 0))), "pages"),
        (document(facts=facts(pages=(-1,))), "pages"),
        (document(facts=facts(pages=(2**31,))), "pages"),
        (document(chunks=(chunk(), chunk(chunk_id=b"short"))), "chunks[1].chunk_id"),
        (document(chunks=(chunk(start=4),)), "chunks[0].start"),
        (document(chunks=(chunk(text="a\0b"),)), "chunks[0].text"),
        (document(chunks=(chunk(section=("a\0b",)),)), "chunks[0].text"),
        (document(chunks=(chunk(vector=b"\0" * 4),)), "chunks[0].vector"),
        (document(chunks=(chunk(vector=b""),)), "chunks[0].vector"),
        (document(chunks=(chunk(vector=NAN),)), "chunks[0].vector"),
        (document(chunks=(chunk(vector=b"\0" * 8),)), "chunks[0].vector"),
        (document(facts=DocumentFacts("\ud800", "text/plain", b"h")), "title"),
        (document(facts=DocumentFacts("a\0b", "text/plain", b"h")), "title"),
    ],
)
def test_a_broken_document_is_refused_by_field(broken: IndexDocument, field: str) -> None:
    """A record would fail inside PostgreSQL, taking its batch along, with a message that names no field."""
    with pytest.raises(InvalidRecord) as refused:
        validate(broken, GENERATION)
    assert refused.value.field == field


@pytest.mark.parametrize(
    "outage",
    [
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.AdminShutdownError("shutting down"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.QueryCanceledError("statement timeout"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.PostgresIOError("could not read block 7"),
        ConnectionRefusedError("refused"),
        TimeoutError(),
    ],
)
def test_an_outage_blames_no_record(outage: Exception) -> None:
    """An outage of PostgreSQL would send good records to the dead letters."""
    with pytest.raises(DependencyDown, match=r"PostgreSQL does not answer: \w") as raised, postgresql_errors():
        raise outage
    assert raised.value.dependency == "postgresql"


def test_a_mistake_of_ours_is_no_outage() -> None:
    """A broken constraint would pause the stage for ever."""
    with pytest.raises(asyncpg.UniqueViolationError), postgresql_errors():
        raise asyncpg.UniqueViolationError("twice")
    with pytest.raises(asyncpg.InterfaceError), postgresql_errors():
        raise asyncpg.InterfaceError("the server expects 2 arguments")


def test_a_text_that_speaks_of_connections_is_no_outage() -> None:
    """One document with such a text in a field of a wrong type would pause the stage for ever."""
    quoted = "invalid input for query argument $7: ['a connection pool'] (expected str, got list)"
    with pytest.raises(ClientDataError), postgresql_errors():
        raise ClientDataError(quoted)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedTableError("chunk"),
        asyncpg.InvalidPasswordError("no"),
        asyncpg.InsufficientPrivilegeError("permission denied for table document"),
    ],
)
def test_a_wrong_setting_says_what_to_do(error: Exception) -> None:
    """A schema that was never migrated, or a right that was taken away, would send good records to the dead letters."""
    with pytest.raises(DependencyDown) as raised, postgresql_errors():
        raise error
    assert "HEADRACE_STORE_" in raised.value.remedy


@pytest.mark.parametrize("name", ["", "A", "1st", "a-b", 'a"; DROP TABLE chunk; --', "a" * 41, "a\n"])
def test_generation_names_are_safe_identifiers(name: str) -> None:
    """A generation's name goes into SQL as it is: it could carry a statement."""
    with pytest.raises(ConfigurationError):
        embedding_table(name)


@pytest.mark.parametrize("schema", ["", "Head", 'x" CASCADE', "a" * 64])
def test_schema_names_are_safe_identifiers(schema: str) -> None:
    """A schema's name goes into SQL as it is; the check stands before any connection."""
    with pytest.raises(ConfigurationError):
        migrate("postgresql://nowhere.invalid/x", schema)
    with pytest.raises(ValueError, match="schema_name"):
        StoreSettings.model_validate({"dsn": "postgresql://x/x", "schema_name": schema})


@pytest.mark.parametrize(("version", "namespace"), [("0.8.4", "public"), ("0.7", "public"), ("0.8.5", "elsewhere")])
def test_unfit_pgvector_is_refused_with_a_remedy(version: str, namespace: str) -> None:
    """A pgvector with a known hole would be used, or one that no query finds."""
    with pytest.raises(ConfigurationError) as refused:
        require_pgvector(version, namespace)
    assert "ALTER EXTENSION" in refused.value.remedy
    require_pgvector("0.8.5", "public")
    require_pgvector("0.10.0", "public")


def test_every_setting_is_described_and_hidden() -> None:
    """A setting would be missing from the reference, or the password stand in a log."""
    assert all(setting.description for setting in StoreSettings.model_fields.values())
    assert "hush" not in repr(StoreSettings.model_validate({"dsn": "postgresql://u:hush@localhost/x"}))


FIRST, SECOND, THIRD = UUID(int=1), UUID(int=2), UUID(int=3)


def test_fusion_weighs_both_legs_and_prefers_what_both_know() -> None:
    """Broken: a hybrid search ranks a chunk that one leg found above one that both found, or ignores the weight."""
    dense, lexical = {FIRST: 0.9, SECOND: 0.8, THIRD: 0.1}, {FIRST: 0.0, SECOND: 9.0, THIRD: 10.0}
    scores = fuse(dense, lexical, 0.5, 0.2)
    assert list(scores) == [SECOND, THIRD, FIRST]
    assert scores[SECOND] == pytest.approx(0.5 * 0.6 / 0.8 + 0.5 * 0.9)
    assert scores[THIRD] == pytest.approx(0.5 - 0.5 * 0.1 * 0.1 / 1.2)  # less similar than two unrelated passages
    assert list(fuse(dense, lexical, 1.0, 0.2)) == [FIRST, SECOND, THIRD]
    assert list(fuse(dense, lexical, 0.0, 0.2)) == [THIRD, SECOND, FIRST]
    assert fuse({}, {}, 0.5, 0.2) == {}
    assert list(fuse({}, {SECOND: 3.0, FIRST: 3.0}, 0.5, None)) == [FIRST, SECOND]  # equal scores in a fixed order


def test_a_fused_score_does_not_depend_on_how_many_hits_are_asked_for() -> None:
    """Broken: the first hit of five is another one than the first of fifty, because scores are scaled by the worst."""
    dense, lexical = {FIRST: 0.9, SECOND: 0.8}, {FIRST: 2.0, SECOND: 9.0}
    few = fuse(dense, lexical, 0.5, 0.2)
    more = fuse(dense | {THIRD: 0.3}, lexical | {THIRD: 0.5}, 0.5, 0.2)
    assert few.items() <= more.items()


def test_a_model_whose_cosines_are_all_alike_counts_as_much_as_another() -> None:
    """Broken: with a model whose unrelated texts have cosine 0.8, meaning counts for nothing beside words."""
    wide = fuse({FIRST: 0.7, SECOND: 0.2}, {FIRST: 0.0, SECOND: 1.0}, 0.6, 0.1)
    narrow = fuse({FIRST: 0.93, SECOND: 0.82}, {FIRST: 0.0, SECOND: 1.0}, 0.6, 0.8)
    assert wide[FIRST] == pytest.approx(narrow[FIRST], abs=0.02)
    assert fuse({FIRST: 0.99}, {}, 0.5, 1.0)[FIRST] == pytest.approx(0.4)  # all passages alike: still a scale
    assert list(fuse({FIRST: 0.5, SECOND: 0.6}, {}, 0.5, 0.8)) == [SECOND, FIRST]  # below the mean, still in order
    assert fuse({FIRST: -3.0, SECOND: -5.0}, {}, 0.5, None) == {FIRST: 0.5, SECOND: 0.0}


@pytest.mark.parametrize(
    "file",
    ["index", "cache", "search", "documents", "artifacts", "keys", "generations", "statistics"],
)
def test_queries_are_found_by_name(file: str) -> None:
    """A query file would lose a block, or run into the next."""
    queries = load(file)
    assert queries
    assert all("-- name:" not in query and query.endswith(";") for query in queries.values())
