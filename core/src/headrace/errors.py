"""Errors that say what happened, where, and what to do about it.

A handler states by the class it raises whether a failure can pass:
:class:`PermanentError` sends the record to the dead letters, :class:`TemporaryError` has it tried
again, :class:`Deferred` has it stand back for others, :class:`SetAside` has it wait until it is released, and
:class:`DependencyDown` pauses the stage, because no record is to blame.
Anything else that escapes a handler is unforeseen and treated as permanent for that record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "LONGEST_DELAY_S",
    "ConfigurationError",
    "DeadlyRecord",
    "Deferred",
    "DependencyDown",
    "HeadraceError",
    "InvalidRecord",
    "MetadataError",
    "NoChange",
    "PermanentError",
    "SetAside",
    "SourcePosition",
    "TemplateError",
    "TemporaryError",
    "UndecodableRecord",
    "UnknownPipeline",
    "describe",
    "sentences",
]

_ENDS = (".", "!", "?", "…")
"""What ends a sentence."""


class HeadraceError(Exception):
    """Something went wrong in Headrace.

    The first line of a subclass's docstring is its default message; ``remedy`` says what the reader can do;
    ``where`` names the place (``topic=… partition=… offset=…``, ``file:line:column``, a field, a setting).
    """

    code = "error"
    default_remedy = ""

    def __init__(self, message: str = "", *, where: str = "", remedy: str = "") -> None:
        docstring = (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]
        self.message = message or docstring
        self.where = where
        self.remedy = remedy or self.default_remedy
        super().__init__(self.message)

    def __str__(self) -> str:
        said = f"{self.message} ({self.where})" if self.where else self.message
        return f"{said} {self.remedy}".rstrip() if self.message.endswith(_ENDS) else sentences(said, self.remedy)


class PermanentError(HeadraceError):
    """This record can never be processed, however often it is tried.

    ``senders_fault`` says whether its sender is to blame. Others count against the stage: too many of them stop it,
    because its own surroundings are more likely at fault.
    """

    code = "permanent"
    senders_fault = False


class InvalidRecord(PermanentError):
    """A field of the record breaks its rules."""

    code = "invalid-record"
    senders_fault = True

    def __init__(self, field: str, reason: str, *, where: str = "", remedy: str = "") -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}", where=where, remedy=remedy)


class UndecodableRecord(PermanentError):
    """The bytes of the record do not decode with the schema they name."""

    code = "undecodable"


class UnknownPipeline(PermanentError):
    """The record names a pipeline that was never applied."""

    code = "unknown-pipeline"
    default_remedy = "Apply it with `headrace pipeline apply FILE`, then send the record again."


class NoChange(Exception):  # nothing failed
    """The record tells of no document: a tombstone, a heartbeat. It is passed over and counted."""


class DeadlyRecord(PermanentError):
    """The worker died each time that it began this record."""

    code = "deadly"
    default_remedy = (
        "Look for what ended the process (memory, a crash in native code) in its last log lines and the kernel's; "
        "repair it, then send the record again with `headrace dlq redrive`."
    )


class MetadataError(PermanentError):
    """A handler broke the rules of the envelope's metadata."""

    code = "metadata"


LONGEST_DELAY_S = 600.0
"""Longest wait that another system can ask for; then it is asked again. A header can name any number."""


def _bounded(delay: float | None) -> float | None:
    return None if delay is None or math.isnan(delay) else min(max(delay, 0.0), LONGEST_DELAY_S)


class TemporaryError(HeadraceError):
    """This record failed for now and may work later."""

    code = "temporary"

    def __init__(self, message: str = "", *, delay: float | None = None, where: str = "", remedy: str = "") -> None:
        self.delay = _bounded(delay)
        super().__init__(message, where=where, remedy=remedy)


class Deferred(TemporaryError):
    """This record stands back for others.

    Nothing failed: it is read again after those that wait before it, or after ``delay`` seconds, as the same attempt.
    """

    code = "deferred"


class SetAside(HeadraceError):
    """This record waits until somebody releases what it waits for.

    It goes to the held records of its stage, as it was; ``scope`` is a word with a target (``cap/acme``), by which it
    is released.
    """

    code = "set-aside"

    def __init__(self, scope: str, message: str = "", *, remedy: str = "") -> None:
        self.scope = scope
        super().__init__(message, where=scope, remedy=remedy)


class DependencyDown(HeadraceError):
    """A system that this stage needs does not answer; no record is to blame.

    ``delay`` is the number of seconds that the dependency itself asked for (Retry-After), if any, and no more than
    :data:`LONGEST_DELAY_S`.
    """

    code = "dependency-down"

    def __init__(self, dependency: str, message: str = "", *, delay: float | None = None, remedy: str = "") -> None:
        self.dependency = dependency
        self.delay = _bounded(delay)
        super().__init__(message or f"{dependency} does not answer", where=dependency, remedy=remedy)


class ConfigurationError(HeadraceError):
    """A setting is missing or wrong."""

    code = "configuration"


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where in a text something stands; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class TemplateError(HeadraceError):
    """A pipeline template is refused."""

    code = "template"

    def __init__(self, reason: str, message: str, position: SourcePosition, *, remedy: str = "") -> None:
        self.reason = reason
        self.position = position
        super().__init__(message, where=str(position), remedy=remedy)


def sentences(*parts: str | None) -> str:
    """Return the parts that say something as one text: each but the last ends as a sentence does."""
    said = [part.strip() for part in parts if part and part.strip()]
    return " ".join([*(part if part.endswith(_ENDS) else f"{part}." for part in said[:-1]), *said[-1:]])


def describe(error: BaseException) -> str:
    """Return what an exception says, or its name where it says nothing (as TimeoutError does)."""
    return str(error) or type(error).__name__
