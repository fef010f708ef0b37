"""The handler contract: one step of a stage, context in, context out.

A handler never mutates its input (it cannot: contexts are frozen), keeps no state between records that would change
a result, and says by the exception that it raises whether a failure is permanent or temporary
(:mod:`headrace.errors`). Content-based choices are pure functions inside a handler.

A package adds a handler by an entry point in the group ``headrace.handlers``; nothing of the core changes::

    [project.entry-points."headrace.handlers"]
    "chunker.redact-codenames" = "acme_headrace:RedactCodenames"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from typing import ClassVar

from headrace.envelope import Context
from headrace.errors import HeadraceError

READ_AGAIN: ContextVar[bool] = ContextVar("READ_AGAIN", default=False)
"""Whether the records under way are read again (retried, deferred, replayed), and so hold up nothing live.

It may guide when a record is worked on (:class:`~headrace.errors.Deferred`), never what it becomes.
"""


class Handler(ABC):
    """One step in a stage, record by record.

    The class is called without arguments; values such as a URL come from its own settings (environment).
    """

    name: ClassVar[str]
    """What templates call it: ``[a-z][a-z0-9-]*``, unique in its stage."""
    version: ClassVar[str] = "1"
    """Stands in the history of every record; raise it when results change."""
    stage: ClassVar[str]
    """The stage that it runs in."""
    consumes: ClassVar[type]
    """Payload class of :mod:`headrace.payloads` that it takes."""
    produces: ClassVar[type]
    """Payload class that it returns; the same where it only changes or checks the record."""
    sees_deletes: ClassVar[bool] = False
    """Deletes carry no payload and pass handlers by, save those that ask for them."""

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    async def start(self) -> None:  # noqa: B027
        """Open what the handler needs, once, on the loop that later calls :meth:`process`.

        May raise :class:`headrace.errors.DependencyDown`: the stage waits and calls again.
        """

    async def close(self) -> None:  # noqa: B027
        """Close what :meth:`start` opened; called once, also after a failed start."""

    def validate(self, context: Context) -> None:  # noqa: B027
        """Refuse what can never be processed, before any work; raises :class:`headrace.errors.PermanentError`."""

    @abstractmethod
    async def process(self, context: Context) -> Context:
        """Return the context with this step's result.

        It may await, and it may compute: polling goes on in another thread. It runs outside any transaction and may
        run again for the same record, so effects outside must be repeatable. Raises
        :class:`~headrace.errors.PermanentError`, :class:`~headrace.errors.TemporaryError` (or its
        :class:`~headrace.errors.Deferred`), :class:`~headrace.errors.SetAside` or
        :class:`~headrace.errors.DependencyDown`; anything else sends this record to the dead letters with its stack.
        """


class BatchHandler(Handler):
    """One step in a stage for many records at once, where that is cheaper: a model, a database."""

    @abstractmethod
    async def process_batch(self, contexts: Sequence[Context]) -> Sequence[Context | HeadraceError]:
        """Return one result for each context, in order: the context, or the error that concerns it alone.

        Raising concerns the whole batch: :class:`~headrace.errors.DependencyDown` pauses the stage, anything else
        has the batch halved until the record at fault stands alone.
        """

    async def process(self, context: Context) -> Context:
        """Process one record as a batch of one."""
        result = (await self.process_batch([context]))[0]
        if isinstance(result, HeadraceError):
            raise result
        return result
