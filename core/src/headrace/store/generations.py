"""Generations of the index: each is one embedding model's complete set of vectors; switching is atomic."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from headrace.embeddings.preparation import Preparation, parse_template
from headrace.errors import ConfigurationError, DependencyDown
from headrace.lexical.analyzer import Analyzer
from headrace.store.error_mapping import GenerationExists, postgresql_errors
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation
from headrace.topology import generation_names

if TYPE_CHECKING:
    from headrace.store.pool import Connection, Pool

OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
_METRICS = {"cosine": "cosine", "l2": "l2", "inner_product": "ip"}


class Storage(NamedTuple):
    """How vectors are kept: their SQL type, and the most dimensions that an HNSW index takes.

    ``binary`` says that the index holds one bit for each dimension, and that its candidates are ranked by the vectors.
    """

    type: str
    maximum: int
    binary: bool = False


STORAGES = {
    "vector": Storage("vector", 2000),
    "halfvec": Storage("halfvec", 4000),
    "binary": Storage("halfvec", 4000, binary=True),
}
"""float32; float16, in half the space; float16 under an index of bits, which is a tenth of the size."""
DROPPING, DROPPED = "dropping", "dropped"
"""States of a generation that :mod:`headrace.store.reindex` removes, and whose name alone is left."""
GONE = frozenset({DROPPING, DROPPED})
ACTIVE_S = 5.0
"""Seconds for which gateways and generators remember which generation is active."""
_NAME = re.compile(generation_names.GENERATION)


def embedding_table(generation: str) -> str:
    """Return the name of the table that gives a generation's chunks their vectors.

    Raises :class:`ConfigurationError` unless it is a safe identifier.
    """
    if not _NAME.fullmatch(generation):
        raise ConfigurationError(
            f"invalid generation name {generation!r}",
            remedy="Use 1 to 31 lower-case letters, digits and underscores, starting with a letter.",
        )
    return f"embedding_{generation}"


def vector_table(generation: str) -> str:
    """Return the name of a generation's table of dense vectors; raises as :func:`embedding_table` does."""
    return embedding_table(generation).replace("embedding", "vector", 1)


def lexical_table(generation: str) -> str:
    """Return the name of a generation's table of lexical vectors; raises as :func:`embedding_table` does."""
    return embedding_table(generation).replace("embedding", "lexical", 1)


def query_of(file: str, name: str, generation: Generation) -> str:
    """Return a query of the file for the tables, the distance and the storage of the generation."""
    return filled(load(file)[name], generation)


def filled(text: str, generation: Generation) -> str:
    """Return an SQL text with the tables, the distance and the storage of the generation in place of its fields."""
    storage = STORAGES[generation.storage]
    bits = f"binary_quantize(embedding)::bit({generation.dimensions})"
    metric = f"{storage.type}_{_METRICS[generation.distance]}_ops"
    fields = {
        "{embedding}": embedding_table(generation.name),
        "{vectors}": vector_table(generation.name),
        "{lexical}": lexical_table(generation.name),
        "{operator}": OPERATORS[generation.distance],
        "{type}": f"{storage.type}({generation.dimensions})",
        "{indexed}": f"({bits})" if storage.binary else "embedding",
        "{operators}": "bit_hamming_ops" if storage.binary else metric,
    }
    for field, value in fields.items():
        text = text.replace(field, value)
    return text


def check_generation(wanted: Generation) -> None:
    """Raise :class:`ConfigurationError` for a name, distance, size, storage, template or analyzer that cannot be."""
    embedding_table(wanted.name)
    parse_template(wanted.template)
    Analyzer(wanted.analyzer)
    if wanted.storage not in STORAGES:
        raise ConfigurationError(
            f"generation {wanted.name}: unknown storage {wanted.storage!r}", remedy=f"Use {', '.join(STORAGES)}."
        )
    maximum = STORAGES[wanted.storage].maximum
    if wanted.distance not in OPERATORS or not 1 <= wanted.dimensions <= maximum:
        raise ConfigurationError(
            f"generation {wanted.name}: cannot index distance {wanted.distance!r} with {wanted.dimensions} dimensions",
            remedy=f"Use {', '.join(OPERATORS)} and 1 to {maximum} dimensions.",
        )


async def create_generation(connection: Connection, wanted: Generation, *, indexed: bool = True) -> Generation:
    """Create a generation's tables and indexes, and register it as ``building``; idempotent.

    The connection must be the owner's, because services may not create tables. Without ``indexed``, the index of the
    dense vectors is left out: it is built faster after a bulk load (:mod:`headrace.store.dense_index`).

    Raises :class:`ConfigurationError` as :func:`check_generation` does, and :class:`GenerationExists` if a generation
    with this name exists with another model, dimension, distance, storage, preparation of texts or analyzer, or
    existed and was dropped.
    """
    check_generation(wanted)
    queries = load("generations")
    with postgresql_errors():
        async with connection.transaction():
            registered = await connection.fetchval(
                queries["register"], wanted.name, wanted.model, wanted.dimensions, wanted.distance, wanted.template,
                wanted.passage_prompt, wanted.over_long, wanted.analyzer, wanted.storage, wanted.embedder_url,
            )  # fmt: skip
            if registered:
                await connection.execute(queries["create"], wanted.name, filled("public.{type}", wanted))
                if indexed:
                    await connection.execute(query_of("generations", "index", wanted))
                return replace(wanted, state="building")
            found = _generation(await connection.fetchrow(queries["get"], wanted.name))
    assert found is not None
    _require_same(found, wanted)
    return found


def _require_same(found: Generation, wanted: Generation) -> None:
    """Raise :class:`GenerationExists` if the generation that exists is not the one that is wanted."""
    if found.state in GONE:
        raise GenerationExists(
            f"generation {found.name} was dropped, and its name stays taken",
            remedy="Choose another name. If this is HEADRACE_KAFKA_GENERATION, set it to a generation that exists; "
            "`headrace generations list` shows them.",
        )
    if (found.model, found.dimensions, found.distance) != (wanted.model, wanted.dimensions, wanted.distance):
        raise GenerationExists(
            f"generation {found.name} exists with {found.model}, {found.dimensions} dimensions, {found.distance}",
            remedy="A new model needs a new generation: choose another name.",
        )
    if found.storage != wanted.storage:
        raise GenerationExists(
            f"generation {found.name} exists with the storage {found.storage}, not {wanted.storage}",
            remedy="Another storage needs a new generation: choose another name.",
        )
    if found.analyzer != wanted.analyzer:
        raise GenerationExists(
            f"generation {found.name} exists with the analyzer {found.analyzer}, not {wanted.analyzer}",
            remedy="Another analyzer needs a new generation: choose another name.",
        )
    if found.preparation != wanted.preparation:
        raise GenerationExists(
            f"generation {found.name} exists and {differently(found.preparation, wanted.preparation)}",
            remedy="Texts that are prepared differently need a new generation: choose another name.",
        )


def differently(theirs: Preparation, other: Preparation) -> str:
    """Return how two preparations of texts differ, in words, as a statement about the first."""
    ours, others = asdict(theirs), asdict(other)
    return " and ".join(
        f"has the {name.replace('_', '-')} {str(value)!r}, not {str(others[name])!r}"
        for name, value in ours.items()
        if others[name] != value
    )


async def activate(connection: Connection, name: str) -> None:
    """Make ``name`` the generation that is searched, and retire the previous one, in one transaction.

    Raises :class:`ConfigurationError` if the generation does not exist, or is being dropped.
    """
    with postgresql_errors():
        async with connection.transaction():
            await connection.execute(load("generations")["lock"])
            await connection.execute(load("generations")["retire_active"], name)
            if await connection.fetchval(load("generations")["activate"], name) is None:
                raise ConfigurationError(
                    f"generation {name} does not exist", remedy="Create it first with `headrace generations create`."
                )
            await connection.execute(load("generations")["point_views"], name)


async def may_switch(connection: Connection) -> bool:
    """Whether this login may create and switch generations; services may not."""
    with postgresql_errors():
        return bool(await connection.fetchval(load("generations")["may_switch"]))


async def active_generation(connection: Connection) -> Generation | None:
    """Return the generation that is searched, or None if none was ever activated."""
    with postgresql_errors():
        return _generation(await connection.fetchrow(load("generations")["active"]))


async def get_generation(connection: Connection, name: str) -> Generation | None:
    """Return the generation with this name, or None if there is none or it was dropped."""
    with postgresql_errors():
        found = _generation(await connection.fetchrow(load("generations")["get"], name))
    return None if found is None or found.state == DROPPED else found


async def list_generations(connection: Connection) -> list[Generation]:
    """Return all generations that exist, oldest first."""
    with postgresql_errors():
        rows = await connection.fetch(load("generations")["list"])
    return [Generation(**row) for row in rows]


def kept_fresh(known: Iterable[Generation], own: str) -> tuple[str, ...]:
    """Return the names of the generations to fill again after a reset: all except retired ones, plus ``own``."""
    return tuple(one.name for one in known if one.state not in {"retired", *GONE} or one.name == own)


class ActiveGeneration:
    """The generation that is searched, read from PostgreSQL every few seconds because it may be switched."""

    def __init__(self, connected: Callable[[], Awaitable[Pool]]) -> None:
        self._connected = connected
        self._known: tuple[float, Generation] | None = None

    async def __call__(self) -> Generation:
        """Return the generation; raises :class:`DependencyDown` if PostgreSQL does not answer or none is active."""
        if self._known is None or time.monotonic() - self._known[0] > ACTIVE_S:
            with postgresql_errors():
                async with (await self._connected()).acquire() as connection:
                    found = await active_generation(connection)
            if found is None:
                raise DependencyDown("index", "the index has no active generation", remedy="Run `headrace bootstrap`.")
            self._known = (time.monotonic(), found)
        return self._known[1]


def check_query(vector: bytes, generation: Generation) -> None:
    """Raise :class:`DependencyDown` unless the query's vector (float32) has the generation's dimensions."""
    if len(vector) != generation.dimensions * BYTES_PER_FLOAT:
        raise DependencyDown(
            "embedder",
            f"the embedder returns {len(vector) // BYTES_PER_FLOAT} dimensions, but generation "
            f"{generation.name!r} needs {generation.dimensions}",
            remedy="Start the embedder with the model of the active generation.",
        )


def _generation(row: asyncpg.Record | None) -> Generation | None:
    return None if row is None else Generation(**row)
