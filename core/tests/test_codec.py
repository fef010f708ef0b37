"""Bytes and frozen types: every record survives the way, and no bytes do more harm than to their own record."""

from __future__ import annotations

import json
import struct
import time
import types
import typing
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import fastavro
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headrace.codec import schemas
from headrace.codec.codec import ENVELOPES, PLAIN, Codec
from headrace.codec.schema_registry import FixedIds, Registry, register_all
from headrace.envelope import Change, Context, Metadata, Operation, Reference, Trace
from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord, PermanentError, UndecodableRecord
from headrace.payloads import ChangeEvent, Chunk, ChunkedDocument, DocumentFacts, EmbeddedDocument, SourceDocument

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())
TEXTS = st.text(max_size=20) | st.sampled_from(["한국어 문서", "👩‍👩‍👧‍👦 🙂", "", "\x00", "é"])
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
LIMIT_S = 2.0
"""Longest that decoding a few hundred hostile bytes may take, on a slow machine."""


def of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a record's field, from its annotation."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        branches = typing.get_args(hint)
        if types.NoneType in branches:
            return st.none() | of(next(branch for branch in branches if branch is not types.NoneType))
    if typing.get_origin(hint) is tuple:
        return st.lists(of(typing.get_args(hint)[0]), max_size=3).map(tuple)
    if typing.get_origin(hint) is not None:
        return st.dictionaries(TEXTS, of(typing.get_args(hint)[1]), max_size=3)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and is_dataclass(hint):
        return builds(hint)
    return {
        str: TEXTS,
        int: st.integers(-(2**31), 2**31 - 1),
        float: st.floats(allow_nan=False, width=32),
        bytes: st.binary(min_size=16, max_size=16),
        datetime: TIMES,
    }[hint]


def builds(cls: Any) -> st.SearchStrategy[Any]:
    """Instances of a record."""
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: of(hints[field.name]) for field in fields(cls)})


METADATA = st.dictionaries(
    st.sampled_from(["user.team", "ingest.format", "chunker.number", "embedder.share"]),
    TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False),
).map(Metadata)


def contexts(payload: type) -> st.SearchStrategy[Context]:
    """Envelopes of the topic's record."""
    changes = builds(Change).flatmap(
        lambda change: st.integers(0, 2**63 - 1).map(lambda version: replace(change, version=version))
    )
    return st.builds(Context, builds(Trace), changes, st.none() | builds(payload), METADATA)


def plain_example() -> Context:
    """A small envelope."""
    return Context(
        Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC)),
        Change("t", "d", 1, Operation.UPSERT),
        SourceDocument(DocumentFacts("T", "text/plain", bytes(16)), "text"),
        Metadata({"user.team": "core"}),
    )


@pytest.mark.parametrize("payload", list(ENVELOPES), ids=lambda cls: cls.__name__)
def test_every_envelope_survives_the_way(payload: type) -> None:
    """Broken: a record reads differently from how it was written, in some language or at some bound."""

    @settings(max_examples=40, derandomize=True)
    @given(contexts(payload))
    def check(context: Context) -> None:
        found = CODEC.decode(CODEC.encode(context, payload), payload)
        assert found == context
        types_in, types_out = ({k: type(v) for k, v in c.metadata.items()} for c in (context, found))
        assert types_in == types_out

    check()


@pytest.mark.parametrize("record", list(PLAIN), ids=lambda cls: cls.__name__)
def test_every_plain_record_survives_the_way(record: type) -> None:
    """Broken: change events, dead letters or pipelines read differently from how they were written."""

    @settings(max_examples=40, derandomize=True)
    @given(builds(record))
    def check(found: Any) -> None:
        assert CODEC.decode_plain(CODEC.encode_plain(found), record) == found

    check()


FACTS = DocumentFacts("Title", "text/markdown", b"h" * 16, "s3://b/k", {"team": "core"}, ("ann", "bob"), "en", (0, 2))
FEW_FACTS = DocumentFacts("Title", "text/markdown", b"h" * 16)
CHUNKS = (Chunk(b"c" * 16, ("Guide", "Part"), 0, 4, "text", b"t" * 16),)
# Recorded when each payload had the facts as fields of its own.
RECORDED: list[tuple[object, str]] = [
    (
        SourceDocument(FACTS, "text"),
        (
            "0a5469746c6508746578741a746578742f6d61726b646f776e2068686868686868686868686868686868021073333a2f"
            "2f622f6b02087465616d08636f7265000406616e6e06626f62000204656e0400040000"
        ),
    ),
    (
        SourceDocument(FEW_FACTS, "text"),
        "0a5469746c6508746578741a746578742f6d61726b646f776e2068686868686868686868686868686868000000000000",
    ),
    (
        ChunkedDocument(FACTS, CHUNKS),
        (
            "0a5469746c651a746578742f6d61726b646f776e2068686868686868686868686868686868021073333a2f2f622f6b02"
            "087465616d08636f7265000406616e6e06626f6200022063636363636363636363636363636363040a47756964650850"
            "61727400000808746578742074747474747474747474747474747474000204656e0400040000"
        ),
    ),
    (
        ChunkedDocument(FEW_FACTS, ()),
        "0a5469746c651a746578742f6d61726b646f776e206868686868686868686868686868686800000000000000",
    ),
    (
        EmbeddedDocument(FACTS, CHUNKS, "g1", "model", 1, {"74" * 16: bytes(4)}, (b"k" * 16,)),
        (
            "0a5469746c651a746578742f6d61726b646f776e2068686868686868686868686868686868021073333a2f2f622f6b02"
            "087465616d08636f7265000406616e6e06626f6200022063636363636363636363636363636363040a47756964650850"
            "61727400000808746578742074747474747474747474747474747474000467310a6d6f64656c02024037343734373437"
            "343734373437343734373437343734373437343734373437340800000000000204656e0400040002206b6b6b6b6b6b6b"
            "6b6b6b6b6b6b6b6b6b0000"
        ),
    ),
    (
        EmbeddedDocument(FEW_FACTS, (), "g1", "model", 1, {}),
        (
            "0a5469746c651a746578742f6d61726b646f776e2068686868686868686868686868686868000000000467310a6d6f64"
            "656c020000000000"
        ),
    ),
]
ENVELOPE = "00000000070e726571756573740e64656661756c740680cde7e4ded7a3060000000861636d651067756964652e6d640a0002"
"""The bytes of an envelope before its payload: trace, metadata, change, and the branch of the payload's union."""


@pytest.mark.parametrize(("payload", "recorded"), RECORDED)
def test_facts_lie_flat_in_the_bytes(payload: object, recorded: str) -> None:
    """Broken: records that are in the log, or that another release writes, read differently."""
    change = Change("acme", "guide.md", 5, Operation.UPSERT)
    context = Context(Trace("request", "default", 3, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)), change, payload)
    data = bytes.fromhex(ENVELOPE + recorded)
    codec = Codec(FixedIds())
    own = codec.encode(context, type(payload))
    assert own[5:] == data[5:]  # after the schema's id
    assert codec.decode(own[:5] + data[5:], type(payload)) == context


def test_a_value_that_does_not_fit_is_named() -> None:
    """Broken: a handler's odd value ends the stage instead of the record."""
    with pytest.raises(InvalidRecord, match="payload"):
        CODEC.encode_plain(ChangeEvent("t", "d", Operation.UPSERT, version=2**63))
    with pytest.raises(InvalidRecord, match="carries SourceDocument"):
        CODEC.encode(plain_example().with_payload("text"), SourceDocument)


@pytest.mark.parametrize("data", [None, b"", b"\x00", b"\x00\x00\x00\x00", b"{}", b"\x01\x00\x00\x00\x01abc"])
def test_what_has_no_header_is_undecodable(data: bytes | None) -> None:
    """Broken: JSON or a null in an Avro topic ends the stage."""
    with pytest.raises(UndecodableRecord):
        CODEC.decode(data, SourceDocument)


def test_a_text_that_is_not_utf8_is_named() -> None:
    """Broken: who finds the dead letter does not learn which field of which text to repair upstream."""
    event = ChangeEvent("t", "d", Operation.UPSERT, content="#text#", attributes={"team": "#team#"}, acl=("#acl#",))
    data = CODEC.encode_plain(event)
    for text, field in ((b"#text#", "content"), (b"#team#", r"attributes\.team"), (b"#acl#", r"acl\[0\]")):
        damaged = data.replace(text, text[:2] + b"\xff" + text[3:])
        with pytest.raises(UndecodableRecord, match=f"^{field} is not UTF-8: 0xff at byte 2"):
            CODEC.decode_plain(damaged, ChangeEvent)


def test_an_error_quotes_no_whole_schema() -> None:
    """Broken: a dead letter's reason drowns in a schema of thousands of characters."""

    class Foreign(FixedIds):
        """Every record was written with a schema without fields."""

        def writer_schema(self, schema_id: int) -> Any:
            return fastavro.schema.parse_schema({"type": "record", "name": "other.Record", "fields": []})

    with pytest.raises(UndecodableRecord, match="do not decode as") as raised:
        Codec(Foreign()).decode(CODEC.encode(plain_example(), SourceDocument)[:5], SourceDocument)
    assert len(str(raised.value)) < 500


def test_trailing_bytes_are_refused() -> None:
    """Broken: a record of another schema passes for one of ours."""
    data = CODEC.encode(plain_example(), SourceDocument)
    with pytest.raises(UndecodableRecord, match="3 bytes follow"):
        CODEC.decode(data + b"abc", SourceDocument)
    with pytest.raises(UndecodableRecord):
        CODEC.decode(data[:-1], SourceDocument)


def test_a_record_of_another_topic_is_undecodable() -> None:
    """Broken: a dead letter sent to the wrong topic is taken for a document."""
    data = CODEC.encode_plain(ChangeEvent("t", "d", Operation.UPSERT))
    with pytest.raises(UndecodableRecord):
        CODEC.decode(data, SourceDocument)


REFERENCE = Reference("claim:t/20260101/" + "ab" * 32, b"\xab" * 32, 12, "headrace.SourceDocument")


class OnePayload:
    """An object store that holds one payload."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[tuple[Reference, str, str]] = []

    def read(self, reference: Reference, tenant: str, record: str) -> bytes:
        self.asked.append((reference, tenant, record))
        return self.data


def test_a_claim_check_without_a_store_is_permanent() -> None:
    """Broken: a referenced payload is taken for a delete, or nobody learns which setting is missing."""
    data = CODEC.encode(plain_example().with_payload(None), SourceDocument, REFERENCE)
    with pytest.raises(PermanentError, match=r"is in the object store.*claim:t/.*HEADRACE_OBJECTS_URL"):
        CODEC.decode(data, SourceDocument)
    assert CODEC.envelope(data, SourceDocument) == (plain_example().with_payload(None), REFERENCE)
    assert CODEC.envelope(CODEC.encode(plain_example(), SourceDocument), SourceDocument) == (plain_example(), None)


def test_a_payload_comes_back_from_the_store() -> None:
    """Broken: tools that read the log see large documents as deleted ones."""
    store = OnePayload(CODEC.encode_payload(plain_example().payload))
    codec = Codec(FixedIds(), store)
    data = CODEC.encode(plain_example().with_payload(None), SourceDocument, REFERENCE)
    assert codec.decode(data, SourceDocument) == plain_example()
    assert store.asked == [(REFERENCE, "t", "headrace.SourceDocument")]
    assert codec.decode(CODEC.encode(plain_example(), SourceDocument), SourceDocument) == plain_example()
    assert len(store.asked) == 1


@pytest.mark.parametrize("payload", list(ENVELOPES), ids=lambda cls: cls.__name__)
def test_a_payload_alone_has_the_same_bytes_in_every_envelope(payload: type) -> None:
    """Broken: a batch that is computed again stores all its payloads once more."""

    @settings(max_examples=20, derandomize=True)
    @given(builds(payload))
    def check(found: Any) -> None:
        data = CODEC.encode_payload(found)
        assert CODEC.encode_payload(CODEC.decode_payload(data, payload)) == data

    check()


def test_an_object_without_a_payload_is_undecodable() -> None:
    """Broken: an object that holds a reference again sends the decoder round in circles."""
    nothing = CODEC.encode(plain_example().with_payload(None), SourceDocument)
    for data in (nothing, CODEC.encode(plain_example().with_payload(None), SourceDocument, REFERENCE)):
        with pytest.raises(UndecodableRecord, match="does not contain a payload"):
            CODEC.decode_payload(data, SourceDocument)


@settings(max_examples=400, derandomize=True)
@given(st.data())
def test_damaged_bytes_harm_only_their_record(data: st.DataObject) -> None:
    """Broken: one malformed record ends the stage, or keeps it busy without end."""
    damaged = bytearray(CODEC.encode(plain_example(), SourceDocument))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(5, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
        if len(damaged) < 7:
            break
    decode_within_bounds(bytes(damaged))


@settings(max_examples=400, derandomize=True)
@given(st.binary(max_size=200), st.integers(0, 30))
@example(b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" * 20, 1)
@example(b"\x02" * 200, 1)
@example(b"\x01" * 200, 1)
def test_arbitrary_bytes_harm_only_their_record(body: bytes, schema_id: int) -> None:
    """Broken: forged lengths and block counts take all memory or all time."""
    decode_within_bounds(struct.pack(">BI", 0, schema_id) + body)


def decode_within_bounds(data: bytes) -> None:
    """Decode as every kind of record; nothing but the two errors may come, and soon."""
    started = time.perf_counter()
    for payload in ENVELOPES:
        try:
            assert isinstance(CODEC.decode(data, payload), Context)
        except PermanentError:
            continue
    for record in PLAIN:
        try:
            assert isinstance(CODEC.decode_plain(data, record), record)
        except PermanentError:
            continue
    assert time.perf_counter() - started < LIMIT_S


EMPTY = {"type": "record", "name": "Empty", "fields": []}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": "null"},
        {"type": "array", "items": EMPTY},
        {"type": "array", "items": {"type": "fixed", "name": "Nothing", "size": 0}},
        {"type": "array", "items": {"type": "record", "name": "R", "fields": [{"name": "n", "type": "null"}]}},
        {"type": "record", "name": "R", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]},
        {
            "type": "record",
            "name": "R",
            "fields": [{"name": "e", "type": EMPTY}, {"name": "a", "type": {"type": "array", "items": "Empty"}}],
        },
        {"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]},
        {"type": "record", "name": "R", "fields": [{"name": "r", "type": "R"}]},
        ["null", {"type": "map", "values": {"type": "array", "items": "null"}}],
        {"type": "record", "name": "R", "fields": 5},
        {"type": "record", "fields": []},
        "no-such-type",
        {"type": 5},
    ],
    ids=str,
)
def test_hostile_schemas_are_refused(schema: Any) -> None:
    """Broken: a few bytes declare billions of items, or a record descends until the process ends."""
    with pytest.raises(UndecodableRecord, match="schema"):
        schemas.parse_foreign(json.dumps(schema), "schema id 7")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800"])
def test_what_is_no_schema_is_refused(text: str) -> None:
    """Broken: a registry's odd answer ends the stage."""
    with pytest.raises(UndecodableRecord):
        schemas.parse_foreign(text, "schema id 7")


@pytest.mark.parametrize("name", schemas.names())
def test_our_own_schemas_pass_the_guard(name: str) -> None:
    """Broken: the guard refuses what we write ourselves."""
    assert schemas.parse_foreign(json.dumps(schemas.inline(name)), name)


class FakeRegistry:
    """Answers as a Confluent-compatible registry does, and counts."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.status = 200
        self.body: str | None = None
        self.error: Exception | None = None

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append((request.method, request.url.path))
        if self.error is not None:
            raise self.error
        if self.status != 200 or self.body is not None:
            return httpx.Response(self.status, text=self.body or "no")
        name = request.url.path.removesuffix("/versions").rpartition("/")[2]
        if request.url.path.startswith("/base/schemas/ids/"):
            known = schemas.names()
            number = int(name) - 1
            if not 0 <= number < len(known):
                return httpx.Response(404, json={"error_code": 40403, "message": "Schema not found"})
            return httpx.Response(200, json={"schema": json.dumps(schemas.inline(known[number]))})
        return httpx.Response(200, json={"id": schemas.names().index(name) + 1} if "." in name else {})

    def client(self) -> Registry:
        """A client of this registry."""
        return Registry("http://registry/base/", transport=httpx.MockTransport(self))


def test_ids_are_asked_for_once() -> None:
    """Broken: every record costs a call of the registry."""
    fake = FakeRegistry()
    writer, reader = Codec(registry := fake.client()), Codec(registry)
    for _ in range(3):
        data = writer.encode(plain_example(), SourceDocument)
        assert reader.decode(data, SourceDocument) == plain_example()
    assert [method for method, _ in fake.requests] == ["POST", "GET"]


def test_a_schema_equal_to_ours_is_read_without_resolution() -> None:
    """Broken: each record costs twice the time to read, because two equal schemas are resolved against each other."""
    fake = FakeRegistry()
    registry = fake.client()
    schema_id = registry.id_of("headrace.SourceDocument")
    assert registry.writer_schema(schema_id) is schemas.parsed("headrace.SourceDocument")


def test_an_unknown_id_is_the_record_s_fault_alone() -> None:
    """Broken: a forged schema id stops the stage."""
    with pytest.raises(UndecodableRecord, match="999"):
        Codec(FakeRegistry().client()).decode(struct.pack(">BI", 0, 999) + b"x", SourceDocument)


@pytest.mark.parametrize("body", ["<html>no such page</html>", "{}", "[]", '{"error_code": 404}'])
def test_a_wrong_address_gives_no_record_up(body: str) -> None:
    """Broken: with a typing error in HEADRACE_REGISTRY_URL every record goes to the dead letters."""
    fake = FakeRegistry()
    fake.status, fake.body = 404, body
    with pytest.raises(DependencyDown, match="HEADRACE_REGISTRY_URL"):
        fake.client().writer_schema(1)


@pytest.mark.parametrize("body", ["{}", "[]", '{"schema": null, "id": "x"}', '"registry"'])
def test_an_answer_without_a_schema_is_waited_for(body: str) -> None:
    """Broken: another service's JSON in place of the registry's gives records up, or ends the stage."""
    fake = FakeRegistry()
    fake.body = body
    registry = fake.client()
    for call in (lambda: registry.writer_schema(1), lambda: registry.id_of("headrace.Change")):
        with pytest.raises(DependencyDown, match=r"has no field '(schema|id)'"):
            call()


@pytest.mark.parametrize("schema_id", [2**31, 2**32 - 1])
def test_an_impossible_id_is_not_asked_for(schema_id: int) -> None:
    """Broken: a forged id that makes the registry fail, rather than say no, stops the partition."""
    fake = FakeRegistry()
    with pytest.raises(UndecodableRecord, match="is not a schema ID"):
        Codec(fake.client()).decode(struct.pack(">BI", 0, schema_id) + b"x", SourceDocument)
    assert fake.requests == []


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_registry_that_fails_is_waited_for(status: int) -> None:
    """Broken: an outage of the registry sends records to the dead letters."""
    fake = FakeRegistry()
    fake.status = status
    registry = fake.client()
    for call in (lambda: registry.id_of("headrace.Change"), lambda: registry.writer_schema(1), registry.ping):
        with pytest.raises(DependencyDown, match="schema registry"):
            call()
    fake.status = 200
    assert registry.id_of("headrace.Change") > 0


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("")])
def test_a_registry_that_does_not_answer_is_waited_for(error: Exception) -> None:
    """Broken: the registry's restart ends the stage, gives records up, or is told without a reason."""
    fake = FakeRegistry()
    fake.error = error
    with pytest.raises(DependencyDown, match=r"refused|ReadTimeout"):
        fake.client().writer_schema(1)


def test_a_proxy_s_page_is_no_schema() -> None:
    """Broken: a page in place of the registry's answer gives every record up."""
    fake = FakeRegistry()
    fake.body = "<html>sign in</html>"
    with pytest.raises(DependencyDown, match="JSON"):
        fake.client().writer_schema(1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_registry_that_refuses_us_is_a_configuration_error(status: int) -> None:
    """Broken: wrong credentials look like bad records."""
    fake = FakeRegistry()
    fake.status = status
    with pytest.raises(ConfigurationError, match=str(status)):
        fake.client().writer_schema(1)


def test_a_schema_that_was_never_registered_names_the_remedy() -> None:
    """Broken: services register schemas on the fly, or nobody learns what to run."""
    fake = FakeRegistry()
    fake.status = 404
    with pytest.raises(ConfigurationError, match="headrace bootstrap"):
        fake.client().id_of("headrace.Change")


def test_registering_sets_the_rule_first_and_names_conflicts() -> None:
    """Broken: an incompatible schema slips in, or is refused without a word."""
    fake = FakeRegistry()
    assert register_all(fake.client(), ["headrace.Change"]) == {
        "headrace.Change": schemas.names().index("headrace.Change") + 1
    }
    assert [method for method, _ in fake.requests] == ["PUT", "POST"]
    fake.status = 409
    with pytest.raises(ConfigurationError, match=r"headrace\.Change.*incompatible"):
        fake.client().register("headrace.Change")


def test_a_rule_that_another_makes_at_this_moment_is_set_all_the_same() -> None:
    """Broken: of two migration steps that begin together one fails."""
    answers = [httpx.Response(409, json={"message": "already exists"}), httpx.Response(200, json={})]
    registry = Registry("http://registry", transport=httpx.MockTransport(lambda _: answers.pop(0)))
    registry.require_compatibility()
    assert answers == []
    answers += [httpx.Response(409, json={"message": "already exists"})] * 2
    with pytest.raises(ConfigurationError, match="409"):
        registry.require_compatibility()
