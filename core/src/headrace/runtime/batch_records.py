"""The states of one record in a batch: decoded, fetched, handled, settled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.envelope import Context, Reference
from headrace.kafka.broker_contract import Record
from headrace.runtime.deadletters import Failure


class RecordState(StrEnum):
    """How far a record is; :class:`BatchRecord` shows the transitions."""

    READ = "read"
    DECODED = "decoded"
    """Its envelope is known. The payload may still be in the object store."""
    FETCHED = "fetched"
    """Its payload is available. Handlers process it in sequence."""
    HANDLED = "handled"
    """All handlers of the pipeline have processed it."""
    ENDED = "ended"
    """It failed, is held, or changes no document. No further handler processes it."""
    SETTLED = "settled"
    """Its result was handed over; it is no longer kept here."""


@dataclass(frozen=True, slots=True)
class Held:
    """The record is held: for which scope (``tenant/acme``), and why; with its context, if it was decoded."""

    scope: str
    why: str
    context: Context | None = None


@dataclass(frozen=True, slots=True)
class PassedOver:
    """The record changes no document and has no outcome."""


Result = Context | Failure | Held | PassedOver
"""The result of a record."""


class IllegalMove(RuntimeError):
    """The record's state does not allow this transition. The runtime is at fault, not the record."""


class BatchRecord:
    """A record, its state, and its current context.

    ::

        READ --decoded--> DECODED --fetched--> FETCHED --handled--> HANDLED --settle--> SETTLED
          |                  |                  |   ^                                      ^
          |                  |                  |   +-- changed (by each handler)          |
          +------------------+------------------+-----end, fail-----> ENDED ----settle-----+

    Every other transition raises :class:`IllegalMove`.
    """

    __slots__ = ("_result", "handlers", "record", "reference", "state")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.state = RecordState.READ
        self.reference: Reference | None = None
        """Where the payload is in the object store, until it is fetched."""
        self.handlers: tuple[str, ...] = ()
        """The handlers that ran, after all of them processed the record."""
        self._result: Result | None = None

    @property
    def context(self) -> Context:
        """The current context. Raises :class:`IllegalMove` if there is none: unread, ended or settled."""
        if isinstance(self._result, Context):
            return self._result
        raise IllegalMove(f"{self._place()} has no context in state {self.state}")

    def decoded(self, context: Context, reference: Reference | None = None) -> None:
        """Enter the decoded envelope; with ``reference``, the payload is still to be fetched."""
        self._leave(RecordState.READ, RecordState.DECODED)
        self._result, self.reference = context, reference

    def fetched(self, context: Context) -> None:
        """Enter the context with the fetched payload."""
        self._leave(RecordState.DECODED, RecordState.FETCHED)
        self._result, self.reference = context, None

    def changed(self, context: Context) -> None:
        """Enter the context that a handler returned."""
        self._leave(RecordState.FETCHED, RecordState.FETCHED)
        self._result = context

    def handled(self, handlers: tuple[str, ...]) -> None:
        """Note that all handlers of the pipeline processed it."""
        self._leave(RecordState.FETCHED, RecordState.HANDLED)
        self.handlers = handlers

    def fail(self, error: BaseException, handler: str | None = None) -> None:
        """End the record with this error, in this handler if any; the context is kept for the dead letter."""
        self.end(Failure(error, handler, self._result if isinstance(self._result, Context) else None))

    def end(self, reason: Failure | Held | PassedOver) -> None:
        """End the record; no further handler processes it."""
        if self.state not in (RecordState.READ, RecordState.DECODED, RecordState.FETCHED):
            raise self._illegal(RecordState.ENDED)
        self.state, self._result, self.reference = RecordState.ENDED, reason, None

    def settle(self) -> Result:
        """Hand over the record's result, once: payloads must not stay in memory longer than their part of the batch."""
        if self._result is None or self.state not in (RecordState.HANDLED, RecordState.ENDED):
            raise self._illegal(RecordState.SETTLED)
        result, self._result, self.state = self._result, None, RecordState.SETTLED
        return result

    def _leave(self, before: RecordState, after: RecordState) -> None:
        if self.state is not before:
            raise self._illegal(after)
        self.state = after

    def _illegal(self, after: RecordState) -> IllegalMove:
        return IllegalMove(f"{self._place()} cannot go from {self.state} to {after}")

    def _place(self) -> str:
        return f"record {self.record.offset} of {self.record.place}"
