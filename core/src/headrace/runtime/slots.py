"""One record of a batch on its way: decoded, fetched, handled, settled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from headrace.envelope import Context, Reference
from headrace.kafka.broker_contract import Record
from headrace.runtime.deadletters import Failure


class SlotState(StrEnum):
    """How far a record is; :class:`Slot` draws the moves."""

    READ = "read"
    DECODED = "decoded"
    """Its envelope is known. The payload may still lie in the object store."""
    FETCHED = "fetched"
    """Its payload is there. Handlers see it, one after the other."""
    HANDLED = "handled"
    """The pipeline's last handler let it through."""
    ENDED = "ended"
    """It failed, waits for a person or tells of no document. No handler sees it any more."""
    SETTLED = "settled"
    """What came of it was handed over, and the slot holds it no longer."""


@dataclass(frozen=True, slots=True)
class Held:
    """The record waits to be released: for which scope (``tenant/acme``), and why."""

    scope: str
    why: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """The record tells of no document; nothing follows from it."""


Result = Context | Failure | Held | PassedOver
"""What came of a record."""


class IllegalMove(RuntimeError):
    """A slot was asked for a move that its state does not allow: an error of the runtime's, not of the record."""


class Slot:
    """A record, how far it is, and what it is by now.

    ::

        READ --decoded--> DECODED --fetched--> FETCHED --handled--> HANDLED --settle--> SETTLED
          |                  |                  |   ^                                      ^
          |                  |                  |   +-- changed (by each handler)          |
          +------------------+------------------+-----end, fail-----> ENDED ----settle-----+

    Every other move raises :class:`IllegalMove`.
    """

    __slots__ = ("_result", "handlers", "record", "reference", "state")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.state = SlotState.READ
        self.reference: Reference | None = None
        """Where the payload lies in the object store, until it is fetched."""
        self.handlers: tuple[str, ...] = ()
        """The handlers that ran, once all of them let the record through."""
        self._result: Result | None = None

    @property
    def context(self) -> Context:
        """The document as it is by now. Raises :class:`IllegalMove` where there is none: unread, ended or settled."""
        if isinstance(self._result, Context):
            return self._result
        raise IllegalMove(f"{self._place()} has no context in state {self.state}")

    def decoded(self, context: Context, reference: Reference | None = None) -> None:
        """Its envelope is known; with ``reference``, the payload lies there."""
        self._leave(SlotState.READ, SlotState.DECODED)
        self._result, self.reference = context, reference

    def fetched(self, context: Context) -> None:
        """Its payload is in ``context``."""
        self._leave(SlotState.DECODED, SlotState.FETCHED)
        self._result, self.reference = context, None

    def changed(self, context: Context) -> None:
        """A handler made this of it."""
        self._leave(SlotState.FETCHED, SlotState.FETCHED)
        self._result = context

    def handled(self, handlers: tuple[str, ...]) -> None:
        """All handlers of the pipeline let it through."""
        self._leave(SlotState.FETCHED, SlotState.HANDLED)
        self.handlers = handlers

    def fail(self, error: BaseException, handler: str | None = None) -> None:
        """It ends here, for this error, at this handler if at any; the context is kept for whoever repairs it."""
        self.end(Failure(error, handler, self._result if isinstance(self._result, Context) else None))

    def end(self, reason: Failure | Held | PassedOver) -> None:
        """It ends here; no handler sees it any more."""
        if self.state not in (SlotState.READ, SlotState.DECODED, SlotState.FETCHED):
            raise self._illegal(SlotState.ENDED)
        self.state, self._result, self.reference = SlotState.ENDED, reason, None

    def settle(self) -> Result:
        """Hand over what came of the record, once: payloads of a batch must not outlive their part of it."""
        if self._result is None or self.state not in (SlotState.HANDLED, SlotState.ENDED):
            raise self._illegal(SlotState.SETTLED)
        result, self._result, self.state = self._result, None, SlotState.SETTLED
        return result

    def _leave(self, before: SlotState, after: SlotState) -> None:
        if self.state is not before:
            raise self._illegal(after)
        self.state = after

    def _illegal(self, after: SlotState) -> IllegalMove:
        return IllegalMove(f"{self._place()} cannot go from {self.state} to {after}")

    def _place(self) -> str:
        return f"record {self.record.offset} of {self.record.place}"
