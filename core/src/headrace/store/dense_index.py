"""The approximate index over a generation's dense vectors: its kind and parameters, built without stopping anything.

An index is built ``CONCURRENTLY`` under a second name beside the one in use, which is then dropped and replaced. Each
step can be repeated: an index that a killed build left behind is removed, and one that another command is still
building is waited for.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from headrace.errors import ConfigurationError
from headrace.store.error_mapping import postgresql_errors
from headrace.store.generations import STORAGES, filled, vector_table
from headrace.store.queries import load
from headrace.store.rows import BYTES_PER_FLOAT, Generation

if TYPE_CHECKING:
    from headrace.store.pool import Connection

Kind = Literal["hnsw", "ivfflat"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MANY_ROWS = 1_000_000
_BUILD_S = 7 * 24 * 3600.0
"""Maximum time of one statement that builds or drops an index."""
_LOOK_S = 0.5
_MEMORY_MIB = (64, 1024)
"""Least and most memory that a build asks for; above the most, pgvector goes on more slowly."""
_OPTION = re.compile(r"(m|ef_construction|lists)=(\d+)")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Kind and parameters of an index, as ``CREATE INDEX`` takes them."""

    kind: Kind
    options: Mapping[str, int]

    def text(self) -> str:
        """Return the options for ``WITH``."""
        return ", ".join(f"{name} = {value}" for name, value in self.options.items())


@dataclass(frozen=True, slots=True)
class DenseIndex:
    """An index that exists; ``valid`` is False while it is built, and for good if the build was killed."""

    name: str
    kind: str
    valid: bool
    bytes: int
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is: PostgreSQL's name of the phase, and its share of the table, from 0 to 1."""

    phase: str
    share: float


Told = Callable[[BuildProgress], None]


def index_name(generation: str) -> str:
    """Return the name of the index in use; raises :class:`ConfigurationError` for an invalid generation."""
    return f"{vector_table(generation)}_nearest"


def parameters(kind: Kind, rows: int) -> Parameters:
    """Return the parameters for a table of this size; pure.

    HNSW: pgvector's defaults (m 16, ef_construction 64); from a million rows on, m 24 and ef_construction 128, because
    a larger graph needs more edges for the same recall (Malkov and Yashunin, "Efficient and robust approximate nearest
    neighbor search using HNSW", section 4.1: M from 5 to 48, ef_construction until the recall of the build is 0.95).
    IVFFlat: rows / 1000 lists up to a million rows, then the square root of the rows (pgvector's README).
    """
    if kind == "hnsw":
        return Parameters(kind, {"m": 24, "ef_construction": 128} if rows >= MANY_ROWS else {
            "m": 16, "ef_construction": 64})  # fmt: skip
    lists = round(math.sqrt(rows)) if rows > MANY_ROWS else rows // 1000
    return Parameters(kind, {"lists": min(32_768, max(1, lists))})


def probes(lists: int) -> int:
    """Return how many lists of IVFFlat a search reads first: their square root (pgvector's README)."""
    return max(1, round(math.sqrt(lists)))


def memory_mib(generation: Generation, rows: int, options: Mapping[str, int]) -> int:
    """Return the memory for a build, in MiB: the vectors, and 8 bytes for each of a node's 2 m edges and m above."""
    storage = STORAGES[generation.storage]
    vector = generation.dimensions / 8 if storage.binary else generation.dimensions * (
        BYTES_PER_FLOAT if storage.type == "vector" else 2)  # fmt: skip
    node = vector + 3 * 8 * options.get("m", 0) + 128
    least, most = _MEMORY_MIB
    return min(most, max(least, math.ceil(rows * node / 2**20)))


async def dense_indexes(connection: Connection, generation: Generation) -> list[DenseIndex]:
    """Return the generation's index, and one that is being built beside it or was left behind."""
    name = index_name(generation.name)
    table = vector_table(generation.name)
    with postgresql_errors():
        rows = await connection.fetch(load("dense_index")["indexes"], table, name, f"{name}_new")
    return [
        DenseIndex(row["name"], row["kind"], row["valid"], row["bytes"], option_values(row["options"])) for row in rows
    ]


def option_values(texts: Sequence[str]) -> dict[str, int]:
    """Return the parameters in an index's options, as PostgreSQL keeps them: ``m=16``."""
    return {found[1]: int(found[2]) for text in texts if (found := _OPTION.fullmatch(text))}


async def row_estimate(connection: Connection, generation: Generation) -> int:
    """Return about how many vectors the generation has, from the planner's statistics, which are made if missing."""
    table = vector_table(generation.name)
    with postgresql_errors():
        found = await connection.fetchval(load("dense_index")["rows"], table)
        if found is None:
            await connection.execute(f"ANALYZE {table}", timeout=_BUILD_S)
            found = await connection.fetchval(load("dense_index")["rows"], table)
    return int(found or 0)


async def build_progress(connection: Connection, generation: Generation) -> BuildProgress | None:
    """Return how far the build of the generation's index is; None if none is being built."""
    with postgresql_errors():
        row = await connection.fetchrow(load("dense_index")["build_progress"], vector_table(generation.name))
    if row is None:
        return None
    done, total = max((row["blocks_done"], row["blocks_total"]), (row["tuples_done"], row["tuples_total"]),
                      key=lambda one: one[1])  # fmt: skip
    return BuildProgress(row["phase"], done / total if total else 0.0)


async def build(
    worker: Connection, watcher: Connection, generation: Generation, wanted: Parameters, *, told: Told = lambda _: None
) -> DenseIndex:
    """Build the generation's index with these parameters beside the one in use, and replace that one.

    ``worker`` is busy until the end; ``watcher`` looks how far it is. Both are the owner's, outside transactions.
    Searches and writes continue. If another command is building the index, this one waits for it and then looks again.
    Raises :class:`ConfigurationError` for an index of dimensions that pgvector cannot index, and
    :class:`DependencyDown`.
    """
    name = index_name(generation.name)
    await _await_others(watcher, generation, told)
    found = {one.name: one for one in await dense_indexes(watcher, generation)}
    new = found.get(f"{name}_new")
    if new is not None and not (new.valid and _is(new, wanted)):
        await _run(worker, "drop", generation, {"{name}": f"{name}_new"})
        new = None
    if new is None:
        await _create(worker, watcher, generation, wanted, told)
    await _run(worker, "drop", generation, {"{name}": name})
    await _run(worker, "rename", generation, {"{name}": f"{name}_new", "{target}": name})
    if "lists" in wanted.options:
        await tune(watcher, generation.name, None, probes(wanted.options["lists"]))
    return next(one for one in await dense_indexes(watcher, generation) if one.name == name)


async def ensure(
    worker: Connection, watcher: Connection, generation: Generation, kind: Kind = "hnsw", *,
    told: Told = lambda _: None,
) -> DenseIndex:  # fmt: skip
    """Build the generation's index unless it has a valid one; finish a replacement that was interrupted."""
    name = index_name(generation.name)
    await _await_others(watcher, generation, told)
    found = {one.name: one for one in await dense_indexes(watcher, generation)}
    if name in found and found[name].valid and f"{name}_new" not in found:
        return found[name]
    rows = await row_estimate(watcher, generation)
    return await build(worker, watcher, generation, parameters(kind, rows), told=told)


async def tune(connection: Connection, generation: str, ef_search: int | None, probes: int | None) -> None:
    """Set how many candidates of HNSW and how many lists of IVFFlat searches read first; None keeps a value.

    Searches follow within seconds, as they do after a switch.
    """
    with postgresql_errors():
        await connection.execute(load("dense_index")["tune"], generation, ef_search, probes)


def _is(index: DenseIndex, wanted: Parameters) -> bool:
    return index.kind == wanted.kind and dict(index.options) == dict(wanted.options)


async def _await_others(watcher: Connection, generation: Generation, told: Told) -> None:
    while (at := await build_progress(watcher, generation)) is not None:
        told(at)
        await asyncio.sleep(_LOOK_S)


async def _create(
    worker: Connection, watcher: Connection, generation: Generation, wanted: Parameters, told: Told
) -> None:
    rows = await row_estimate(watcher, generation)
    memory = memory_mib(generation, rows, wanted.options)
    with postgresql_errors():
        await worker.execute(
            f"SET statement_timeout = 0; SET maintenance_work_mem = '{memory}MB'; "
            "SET client_connection_check_interval = '5s'"
        )
    name = f"{index_name(generation.name)}_new"
    fields = {"{name}": name, "{kind}": wanted.kind, "{options}": wanted.text()}
    running = asyncio.create_task(_run(worker, "create", generation, fields), name="build-index")
    try:
        while not (await asyncio.wait({running}, timeout=_LOOK_S))[0]:
            at = await build_progress(watcher, generation)
            if at is not None:
                told(at)
        await running
    finally:
        running.cancel()


async def _run(connection: Connection, query: str, generation: Generation, fields: Mapping[str, str]) -> None:
    text = load("dense_index")[query]
    for mark, value in fields.items():
        text = text.replace(mark, value)
    with postgresql_errors():
        await connection.execute(filled(text, generation), timeout=_BUILD_S)


def kind_of(text: str) -> Kind:
    """Return the kind with this name; raises :class:`ConfigurationError` for another one."""
    for kind in KINDS:
        if kind == text:
            return kind
    raise ConfigurationError(f"unknown kind of index {text!r}", where="--kind", remedy=f"Use {', '.join(KINDS)}.")
