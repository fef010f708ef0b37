"""Redrives and discards dead letters: writes the record and its action in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.topology.topics import retry_topic
from headrace_operations.actions import ActionRequest, Actions, Progress
from headrace_operations.dead_letters import messages
from headrace_operations.dead_letters.log import DeadLetterLog, Found
from headrace_operations.dead_letters.model import (
    ANY_STATE,
    DEAD_LETTERS,
    Entry,
    Id,
    RefusedDeadLetter,
    Selection,
    State,
)
from headrace_operations.transactions import Produce, naming

REDRIVEN = "REDRIVEN"
DISCARDED = "DISCARDED"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request covers: the dead letters ``taken``, and those ``refused``, each with the reason."""

    taken: Sequence[Entry]
    refused: Sequence[tuple[Entry, str]]


def plan(entries: Sequence[Entry], request: ActionRequest, *, named: bool) -> Plan:
    """Return what the request does with the selected dead letters.

    A dead letter without the complete record that its stage read cannot be redriven. ``named`` means that they were
    selected by ID: then one that already has an action or cannot be redriven is an error, before anything is written.
    Raises :class:`RefusedDeadLetter`.
    """
    refused = [(entry, why) for entry in entries if (why := _refusal(entry, request)) is not None]
    if named and refused:
        entry, why = refused[0]
        raise RefusedDeadLetter(f"{entry.id}: {why}", remedy=_remedy(entry, request))
    without = {entry.id for entry, _ in refused}
    return Plan([entry for entry in entries if entry.id not in without], refused)


def _refusal(entry: Entry, request: ActionRequest) -> str | None:
    if entry.state is not State.OPEN and not request.again and entry.action is not None:
        done = f"{entry.state} by {entry.action.acted_by} at {entry.action.acted_at.isoformat(timespec='seconds')}"
        return f"was {done}"
    return entry.whole if request.action == REDRIVEN else None


def _remedy(entry: Entry, request: ActionRequest) -> str:
    if request.action == REDRIVEN and entry.whole == messages.ORDER:
        return entry.remedy
    if request.action == REDRIVEN and entry.whole is not None:
        place = f"replay its stage from {entry.origin}" if entry.origin else "find out who wrote it"
        return f"Let the source send the document again, or {place}. Then discard this dead letter."
    return "Use --again to redrive it anyway." if request.action == REDRIVEN else "It needs no further action."


class Actor:
    """Redrives and discards dead letters. Only one command runs at a time: a second one fences the first.

    Every method raises :class:`DependencyDown` if Kafka does not answer. What was committed before stays, and the next
    command does not do it twice.
    """

    def __init__(self, kafka: KafkaSettings, codec: Codec) -> None:
        self._kafka = kafka
        self._codec = codec
        self._log = DeadLetterLog(kafka, codec)
        self._actions = Actions(kafka, codec, DEAD_LETTERS)

    def carry_out(
        self,
        chosen: Sequence[Entry],
        request: ActionRequest,
        progress: Progress = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> list[Id]:
        """Carry out the request, and return the IDs of the dead letters that it acted on.

        It skips dead letters that another command acted on in the meantime.
        """
        if not chosen:
            return []
        states = ANY_STATE if request.again else frozenset({State.OPEN})
        selection = Selection(ids=frozenset(entry.id for entry in chosen), states=states)
        done: list[Id] = []

        def note(batch: Sequence[Found]) -> None:
            done.extend(found.entry.id for found in batch)
            progress(len(batch))

        verb = "redriven" if request.action == REDRIVEN else "discarded"
        self._actions.carry_out(
            lambda take: self._log.read(selection, take),
            lambda produce, found: self._write(produce, found, request, now()),
            lambda found: found.entry.size,
            note,
            lambda: f"{len(done)} dead letters were {verb}",
        )
        return done

    def _write(self, produce: Produce, found: Found, request: ActionRequest, now: datetime) -> None:
        identity, letter = found.entry.id, found.letter
        if request.action == REDRIVEN:
            if letter is None:
                raise RefusedDeadLetter(f"{identity}: {found.entry.whole}")
            again = messages.retry_headers(identity, letter, self._kafka, now_ms=int(now.timestamp() * 1000))
            with naming(str(identity)):
                produce(
                    retry_topic(identity.stage), value=letter.value, key=messages.retry_key(letter, self._kafka),
                    headers=list(again),
                )  # fmt: skip
        self._actions.note(produce, identity, request, now)
