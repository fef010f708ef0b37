"""Errors that say what happened, where, and what to do about it.

A handler says by the class that it raises what should happen to the record:
:class:`PermanentError` dead-letters the record, :class:`TemporaryError` retries it, :class:`Deferred` lets other
records go first, :class:`SetAside` holds it until it is released, and :class:`DependencyDown` makes the stage wait,
because no record is at fault.
Any other exception that a handler raises is unforeseen: it dead-letters that record.
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
"""Characters that end a sentence."""


class HeadraceError(Exception):
    """Something went wrong in Headrace.

    The first line of a subclass's docstring is its default message; ``remedy`` says what the reader can do;
    ``where`` says where it happened (``topic=… partition=… offset=…``, ``file:line:column``, a field, a setting).
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
    """This record can never be processed; retries cannot help.

    ``senders_fault`` is true if the record itself is invalid. All other errors count against the stage: too many of
    them stop it, because the cause is then more likely the stage or its environment.
    """

    code = "permanent"
    senders_fault = False


class InvalidRecord(PermanentError):
    """A field of the record is invalid."""

    code = "invalid-record"
    senders_fault = True

    def __init__(self, field: str, reason: str, *, where: str = "", remedy: str = "") -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}", where=where, remedy=remedy)


class UndecodableRecord(PermanentError):
    """The record does not decode with the schema that it names."""

    code = "undecodable"


class UnknownPipeline(PermanentError):
    """The record names a pipeline that was never applied."""

    code = "unknown-pipeline"
    default_remedy = "Apply it with `headrace pipeline apply FILE`, then redrive or resend the record."


class NoChange(Exception):  # nothing failed
    """The record changes no document: a tombstone, a heartbeat. It is skipped and counted."""


class DeadlyRecord(PermanentError):
    """The worker crashed every time it processed this record."""

    code = "deadly"
    default_remedy = (
        "Find what ended the process (out of memory, a crash in native code) in its last log lines and the kernel log. "
        "Fix the cause, then redrive the dead letter with `headrace dlq redrive`."
    )


class MetadataError(PermanentError):
    """A handler broke a rule for the envelope's metadata."""

    code = "metadata"


LONGEST_DELAY_S = 600.0
"""Longest delay in seconds that another system can ask for, because a header can name any number."""


def _bounded(delay: float | None) -> float | None:
    return None if delay is None or math.isnan(delay) else min(max(delay, 0.0), LONGEST_DELAY_S)


class TemporaryError(HeadraceError):
    """This record failed temporarily; a retry may succeed."""

    code = "temporary"

    def __init__(self, message: str = "", *, delay: float | None = None, where: str = "", remedy: str = "") -> None:
        self.delay = _bounded(delay)
        super().__init__(message, where=where, remedy=remedy)


class Deferred(TemporaryError):
    """This record gives way to other records.

    Nothing failed: the stage reads it again after the records ahead of it, or after ``delay`` seconds, as the same
    attempt.
    """

    code = "deferred"


class SetAside(HeadraceError):
    """This record is held until it is released.

    It goes unchanged to the held records of its stage. A command releases it by its ``scope``, a word with a target
    (``cap/acme``).
    """

    code = "set-aside"

    def __init__(self, scope: str, message: str = "", *, remedy: str = "") -> None:
        self.scope = scope
        super().__init__(message, where=scope, remedy=remedy)


class DependencyDown(HeadraceError):
    """A system that this stage needs does not answer; no record is at fault.

    ``delay`` is the number of seconds that the dependency itself asked for (Retry-After), if any, at most
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
    """A position in a text; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class TemplateError(HeadraceError):
    """A pipeline template is invalid."""

    code = "template"

    def __init__(self, reason: str, message: str, position: SourcePosition, *, remedy: str = "") -> None:
        self.reason = reason
        self.position = position
        super().__init__(message, where=str(position), remedy=remedy)


def sentences(*parts: str | None) -> str:
    """Join the parts that are not empty into one text; add a full stop to each but the last if it has none."""
    said = [part.strip() for part in parts if part and part.strip()]
    return " ".join([*(part if part.endswith(_ENDS) else f"{part}." for part in said[:-1]), *said[-1:]])


def describe(error: BaseException) -> str:
    """Return an exception's message, or its class name if the message is empty (as with TimeoutError)."""
    return str(error) or type(error).__name__
