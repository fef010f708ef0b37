"""Hits by document: the documents whose best passages score best, each with its best passages.

A leg of the index finds chunks, and one long document may have all of the nearest. So what was found is read again
without the documents that are known already, until there are enough of them or no others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar
from uuid import UUID

from headrace.filters.model import Filter, Not, both, documents

_SPARE = 2
"""The first reading has so many times the passages that are wanted, because some documents have several of them."""


class Reading(Protocol):
    """What the legs of an index found."""

    @property
    def documents(self) -> Mapping[UUID, str]:
        """The document of each chunk that was found."""

    def joined(self, other: Self) -> Self:
        """Return both readings as one."""

    def ordered(self) -> Mapping[UUID, float]:
        """Return the score of each chunk, best first."""


R = TypeVar("R", bound=Reading)
Read = Callable[[Filter | None, int], Awaitable[R]]
"""Reads the best chunks that meet a filter, so many if so many exist."""


@dataclass(frozen=True, slots=True)
class Groups(Generic[R]):
    """The chunks of each document, best first, documents by their best chunk; and all that was read."""

    chunks: Mapping[str, tuple[UUID, ...]]
    reading: R


async def by_document(
    read: Read[R], given: Filter | None, wanted: int, per_document: int, skip: Callable[[str], bool]
) -> Groups[R]:
    """Return ``wanted`` documents, if as many exist, with up to ``per_document`` chunks each.

    Documents that ``skip`` accepts are left out; they were in earlier answers.
    """
    depth = wanted * max(per_document, _SPARE)
    reading = await read(given, depth)
    while len(_groups(reading, skip)) < wanted:
        known = sorted(set(reading.documents.values()))
        depth *= 2
        more = await read(both(given, Not(documents(known))) if known else given, depth)
        if not more.documents.keys() - reading.documents.keys():
            break
        reading = reading.joined(more)
    chosen = list(_groups(reading, skip))[:wanted]
    if per_document > 1:
        reading = await _filled(read, given, reading, chosen, per_document)
    groups = _groups(reading, skip)
    return Groups({name: groups[name][:per_document] for name in chosen}, reading)


async def _filled(read: Read[R], given: Filter | None, reading: R, chosen: Collection[str], per_document: int) -> R:
    """Return the reading with enough chunks of each chosen document, if it has so many."""
    while True:
        counts = dict.fromkeys(chosen, 0)
        for name in reading.documents.values():
            if name in counts:
                counts[name] += 1
        short = [name for name, count in counts.items() if count < per_document]
        if not short:
            return reading
        depth = per_document * len(short)
        more = await read(both(given, documents(short)), depth)
        new = more.documents.keys() - reading.documents.keys()
        reading = reading.joined(more)
        if not new or len(more.documents) < depth:
            return reading


def _groups(reading: Reading, skip: Callable[[str], bool]) -> dict[str, tuple[UUID, ...]]:
    groups: dict[str, tuple[UUID, ...]] = {}
    for chunk_id in reading.ordered():
        name = reading.documents[chunk_id]
        if not skip(name):
            groups[name] = (*groups.get(name, ()), chunk_id)
    return groups
