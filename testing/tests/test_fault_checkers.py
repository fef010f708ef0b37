"""The fault suite's checkers, each over a right history and over wrong ones; and its schedules."""

from __future__ import annotations

from random import Random

import pytest

from headrace.kafka.broker_contract import TopicPartition
from headrace_testing.faults import checkers
from headrace_testing.faults.checkers import Ends, Entry, Placed
from headrace_testing.faults.schedules import evenly, schedule, seeds
from headrace_testing.fold import Expected, Store, StoredDocument, compare

pytestmark = pytest.mark.unit

A, B, C = Entry(b"a", 1), Entry(b"b", 2), Entry(b"a", 3)
PLACE = TopicPartition("in", 0)
SOURCE = [Placed(PLACE, 0, A), Placed(PLACE, 1, B), Placed(PLACE, 5, C)]


def test_l_is_green_over_what_was_sent() -> None:
    """Broken: every run is red, or order between keys is asked for, which nobody promises."""
    assert checkers.ledger([A, B, C], [B, A, C]) == []


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([A, B], "lost"),
        ([A, B, C, A], "2 times"),
        ([A, B, C, Entry(b"z", 9)], "never sent"),
        ([B, C, A], "comes after"),
    ],
)
def test_l_finds(found: list[Entry], word: str) -> None:
    """Broken: a lost, doubled, invented or overtaken record is not seen."""
    assert any(word in line for line in checkers.ledger([A, B, C], found))


def test_l_lets_order_go_where_nobody_promises_it() -> None:
    """Broken: retried records, which the fence puts right, count as a fault of delivery."""
    assert checkers.ledger([A, B, C], [C, B, A], ordered=False) == []


def test_o_is_green_where_offsets_and_output_agree() -> None:
    """Broken: markers between records, or records not done yet, count as faults."""
    assert checkers.offsets(SOURCE, {A, B}, {PLACE: 5}, {PLACE: Ends(8, 8)}) == []
    assert checkers.offsets(SOURCE, set(), {}, {}) == []


@pytest.mark.parametrize(
    ("done", "committed", "ends", "word"),
    [
        ({A}, 5, Ends(8, 8), "has no output"),
        ({A, B, C}, 5, Ends(8, 8), "is not committed"),
        ({A, B}, 5, Ends(6, 8), "transaction is open"),
    ],
)
def test_o_finds(done: set[Entry], committed: int, ends: Ends, word: str) -> None:
    """Broken: an offset without its output, an output without its offset, or an open transaction is not seen."""
    problems = checkers.offsets(SOURCE, done, {PLACE: committed}, {PLACE: ends})
    assert any(word in line for line in problems)


def store(digest: str, *versions: int) -> Store:
    """Return a store with so many documents of these versions."""
    documents = {("t", str(at)): StoredDocument(version, False, b"", (), {}) for at, version in enumerate(versions)}
    return Store(documents, frozenset(), frozenset(), (), digest)


def test_d_finds_what_the_fold_does_not_hold() -> None:
    """Broken: a stale, missing or resurrected document is not seen."""
    fold = {("t", "0"): Expected(3, False, b""), ("t", "1"): Expected(4, False, b"")}
    assert compare(fold, store("x", 3, 4)) == []
    assert any("version 2" in line for line in compare(fold, store("x", 2, 4)))
    assert any("missing" in line for line in compare(fold, store("x", 3)))
    assert any("nowhere" in line for line in compare(fold, store("x", 3, 4, 5)))


def test_r_finds_rows_that_a_replay_wrote() -> None:
    """Broken: a replay that writes, even the same content, is taken for one that does not."""
    assert checkers.replayed(store("x", 1, 2), store("x", 1, 2)) == []
    assert checkers.replayed(store("x", 1, 2), store("y", 1, 2)) == ["rows were rewritten with unchanged content"]
    assert checkers.replayed(store("x", 1, 2), store("y", 1, 3)) == ["('t', '1') changed"]
    assert checkers.replayed(store("x", 1, 2), store("y", 1)) == ["('t', '1') is gone"]


def test_c_is_green_where_each_record_is_in_one_place() -> None:
    """Broken: a dead letter, a waiting or a superseded record counts as lost."""
    assert checkers.conservation([A, B, C], written=[A], dead=[B], superseded=[C]) == []


@pytest.mark.parametrize(
    ("places", "word"),
    [
        ({"written": [A, B]}, "nowhere"),
        ({"written": [A, B, C], "dead": [C]}, "written and dead"),
        ({"written": [A, B, C, C]}, "written and written"),
        ({"written": [A, B, C], "dead": [Entry(b"z", 9)]}, "never came in"),
    ],
)
def test_c_finds(places: dict[str, list[Entry]], word: str) -> None:
    """Broken: a record that is nowhere, in two places or from nowhere is not seen."""
    assert any(word in line for line in checkers.conservation([A, B, C], **places))


def test_t_finds_another_tenants_row() -> None:
    """Broken: one tenant's canary in another's answer is not seen."""
    assert checkers.canary([("one", "one"), ("two", "two")]) == []
    assert checkers.canary([("one", "one"), ("one", "two"), ("one", "two")]) == ["one saw 2 rows of two"]


@pytest.mark.parametrize(
    ("done_at", "found"),
    [
        ([1.0, 9.0, 12.0, 14.0, 18.0], False),
        ([1.0, 2.0], False),  # all was done before the fault ended
        ([1.0, 16.0], True),
        ([11.0, 12.0, 18.0], True),
        ([], True),
    ],
)
def test_v_finds_a_standstill(done_at: list[float], found: bool) -> None:
    """Broken: a stage that stands still after the fault is over is not seen, or one that works is."""
    assert bool(checkers.progress(done_at, 10.0, 5.0)) is found


def test_p_finds_a_secret_and_does_not_repeat_it() -> None:
    """Broken: a password or a masked number in a dead letter or a log is not seen, or the report spreads it."""
    places = [("log", b"started"), ("dead-letters.ingest 0 7", b"user=x password=hunter2")]
    assert checkers.secrets(places, [b"900101-1234567", b""]) == []
    assert checkers.secrets(places, [b"900101-1234567", b"hunter2"]) == [
        "dead-letters.ingest 0 7 holds forbidden text 1"
    ]


def test_a_schedule_follows_from_its_seed() -> None:
    """Broken: a failing run cannot be repeated from the seed that it printed."""
    weights, targets = {"kill": 2.0, "stop": 1.0}, {"kill": ["a", "b"], "stop": ["c"]}
    first, again, other = (schedule(Random(seed), 30, weights, targets, (0.5, 2.0)) for seed in (7, 7, 8))
    assert first == again != other
    assert all(0.5 <= step.pause <= 2.0 and step.target in targets[step.action] for step in first)
    assert {step.action for step in first} == {"kill", "stop"}


def test_evenly_leaves_no_target_out() -> None:
    """Broken: some stage is never killed, and the run says nothing about it."""
    drawn = evenly(Random(3), 10, ["a", "b", "c", "d"])
    assert sorted(drawn.count(name) for name in "abcd") in ([2, 2, 3, 3], [1, 3, 3, 3])


@pytest.mark.parametrize(
    ("text", "found"), [("", [99]), ("7", [7]), ("1-4", [1, 2, 3, 4]), ("3, 9,100-102", [3, 9, 100, 101, 102])]
)
def test_seeds_are_read(text: str, found: list[int]) -> None:
    """Broken: another seed runs than the one asked for."""
    assert seeds(text, 99) == found


@pytest.mark.parametrize("text", ["x", "1-", "5-1"])
def test_odd_seeds_are_refused(text: str) -> None:
    """Broken: a slip of the pen runs no seed at all, and all is green."""
    with pytest.raises(ValueError, match=r"literal|no seed"):
        seeds(text, 99)
