"""Runs folded from changes, outcomes and dead letters."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from headrace_operations.runs.fold import Failed, Fold, SentChange, runs_of

pytestmark = pytest.mark.unit

NOW = 100_000


def key(name: str, tenant: str = "acme") -> bytes:
    """The key of a document."""
    return f"{tenant}/{name}".encode()


def sent(name: str, offset: int, version: int | None = 1, run: str = "r", request: str = "q") -> SentChange:
    """A change of the run, sent at its offset in milliseconds."""
    return SentChange(key(name), (0, offset), version, run, request, offset)


def letter(number: int, name: str, version: int | None, place: tuple[int, int] | None = None) -> Failed:
    """A dead letter."""
    return Failed(f"chunker/0/{number}", "chunker", "unforeseen", "boom", key(name), version, place, 50 + number)


def counts(fold: Fold) -> tuple[int, int, int, int]:
    """Total, done, failed and pending of the one run."""
    (run,) = runs_of(fold.items(), NOW)
    return run.total, run.done, run.failed, run.pending


def test_a_run_counts_each_version_once_however_often_it_was_sent() -> None:
    """If it failed, a request that was repeated after a lost answer would make the total too large."""
    fold = Fold()
    fold.sent(sent("a", 1))
    fold.sent(sent("a", 2))
    fold.sent(sent("a", 3, version=2))
    assert counts(fold) == (2, 0, 0, 2)


def test_a_version_that_was_overtaken_is_done() -> None:
    """If it failed, a run would never end where a newer version came between."""
    fold = Fold()
    fold.sent(sent("a", 1, version=3))
    fold.indexed(key("a"), 4, 900)
    assert counts(fold) == (1, 1, 0, 0)


def test_an_older_outcome_settles_nothing() -> None:
    """If it failed, a run would be called done while the index still holds what was before."""
    fold = Fold()
    fold.sent(sent("a", 1, version=3))
    fold.indexed(key("a"), 2, 900)
    assert counts(fold) == (1, 0, 0, 1)


def test_a_change_of_unknown_version_is_settled_by_its_place() -> None:
    """If it failed, changes that state their version in the body only would stay pending for ever."""
    fold = Fold()
    fold.sent(sent("a", 1, version=None))
    fold.indexed(key("a"), 77, 900, place=(0, 2))
    assert counts(fold) == (1, 0, 0, 1)
    fold.indexed(key("a"), 77, 900, place=(0, 1))
    assert counts(fold) == (1, 1, 0, 0)


def test_dead_letters_fail_a_change_by_version_or_by_place() -> None:
    """If it failed, a run with records that were given up would wait for them without end."""
    fold = Fold()
    fold.sent(sent("a", 1, version=3))
    fold.sent(sent("b", 2, version=None))
    fold.sent(sent("c", 3, version=9))
    fold.gave_up(letter(1, "a", 3))
    fold.gave_up(letter(2, "b", None, (0, 2)))
    fold.gave_up(letter(3, "c", 8))
    assert counts(fold) == (3, 0, 2, 1)


def test_a_redriven_dead_letter_is_pending_and_one_that_follows_fails_again() -> None:
    """If it failed, a redrive would leave its run failed, or a second failure would not be seen."""
    fold = Fold()
    fold.sent(sent("a", 1, version=3))
    fold.gave_up(letter(1, "a", 3))
    fold.redriven.add("chunker/0/1")
    assert counts(fold) == (1, 0, 0, 1)
    fold.gave_up(letter(2, "a", 3))
    assert counts(fold) == (1, 0, 1, 0)
    fold.indexed(key("a"), 3, 999)
    assert counts(fold) == (1, 1, 0, 0)


def test_the_store_settles_what_the_log_forgot() -> None:
    """If it failed, a run older than the topic of outcomes would look unfinished."""
    fold = Fold()
    fold.sent(sent("a", 1, version=3))
    fold.stored[key("a")] = 3
    assert counts(fold) == (1, 1, 0, 0)


def test_the_order_of_reading_changes_nothing() -> None:
    """If it failed, the same log would tell another state when it is read from the end backwards."""
    steps: list[Callable[[Fold], None]] = []
    for number in range(30):
        name = f"d{number % 7}"
        steps.append(lambda fold, n=number, d=name: fold.sent(sent(d, n, version=n)))  # type: ignore[misc]
        if number % 3 == 0:
            steps.append(lambda fold, n=number, d=name: fold.indexed(key(d), n, 1000 + n))  # type: ignore[misc]
        if number % 5 == 0:
            steps.append(lambda fold, n=number, d=name: fold.gave_up(letter(n, d, n)))  # type: ignore[misc]
    shuffled = random.Random(4).sample(steps, len(steps))
    forwards, backwards = Fold(), Fold()
    for step in steps:
        step(forwards)
    for step in [*shuffled, *shuffled]:
        step(backwards)
    assert runs_of(forwards.items(), NOW) == runs_of(backwards.items(), NOW)
    assert counts(forwards)[0] == 30


def test_rate_and_time_left_follow_from_what_was_settled() -> None:
    """If it failed, an operator would be told a wrong time to wait."""
    fold = Fold()
    for number in range(10):
        fold.sent(sent(str(number), number, version=1))
    for number in range(4):
        fold.indexed(key(str(number)), 1, 1000 + number)
    (run,) = runs_of(fold.items(), 2000)
    assert (run.per_second, run.seconds_left, run.percent) == (2.0, 3.0, 40.0)


def test_runs_are_told_apart_by_name_and_tenant_and_found_by_request() -> None:
    """If it failed, two tenants' batches would be added up, or a request would not lead to its run."""
    fold = Fold()
    fold.sent(sent("a", 1, run="one", request="q1"))
    fold.sent(sent("b", 2, run="one", request="q2"))
    fold.sent(SentChange(key("a", "beta"), (1, 1), 1, "one", "q3", 5))
    fold.sent(sent("c", 9, run="two", request="q4"))
    found = runs_of(fold.items(), NOW)
    assert [(run.run, run.tenant, run.total, run.requests) for run in found] == [
        ("two", "acme", 1, 1),
        ("one", "beta", 1, 1),
        ("one", "acme", 2, 2),
    ]
    assert [item.change.document_id for item in fold.items("q2")] == ["b"]
    assert [item.change.tenant for item in fold.items("one", "beta")] == ["beta"]
