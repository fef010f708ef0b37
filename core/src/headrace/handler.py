"""The handler contract: one step of a stage, context in, context out.

A handler never mutates its input (it cannot: contexts are frozen), keeps no state between records that would change
a result, and says by the exception that it raises whether a failure is permanent or temporary
(:mod:`headrace.errors`). Content-based choices are pure functions inside a handler.

A handler names its record types once, as type arguments::

    class RedactCodenames(Handler[SourceDocument, SourceDocument]): ...

A delete has no payload and skips the handlers. A handler that also handles deletes says so in the type:
``Handler[SourceDocument | None, SourceDocument | None]`` is called for deletes too, and its payload is then None.

A package adds a handler through an entry point in the group ``headrace.handlers``, without a change to the core::

    [project.entry-points."headrace.handlers"]
    "chunker.redact-codenames" = "acme_headrace:RedactCodenames"
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Generic, Union, get_args, get_origin

from typing_extensions import TypeVar

from headrace.envelope import Context, Operation
from headrace.errors import HeadraceError, InvalidRecord

__all__ = [
    "READ_AGAIN",
    "BatchHandler",
    "Handler",
    "In",
    "Out",
    "check_payload",
]

In = TypeVar("In", default=Any)
"""The payload that a handler takes; Any for a base class that does not define it."""
Out = TypeVar("Out", default=Any)
"""The payload that a handler returns."""

READ_AGAIN: ContextVar[bool] = ContextVar("READ_AGAIN", default=False)
"""Whether the current records are read again (retried, deferred, replayed), and so delay no live records.

It may influence when a record is processed (:class:`~headrace.errors.Deferred`), never the result.
"""


class Handler(ABC, Generic[In, Out]):
    """One step in a stage, record by record: takes a payload ``In``, returns a payload ``Out``.

    The class is called without arguments; values such as a URL come from its own settings (environment).
    A subclass without type arguments, or with others than classes of :mod:`headrace.payloads`, raises TypeError
    when Python defines it. In annotations plain ``Handler`` means any handler.
    """

    name: ClassVar[str]
    """Name in pipeline templates: ``[a-z][a-z0-9-]*``, unique within its stage."""
    version: ClassVar[str] = "1"
    """Recorded in the history of every record; increase it when results change."""
    stage: ClassVar[str]
    """The stage in which it runs."""
    consumes: ClassVar[type[object]]
    """The payload class of :mod:`headrace.payloads` that it takes: ``In``. Derived; do not declare it."""
    produces: ClassVar[type[object]]
    """The payload class that it returns: ``Out``; the same as ``In`` if it only changes or checks the record. Derived.
    """
    sees_deletes: ClassVar[bool] = False
    """Whether it is called for deletes: True if ``In`` allows None. Derived."""
    _arguments: ClassVar[tuple[object, object]]
    """``In`` and ``Out`` as this class binds them; type variables if it leaves them open."""

    def __init_subclass__(cls, **options: object) -> None:
        """Derive ``consumes``, ``produces`` and ``sees_deletes`` from the type arguments."""
        super().__init_subclass__(**options)
        declared = [name for name in ("consumes", "produces", "sees_deletes") if name in cls.__dict__]
        if declared:
            raise TypeError(
                f"handler {cls.__qualname__} declares {', '.join(declared)}, which Headrace derives from its type "
                "arguments. "
                f"Delete them and write `class {cls.__name__}(Handler[SourceDocument, ChunkedDocument])`"
            )
        cls._arguments = _bound(cls)
        if _parameters(cls):  # still generic: a base class of handlers
            return
        cls.consumes, cls.sees_deletes = _record_type(cls, cls._arguments[0])
        cls.produces, _ = _record_type(cls, cls._arguments[1])

    @property
    def identity(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    async def start(self) -> None:
        """Open what the handler needs, once, on the loop that later calls :meth:`process`.

        May raise :class:`headrace.errors.DependencyDown`: the stage waits and calls again.
        """

    async def close(self) -> None:
        """Close what :meth:`start` opened; called once, also after a failed start."""

    def validate(self, context: Context[In]) -> None:
        """Reject records that cannot be processed, before any work; raises :class:`headrace.errors.PermanentError`."""

    @abstractmethod
    async def process(self, context: Context[In]) -> Context[Out]:
        """Return the context with this step's result.

        It may await, and it may compute: polling continues in another thread. It runs outside any transaction and may
        run again for the same record, so effects outside must be repeatable. Raises
        :class:`~headrace.errors.PermanentError`, :class:`~headrace.errors.TemporaryError` (or its
        :class:`~headrace.errors.Deferred`), :class:`~headrace.errors.SetAside` or
        :class:`~headrace.errors.DependencyDown`; anything else sends this record to the dead letters with its stack.
        """


def _bound(cls: type[Handler]) -> tuple[object, object]:
    """Return the class's ``In`` and ``Out``: those of its handler base class, with its type arguments filled in."""
    for base in getattr(cls, "__orig_bases__", ()) if "__orig_bases__" in cls.__dict__ else ():
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Handler):
            given = dict(zip(_parameters(origin), get_args(base), strict=True))
            first, second = getattr(origin, "_arguments", _parameters(Handler))
            return given.get(first, first), given.get(second, second)
    first, second = getattr(cls, "_arguments", _parameters(Handler))
    return first, second


def _parameters(cls: type[object]) -> tuple[object, ...]:
    """Return the type variables that the class leaves open."""
    parameters: tuple[object, ...] = getattr(cls, "__parameters__", ())
    return parameters


def _record_type(cls: type[Handler], argument: object) -> tuple[type[object], bool]:
    """Return the payload class that a type argument names, and whether it allows None; raises TypeError."""
    branches = get_args(argument) if get_origin(argument) in (Union, UnionType) else (argument,)
    classes = [branch for branch in branches if branch is not NoneType]
    if len(classes) == 1 and isinstance(classes[0], type) and is_dataclass(classes[0]):
        return classes[0], NoneType in branches
    given = "has no type arguments" if isinstance(argument, TypeVar) else f"has the type argument {argument!r}"
    raise TypeError(
        f"handler {cls.__qualname__} {given}. Name the payload class that it takes and the one that it returns, "
        f"each with `| None` if it handles deletes: `class {cls.__name__}(Handler[SourceDocument, ChunkedDocument])`"
    )


class BatchHandler(Handler[In, Out]):
    """One step in a stage for many records at once, if that is cheaper: a model, a database."""

    @abstractmethod
    async def process_batch(self, contexts: Sequence[Context[In]]) -> Sequence[Context[Out] | HeadraceError]:
        """Return one result for each context, in order: the context, or the error that concerns it alone.

        Raising concerns the whole batch: :class:`~headrace.errors.DependencyDown` makes the stage wait; for any other
        exception, the batch is halved until the record at fault is alone.
        """

    async def process(self, context: Context[In]) -> Context[Out]:
        """Process one record as a batch of one."""
        result = (await self.process_batch([context]))[0]
        if isinstance(result, HeadraceError):
            raise result
        return result


def check_payload(handler: Handler, context: Context) -> None:
    """Raise :class:`InvalidRecord` if the payload does not match the handler's type.

    The runtime calls this before :meth:`Handler.validate`, so a handler can rely on the type of its payload.
    """
    payload = context.payload
    if isinstance(payload, handler.consumes):
        return
    if payload is not None:
        raise InvalidRecord(
            "payload", f"is a {type(payload).__name__}; {handler.identity} takes {handler.consumes.__name__}"
        )
    if not (handler.sees_deletes and context.change.operation is Operation.DELETE):
        raise InvalidRecord("payload", f"is missing; an upsert must carry a {handler.consumes.__name__}")
