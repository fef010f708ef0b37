"""What a worker does next, as a pure function: ``state + event -> state, commands``.

No clock, no broker and no randomness in here; the loop (:mod:`headrace.runtime.worker`) brings time and jitter with
the events and carries out the commands. Times are monotonic seconds.

One function serves both lanes. The side lane differs by its limits: its records have a time at which they are due, and
those of a replay wait while the live lane works.

A batch's life: sealed from the buffer with the snapshot of the membership that its records were read under, computed
outside any transaction, committed in one. One batch computes while its predecessor commits. Whatever makes the
snapshot stale dooms every batch and the buffer, and reading starts again at the committed offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace.kafka import headers
from headrace.kafka.broker_contract import (
    BrokerError,
    Mark,
    Message,
    OffsetsLost,
    Polled,
    ProducerFenced,
    Record,
    TopicPartition,
    TransactionUncertain,
)

HOLD_AFTER_S = 1.0
"""A batch that computes longer than this has fetching paused, so that polling can keep up the membership."""
IDLE_POLL_S = 0.25
YIELDING_POLL_S = 0.02
BATCH_DEATHS = 2
"""After so many beginnings without an end, the records of a batch are taken one by one."""
BUSY_POLL_MAX_S = 0.05

EXIT_DONE = 0
EXIT_BUG = 70
EXIT_FENCED = 71
EXIT_OFFSETS_LOST = 72


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of batches and waits; seconds and bytes."""

    batch_records: int = 500
    batch_bytes: int = 4 * 1024 * 1024
    linger_s: float = 0.0
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    drain_s: float = 10.0
    retry_topic: str | None = None
    """Its records wait until they are due."""
    replay_topic: str | None = None
    """Its records wait while the live lane works."""
    replay_share: float = 0.1
    """Part of the time, between 0 and 1, that replayed records get while live ones come."""
    replay_batch_records: int = 8
    replay_batch_bytes: int = 64 * 1024
    """While live records come, batches of replayed ones are no larger than this: so long a live one waits for them."""
    parked_records: int = 1000
    parked_bytes: int = 32 * 1024 * 1024
    """So much may wait until it is due before fetching stops."""
    deaths: int = 3
    """A record that was begun so often alone, without an end, is given up."""
    dead_letter_window: int = 1000
    dead_letter_share: float = 1.0
    """More of the newest ``dead_letter_window`` records given up for a fault of ours than this stops the stage."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records sealed together, with the membership that they were read under; ``attempt`` counts from 1."""

    number: int
    records: tuple[Record, ...]
    snapshot: Any
    sealed_at: float
    attempt: int = 1
    marks: Mapping[TopicPartition, Mark] = field(default_factory=dict)
    """To be written before it is computed, for partitions in which nothing was committed yet."""
    deadly: bool = False
    """The one record in it ended the worker too often: it is given up, not computed."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch came to: the messages to write, dead letters among them, and counts for the metrics."""

    messages: Sequence[Message]
    dead_letters: int = 0
    retried: int = 0
    held: int = 0
    faults: int = 0
    """Dead letters for which the record itself is not to blame, as far as one can tell."""
    passed_over: int = 0
    """Records that tell of no document."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The stage waits for a dependency until ``until``; ``failures`` in a row so far."""

    reason: str
    dependency: str
    until: float
    failures: int
    recompute: bool = False
    """The batch under way failed for it and is computed again when the wait is over."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A record that waits until ``due``."""

    due: float
    record: Record


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the decision rests on."""

    buffer: tuple[Record, ...] = ()
    buffered_since: float = 0.0
    snapshot: Any = None
    parked: tuple[Parked, ...] = ()
    """Records that are not due yet, or stand behind one that is not, in the order in which they were read."""
    live_busy: bool = False
    """Whether live records come; the loop keeps it up to date for the side lane."""
    yield_until: float = 0.0
    """Until then replayed records leave a busy live lane its share."""
    paused: str | None = None
    """Why no batch is started: an operator's order. The loop keeps it up to date."""
    stopped: str | None = None
    """Why the stage stopped itself: it gave up too many records. An operator's order lets it go on."""
    recent: tuple[tuple[int, int], ...] = ()
    """Records and faults of the newest batches."""
    assigned: frozenset[TopicPartition] = frozenset()
    unproven: Mapping[TopicPartition, Mark | None] = field(default_factory=dict)
    """Partitions of which nothing was committed since they came here, with the mark that they came with."""
    computing: Batch | None = None
    computed: tuple[Batch, BatchResult] | None = None
    held: bool = False
    waiting: Waiting | None = None
    recovery: tuple[str, ...] = ()
    """Steps still to do before reading goes on: ``renew``, ``rewind``."""
    draining_until: float | None = None
    commit_failures: int = 0
    """Commits that failed in a row."""
    next_number: int = 1
    exit_code: int | None = None
    exit_reason: str = ""


@dataclass(frozen=True, slots=True)
class PollReturned:
    """A poll came back, with the membership as of then."""

    now: float
    polled: Polled
    snapshot: Any
    wall_ahead: float = 0.0
    """Seconds since 1970 minus ``now``: due times are the wall clock's."""


@dataclass(frozen=True, slots=True)
class PollFailed:
    """A poll raised."""

    now: float
    error: BrokerError
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class ComputeReturned:
    """A batch was computed, or failed: ``outcome`` is its result or the error that stopped it."""

    now: float
    number: int
    outcome: BatchResult | BaseException
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class CommitReturned:
    """A transaction ended; None is success."""

    now: float
    number: int
    error: BrokerError | None


@dataclass(frozen=True, slots=True)
class RecoveryReturned:
    """A recovery step ended; None is success."""

    now: float
    step: str
    error: BrokerError | None
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody asked the worker to finish (SIGTERM)."""

    now: float


@dataclass(frozen=True, slots=True)
class GoOn:
    """An operator lets a stage go on that stopped itself."""

    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""

    now: float


Event = PollReturned | PollFailed | ComputeReturned | CommitReturned | RecoveryReturned | StopRequested | GoOn | Tick


@dataclass(frozen=True, slots=True)
class Compute:
    """Hand the batch to the handlers."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Cancel:
    """The batch is doomed: stop computing it, drop what it comes to."""

    number: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the result and the batch's offsets in one transaction."""

    batch: Batch
    result: BatchResult


@dataclass(frozen=True, slots=True)
class Recover:
    """Do the step: ``renew`` the producer or ``rewind`` to the committed offsets."""

    step: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Stop fetching; polls go on."""


@dataclass(frozen=True, slots=True)
class Release:
    """Fetch again."""


Command = Compute | Cancel | Commit | Recover | Hold | Release


@dataclass(frozen=True, slots=True)
class Wait:
    """What the loop waits for next: a poll for ``max_records``, or, with 0, for the computation alone."""

    max_records: int
    timeout: float


def decide(state: State, event: Event, limits: Limits) -> tuple[State, list[Command]]:
    """Return the state after the event and the commands to carry out, in order."""
    state, commands = _apply(state, event, limits)
    if state.exit_code is not None:
        return state, commands
    state, following = _advance(state, event.now, limits)
    state, fetching = _fetching(state, event.now, limits)
    return state, commands + fetching + following


def next_wait(state: State, now: float, limits: Limits) -> Wait:
    """Return what to wait for; short while a batch computes, so that its commit follows at once."""
    room = 0 if _full(state, limits) else limits.batch_records - len(state.buffer)
    if state.waiting is not None:
        return Wait(1, max(0.0, min(state.waiting.until - now, IDLE_POLL_S)))
    if state.computing is None:
        return Wait(max(room, 1), _idle_timeout(state, now, limits))
    elapsed = max(0.0, now - state.computing.sealed_at)
    if state.held:
        return Wait(1, BUSY_POLL_MAX_S)
    if room <= 0:
        return Wait(0, max(0.001, HOLD_AFTER_S - elapsed))
    return Wait(room, min(BUSY_POLL_MAX_S, 0.001 + elapsed / 10))


def _idle_timeout(state: State, now: float, limits: Limits) -> float:
    """Return how long a poll may wait where nothing computes: until the next thing that could be started."""
    timeout = IDLE_POLL_S
    if state.parked:
        timeout = min(timeout, min(parked.due for parked in state.parked) - now)
    if state.buffer and state.paused is None and state.stopped is None:
        if _yields(state, now, limits):
            timeout = min(timeout, YIELDING_POLL_S)
        else:
            timeout = min(timeout, state.buffered_since + limits.linger_s - now)
    return max(0.0, timeout)


def _apply(state: State, event: Event, limits: Limits) -> tuple[State, list[Command]]:
    match event:
        case PollReturned():
            return _polled(state, event, limits)
        case ComputeReturned():
            return _computed(state, event, limits)
        case CommitReturned():
            return _committed(state, event, limits)
        case RecoveryReturned():
            return _recovered(state, event, limits)
        case PollFailed():
            return _poll_failed(state, event, limits)
        case StopRequested():
            if state.draining_until is not None:
                return state, []
            return replace(state, draining_until=event.now + limits.drain_s, buffer=(), parked=()), []
        case GoOn():
            return replace(state, stopped=None, recent=()), []
        case Tick():
            return state, []


def _polled(state: State, event: PollReturned, limits: Limits) -> tuple[State, list[Command]]:
    if event.polled.rebalanced:
        doomed, commands = _doom(state)
        renew = ("renew",) if "renew" in state.recovery else ()
        return replace(_take_over(doomed, event.polled), recovery=(*renew, "rewind")), commands
    if state.draining_until is not None or state.recovery:
        return state, []  # what was read before a rewind is read again after it
    found = event.polled.records
    state = replace(state, snapshot=event.snapshot)
    if found and limits.retry_topic is not None:
        parked = [Parked(_due(record, event, limits), record) for record in found]
        return replace(state, parked=(*state.parked, *parked)), []
    since = state.buffered_since if state.buffer else event.now
    return replace(state, buffer=(*state.buffer, *found) if found else state.buffer, buffered_since=since), []


def _take_over(state: State, polled: Polled) -> State:
    """Return the state with the new assignment; what came to this worker is unproven."""
    unproven = {place: mark for place, mark in state.unproven.items() if place in polled.assigned}
    unproven |= {place: polled.marks.get(place) for place in polled.assigned - state.assigned}
    return replace(state, assigned=polled.assigned, unproven=unproven)


def _due(record: Record, event: PollReturned, limits: Limits) -> float:
    if record.topic != limits.retry_topic:
        return event.now
    return headers.number(record, headers.RETRY_DUE, 0) / 1000 - event.wall_ahead


def _unpark(state: State, now: float) -> State:
    """Move what is due into the buffer; a record stays behind one of its partition that is not due yet."""
    if not state.parked or state.draining_until is not None or state.recovery:
        return state
    blocked: set[TopicPartition] = set()
    due: list[Record] = []
    rest: list[Parked] = []
    for parked in state.parked:
        place = parked.record.place
        if parked.due > now or place in blocked:
            blocked.add(place)
            rest.append(parked)
        else:
            due.append(parked.record)
    if not due:
        return state
    since = state.buffered_since if state.buffer else now
    return replace(state, parked=tuple(rest), buffer=(*state.buffer, *due), buffered_since=since)


def _poll_failed(state: State, event: PollFailed, limits: Limits) -> tuple[State, list[Command]]:
    if isinstance(event.error, OffsetsLost):
        return replace(state, exit_code=EXIT_OFFSETS_LOST, exit_reason=str(event.error)), []
    if isinstance(event.error, ProducerFenced):
        return replace(state, exit_code=EXIT_FENCED, exit_reason=str(event.error)), []
    return replace(state, waiting=_wait_longer(state, event.now, "kafka", event.error, event.jitter, limits)), []


def _computed(state: State, event: ComputeReturned, limits: Limits) -> tuple[State, list[Command]]:
    batch = state.computing
    if batch is None or batch.number != event.number:
        return state, []
    outcome = event.outcome
    if isinstance(outcome, BatchResult):
        return _result(replace(state, computing=None, waiting=None), batch, outcome, limits)
    if isinstance(outcome, (DependencyDown, ConfigurationError)):
        name = outcome.dependency if isinstance(outcome, DependencyDown) else "configuration"
        waiting = replace(_wait_longer(state, event.now, name, outcome, event.jitter, limits), recompute=True)
        return replace(state, computing=replace(batch, attempt=batch.attempt + 1), waiting=waiting), []
    reason = f"the batch could not be computed: {type(outcome).__name__}: {outcome}"
    return replace(state, exit_code=EXIT_BUG, exit_reason=reason), []


def _result(state: State, batch: Batch, result: BatchResult, limits: Limits) -> tuple[State, list[Command]]:
    """Take the result to be committed, unless it is one dead letter too many: then nothing of it is written."""
    recent = [*state.recent, (len(batch.records), result.faults)]
    while sum(count for count, _ in recent[1:]) >= limits.dead_letter_window:
        recent.pop(0)
    seen = sum(count for count, _ in recent)
    faults = sum(faulty for _, faulty in recent)
    if result.faults and seen >= limits.dead_letter_window and faults > limits.dead_letter_share * seen:
        doomed, commands = _doom(state)
        stopped = f"{faults} of the last {seen} records were given up for a fault that is hardly theirs"
        return replace(doomed, stopped=stopped, recent=(), recovery=("rewind",)), commands
    return replace(state, computed=(batch, result), recent=tuple(recent)), []


def _wait_longer(
    state: State, now: float, dependency: str, error: HeadraceError, jitter: float, limits: Limits
) -> Waiting:
    """Back off exponentially with full jitter over the upper half, or as long as the dependency asked for."""
    failures = state.waiting.failures + 1 if state.waiting else 1
    longest = min(limits.backoff_max_s, limits.backoff_s * 2.0 ** min(failures - 1, 30))
    delay = longest * (0.5 + 0.5 * jitter)
    asked = getattr(error, "delay", None)
    recompute = state.waiting is not None and state.waiting.recompute
    return Waiting(str(error), dependency, now + max(delay, asked or 0.0), failures, recompute)


def _committed(state: State, event: CommitReturned, limits: Limits) -> tuple[State, list[Command]]:
    if event.error is None:
        return _proven(replace(state, yield_until=_yield_until(state, event.now, limits), commit_failures=0)), []
    if isinstance(event.error, ProducerFenced):
        return replace(state, exit_code=EXIT_FENCED, exit_reason=str(event.error)), []
    doomed, commands = _doom(state)
    uncertain = isinstance(event.error, TransactionUncertain)
    failures = state.commit_failures + 1
    waiting = _wait_to_commit(event.error, event.now, failures, limits) if failures > 1 else None
    recovery = ("renew", "rewind") if uncertain else ("rewind",)
    return replace(doomed, recovery=recovery, waiting=waiting, commit_failures=failures), commands


def _wait_to_commit(error: BrokerError, now: float, failures: int, limits: Limits) -> Waiting:
    """Back off where commits fail in a row; a single one is an everyday rebalance."""
    delay = min(limits.backoff_max_s, limits.backoff_s * 2.0 ** min(failures - 2, 30))
    return Waiting(f"{failures} commits in a row failed: {error}", "kafka", now + delay, failures)


def _recovered(state: State, event: RecoveryReturned, limits: Limits) -> tuple[State, list[Command]]:
    if event.error is None:
        return replace(state, recovery=state.recovery[1:], waiting=None), []
    if isinstance(event.error, (ProducerFenced, OffsetsLost)):
        code = EXIT_FENCED if isinstance(event.error, ProducerFenced) else EXIT_OFFSETS_LOST
        return replace(state, exit_code=code, exit_reason=str(event.error)), []
    return replace(state, waiting=_wait_longer(state, event.now, "kafka", event.error, event.jitter, limits)), []


def _proven(state: State) -> State:
    """Take the committed batch out; its partitions are proven, or taken record by record up to their mark's end."""
    assert state.computed is not None
    unproven = dict(state.unproven)
    for place, mark in state.computed[0].marks.items():
        at = state.computed[0].records[-1].offset + 1
        if mark.records == 1 and at < mark.until:
            unproven[place] = Mark(0, 1, mark.until, at)
        else:
            unproven.pop(place, None)
    return replace(state, computed=None, unproven=unproven)


def _yield_until(state: State, now: float, limits: Limits) -> float:
    """Return until when replayed records leave a busy live lane its share, after a batch of them was committed."""
    if state.computed is None or state.computed[0].records[-1].topic != limits.replay_topic:
        return state.yield_until
    took = now - state.computed[0].sealed_at
    return now + took * (1 - limits.replay_share) / limits.replay_share


def _doom(state: State) -> tuple[State, list[Command]]:
    commands: list[Command] = [] if state.computing is None else [Cancel(state.computing.number)]
    clean = replace(state, buffer=(), parked=(), snapshot=None, computing=None, computed=None, waiting=None)
    return clean, commands


def _advance(state: State, now: float, limits: Limits) -> tuple[State, list[Command]]:
    """Go on as far as the state allows: recover, compute again, seal, commit, or finish."""
    if state.waiting is not None and now < state.waiting.until:
        return _finish_if_drained(state, now), []
    if state.recovery:
        return state, [Recover(state.recovery[0])]
    if state.waiting is not None and state.waiting.recompute and state.computing is not None:
        waiting = replace(state.waiting, until=float("inf"), recompute=False)
        return replace(state, waiting=waiting), [Compute(state.computing)]
    commands: list[Command] = []
    state = _unpark(replace(state, waiting=None), now)
    if state.computing is None and _ready(state, now, limits):
        state, batch = _seal(state, now, limits)
        commands.append(Compute(batch))
    if state.computed is not None:
        commands.append(Commit(*state.computed))
    return _finish_if_drained(state, now), commands


def _fetching(state: State, now: float, limits: Limits) -> tuple[State, list[Command]]:
    """Stop fetching where records would pile up, and start again where they would not; polls go on in any case."""
    held = state.exit_code is None and _must_hold(state, now, limits)
    if held == state.held:
        return state, []
    return replace(state, held=held), [Hold() if held else Release()]


def _must_hold(state: State, now: float, limits: Limits) -> bool:
    if state.paused is not None or state.stopped is not None:
        return True
    if len(state.parked) >= limits.parked_records or _parked_bytes(state) >= limits.parked_bytes:
        return True
    full = _full(state, limits)
    if state.computing is None:
        return full and _yields(state, now, limits)
    again = state.computing.attempt > 1
    return again or (full and now - state.computing.sealed_at >= HOLD_AFTER_S)


def _full(state: State, limits: Limits) -> bool:
    """Whether the buffer holds a batch."""
    if len(state.buffer) >= limits.batch_records:
        return True
    return sum(len(record.value or b"") for record in state.buffer) >= limits.batch_bytes


def _parked_bytes(state: State) -> int:
    return sum(len(parked.record.value or b"") for parked in state.parked)


def _yields(state: State, now: float, limits: Limits) -> bool:
    """Whether the buffer holds nothing but replayed records, and those wait for the live lane."""
    if not state.live_busy or now >= state.yield_until:
        return False
    return all(record.topic == limits.replay_topic for record in state.buffer)


def _ready(state: State, now: float, limits: Limits) -> bool:
    if not state.buffer or state.draining_until is not None or state.paused is not None or state.stopped is not None:
        return False
    if _yields(state, now, limits):
        return False
    if state.computed is not None and any(record.place in state.unproven for record in state.buffer):
        return False  # a mark stands at the committed offset, and that is about to move
    return _full(state, limits) or now >= state.buffered_since + limits.linger_s


def _seal(state: State, now: float, limits: Limits) -> tuple[State, Batch]:
    count = size = 0
    most, bytes_most = _batch_bounds(state, limits)
    for record in state.buffer[:most]:
        size += len(record.value or b"")
        alone = _suspected(state.unproven.get(record.place))
        if count and (alone or size > bytes_most):
            break
        count += 1
        if alone:
            break
    records = state.buffer[:count]
    mark = state.unproven.get(records[0].place)
    deadly = mark is not None and count == 1 and mark.records == 1 and mark.begun >= limits.deaths
    marks = _marks(records, state.unproven)
    batch = Batch(state.next_number, records, state.snapshot, now, marks=marks, deadly=deadly)
    rest = state.buffer[count:]
    sealed = replace(state, buffer=rest, buffered_since=now, computing=batch, next_number=state.next_number + 1)
    return sealed, batch


def _batch_bounds(state: State, limits: Limits) -> tuple[int, int]:
    """Return the most records and bytes of the next batch."""
    if state.live_busy and state.buffer[0].topic == limits.replay_topic:
        return min(limits.batch_records, limits.replay_batch_records), limits.replay_batch_bytes
    return limits.batch_records, limits.batch_bytes


def _suspected(mark: Mark | None) -> bool:
    """Whether the records of the partition are taken one by one: a batch of them was begun too often."""
    return mark is not None and (mark.records == 1 or mark.begun >= BATCH_DEATHS)


def _marks(records: Sequence[Record], unproven: Mapping[TopicPartition, Mark | None]) -> dict[TopicPartition, Mark]:
    """Return the marks to write before the batch is computed."""
    marks: dict[TopicPartition, Mark] = {}
    for place in dict.fromkeys(record.place for record in records if record.place in unproven):
        own = [record.offset for record in records if record.place == place]
        found, until = unproven[place], own[-1] + 1
        if found is None:
            marks[place] = Mark(1, len(records), until, own[0])
        elif found.records > 1 and _suspected(found):
            marks[place] = Mark(1, 1, max(until, found.until), own[0])
        else:
            marks[place] = Mark(found.begun + 1, len(records), max(until, found.until), own[0])
    return marks


def _finish_if_drained(state: State, now: float) -> State:
    if state.draining_until is None:
        return state
    idle = state.computing is None and state.computed is None
    if idle or now >= state.draining_until:
        reason = "drained" if idle else "the time to drain is over; the next owner does the rest"
        return replace(state, exit_code=EXIT_DONE, exit_reason=reason)
    return state
