"""Hits by document, without a database: enough documents, enough passages, and an end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.filters.model import And, Condition, Filter, Not, Operator
from headrace.store.grouping import by_document

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Ranks:
    """A reading: chunks with their documents and scores."""

    found: Mapping[UUID, tuple[str, float]]

    @property
    def documents(self) -> Mapping[UUID, str]:
        """The document of each chunk."""
        return {key: name for key, (name, _) in self.found.items()}

    def joined(self, other: Ranks) -> Ranks:
        """Both."""
        return Ranks({**other.found, **self.found})

    def ordered(self) -> Mapping[UUID, float]:
        """By score."""
        return dict(sorted(((key, score) for key, (_, score) in self.found.items()), key=lambda one: -one[1]))


class Index:
    """Chunks of documents, in the order of their scores; counts how often it is read."""

    def __init__(self, names: list[str]) -> None:
        self.chunks = {UUID(int=at + 1): (name, 1 / (at + 1)) for at, name in enumerate(names)}
        self.reads = 0

    async def read(self, given_filter: Filter | None, wanted: int) -> Ranks:
        """The best chunks whose documents meet the filter."""
        self.reads += 1
        fits = {key: one for key, one in self.chunks.items() if allows(given_filter, one[0])}
        return Ranks(dict(list(fits.items())[:wanted]))


def allows(given_filter: Filter | None, name: str) -> bool:
    """Whether a filter of documents accepts one."""
    match given_filter:
        case None:
            return True
        case And(parts):
            return all(allows(part, name) for part in parts)
        case Not(part):
            return not allows(part, name)
        case Condition("document", Operator.IN, tuple(names)):
            return name in names
    raise AssertionError(given_filter)


@given(
    st.lists(st.sampled_from("abcdefgh"), max_size=120),
    st.integers(1, 9),
    st.integers(1, 4),
    st.frozensets(st.sampled_from("abcdefgh"), max_size=3),
)
async def test_documents_are_the_best_and_as_many_as_exist(
    names: list[str], wanted: int, per_document: int, seen: frozenset[str]
) -> None:
    """Broken: documents are missing, too many, in the wrong order, or without their best passages."""
    index = Index(names)
    groups = await by_document(index.read, None, wanted, per_document, lambda name: name in seen)
    expected: dict[str, list[UUID]] = {}
    for key, (name, _) in index.chunks.items():
        if name not in seen:
            expected.setdefault(name, []).append(key)
    best = list(expected)[:wanted]
    assert list(groups.chunks) == best
    assert {name: list(chunks) for name, chunks in groups.chunks.items()} == {
        name: expected[name][:per_document] for name in best
    }


async def test_a_long_document_costs_few_readings() -> None:
    """Broken: a search by document reads the index once for each document."""
    index = Index(["long"] * 5000 + [f"s{n}" for n in range(50)])
    groups = await by_document(index.read, None, 20, 2, lambda _: False)
    assert len(groups.chunks) == 20
    assert index.reads <= 4
