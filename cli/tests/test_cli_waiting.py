"""Waiting until what was sent is searchable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from headrace_cli.ingest.waiting import LOOKUP, wait_until_searchable

pytestmark = pytest.mark.unit


class Index:
    """Shows each document after so many lookups of it."""

    def __init__(self, after: int = 1, letters: Mapping[str, Any] | None = None, deleted: Sequence[str] = ()) -> None:
        self.after = after
        self.letters = letters or {}
        self.deleted = deleted
        self.asked: list[int] = []
        self.seen: dict[str, int] = {}

    def lookup(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        self.asked.append(len(documents))
        found = []
        for one in documents:
            name = one["id"]
            self.seen[name] = self.seen.get(name, 0) + 1
            arrived = self.seen[name] >= self.after and name not in self.letters
            found.append(
                {"id": name, "version": 9, "indexed": arrived, "deleted": name in self.deleted,
                 "dead_letter": self.letters.get(name)}
            )  # fmt: skip
        return found


def test_every_document_is_waited_for_in_bounded_lookups(fake_time: Any) -> None:
    """Broken: --wait ends early, or asks for more documents than the gateway answers."""
    index = Index(after=3)
    progress: list[tuple[int, ...]] = []
    done = wait_until_searchable(
        index, {f"d{n}": n for n in range(2500)}, 60, lambda *counts: progress.append(counts), fake_time.clock
    )
    assert (done.indexed, done.pending, done.failures) == (2500, [], [])
    assert max(index.asked) <= LOOKUP
    assert [sum(counts) for counts in zip(*progress, strict=True)] == [2500, 0]


def test_the_time_is_kept_and_what_is_missing_is_named(fake_time: Any) -> None:
    """Broken: --timeout is ignored, or the command claims that all is there."""
    done = wait_until_searchable(Index(after=10**9), {"a": 1, "b": 2}, 30, clock=fake_time.clock)
    assert sorted(done.pending) == ["a", "b"]
    assert 30 <= fake_time.time < 32
    assert len(fake_time.slept) < 60


def test_dead_letters_are_told_with_reason_and_remedy(fake_time: Any) -> None:
    """Broken: a document that never comes is waited for until the timeout, and nobody learns why."""
    letter = {"stage": "embedder", "reason": "invalid-record", "message": "vector: NaN", "remedy": "Mend it.",
              "partition": 3, "offset": 14}  # fmt: skip
    told: list[tuple[int, ...]] = []
    done = wait_until_searchable(
        Index(letters={"bad": letter}), {"bad": 5, "good": 1}, 30, lambda *counts: told.append(counts), fake_time.clock
    )
    assert (done.indexed, done.given_up, done.pending) == (1, 1, [])
    assert told == [(1, 1)]
    (failure,) = done.failures
    assert failure.document_id == "bad"
    assert "vector: NaN" in failure.reason
    assert failure.remedy == "Mend it."
    assert "dead-letters.embedder[3]@14" in failure.origin
    assert fake_time.time == 0.0


def test_a_document_that_stays_deleted_is_no_success(fake_time: Any) -> None:
    """Broken: a file that is older than its delete is reported searchable, and search never finds it."""
    done = wait_until_searchable(Index(deleted=["a", "b"]), {"a": 1, "b": 9}, 30, clock=fake_time.clock, deleted={"b"})
    assert (done.indexed, done.given_up) == (1, 0)
    assert "stays deleted" in done.failures[0].reason
