"""The chunks around a hit in its document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.queries import load

if TYPE_CHECKING:
    from headrace.store.pool import Connection

MAXIMUM_NEIGHBOURS = 10
"""Chunks on each side of a hit."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk at its place: characters ``start`` up to ``end`` of the source text; ``ordinal`` counts from 0."""

    section: tuple[str, ...]
    start: int
    end: int
    ordinal: int
    text: str


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The chunks before and after a chunk, in the order of the text."""

    before: tuple[Passage, ...] = field(default=())
    after: tuple[Passage, ...] = field(default=())


async def around(
    connection: Connection, tenant: str, chunk_ids: Sequence[UUID], reach: int
) -> Mapping[UUID, Neighbours]:
    """Return up to ``reach`` chunks on each side of each of these, at its first place in its document."""
    rows = await connection.fetch(load("neighbours")["around"], tenant, list(chunk_ids), reach)
    found: dict[UUID, tuple[list[Passage], list[Passage]]] = {}
    for row in rows:
        before, after = found.setdefault(row["hit"], ([], []))
        passage = Passage(tuple(row["section"]), row["start"], row["end"], row["ordinal"] - 1, row["text"])
        (before if row["ordinal"] < row["place"] else after).append(passage)
    return {hit: Neighbours(tuple(before), tuple(after)) for hit, (before, after) in found.items()}
