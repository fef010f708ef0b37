"""A record's entry goes one way; a move that is out of order is an error of the runtime's and never passes unseen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.envelope import Change, Context, Metadata, Operation, Reference, Trace
from headrace.errors import PermanentError
from headrace.kafka.broker_contract import Record
from headrace.runtime.batch_records import BatchRecord, Held, IllegalMove, PassedOver, RecordState
from headrace.runtime.deadletters import Failure

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE = Context(Trace("r", "default", 1, NOW), Change("t", "a", 3, Operation.UPSERT), None, Metadata({}))
AFTER = BEFORE.with_metadata("chunker", number=2)
REFERENCE = Reference("file:///x", bytes(32), 10, "SourceDocument")
ERROR = PermanentError("no")

MOVES: dict[str, Callable[[BatchRecord], object]] = {
    "decoded": lambda entry: entry.decoded(BEFORE, REFERENCE),
    "fetched": lambda entry: entry.fetched(AFTER),
    "changed": lambda entry: entry.changed(AFTER),
    "handled": lambda entry: entry.handled(("step@1",)),
    "fail": lambda entry: entry.fail(ERROR, "step@1"),
    "hold": lambda entry: entry.end(Held("tenant/acme", "paused")),
    "pass over": lambda entry: entry.end(PassedOver()),
    "settle": lambda entry: entry.settle(),
}
ENDS = {"fail": RecordState.ENDED, "hold": RecordState.ENDED, "pass over": RecordState.ENDED}
LEGAL: dict[RecordState, dict[str, RecordState]] = {
    RecordState.READ: {"decoded": RecordState.DECODED, **ENDS},
    RecordState.DECODED: {"fetched": RecordState.FETCHED, **ENDS},
    RecordState.FETCHED: {"changed": RecordState.FETCHED, "handled": RecordState.HANDLED, **ENDS},
    RecordState.HANDLED: {"settle": RecordState.SETTLED},
    RecordState.ENDED: {"settle": RecordState.SETTLED},
    RecordState.SETTLED: {},
}
WAYS = {
    RecordState.READ: [],
    RecordState.DECODED: ["decoded"],
    RecordState.FETCHED: ["decoded", "fetched"],
    RecordState.HANDLED: ["decoded", "fetched", "handled"],
    RecordState.ENDED: ["decoded", "fail"],
    RecordState.SETTLED: ["decoded", "fetched", "handled", "settle"],
}


def entry(*moves: str) -> BatchRecord:
    """A entry after these moves."""
    made = BatchRecord(Record("p-documents", 2, 7, b"t/a", b"v"))
    for move in moves:
        MOVES[move](made)
    return made


@pytest.mark.parametrize("state", list(RecordState))
@pytest.mark.parametrize("move", list(MOVES))
def test_only_the_drawn_moves_are_taken(state: RecordState, move: str) -> None:
    """Broken: a record that failed goes on, one is written twice, or one reaches a handler without its payload."""
    made = entry(*WAYS[state])
    assert made.state is state
    after = LEGAL[state].get(move)
    if after is None:
        with pytest.raises(IllegalMove, match=rf"record 7 of p-documents\[2\] cannot go from {state} to"):
            MOVES[move](made)
        assert made.state is state
    else:
        MOVES[move](made)
        assert made.state is after


@given(st.lists(st.sampled_from(list(MOVES)), max_size=12))
def test_any_order_of_moves_settles_a_record_at_most_once(moves: list[str]) -> None:
    """Broken: an order of events that no test names gives a record two outcomes."""
    made, state, results = entry(), RecordState.READ, 0
    for move in moves:
        after = LEGAL[state].get(move)
        if after is None:
            with pytest.raises(IllegalMove):
                MOVES[move](made)
            continue
        MOVES[move](made)
        state, results = after, results + (move == "settle")
    assert made.state is state
    assert results == (state is RecordState.SETTLED)


def test_the_context_is_the_newest_and_goes_with_the_settlement() -> None:
    """Broken: a handler's work is lost, or the payloads of a large batch are kept until its end."""
    made = entry()
    with pytest.raises(IllegalMove, match="has no context in state read"):
        _ = made.context
    made.decoded(BEFORE, REFERENCE)
    assert (made.context, made.reference) == (BEFORE, REFERENCE)
    made.fetched(BEFORE)
    made.changed(AFTER)
    assert (made.context, made.reference) == (AFTER, None)
    made.handled(("step@1",))
    assert (made.settle(), made.handlers) == (AFTER, ("step@1",))
    with pytest.raises(IllegalMove, match="has no context in state settled"):
        _ = made.context


def test_a_failure_keeps_the_handler_and_the_context_it_failed_with() -> None:
    """Broken: a dead letter does not say whose document it was, or which handler to repair."""
    assert entry("fail").settle() == Failure(ERROR, "step@1", None)
    assert entry("decoded", "fetched", "fail").settle() == Failure(ERROR, "step@1", AFTER)


@pytest.mark.parametrize("end", ["fail", "hold", "pass over"])
def test_an_ended_record_has_no_context(end: str) -> None:
    """Broken: a handler sees a record that waits for a person."""
    made = entry("decoded", "fetched", end)
    with pytest.raises(IllegalMove, match="has no context in state ended"):
        _ = made.context
