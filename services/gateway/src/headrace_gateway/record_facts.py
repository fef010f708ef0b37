"""What a record between the stages says about its document: the stages that it passed, and who may read it."""

from __future__ import annotations

from typing import Any, NamedTuple

from headrace.codec.codec import Codec
from headrace.envelope import StageRun
from headrace.errors import PermanentError
from headrace.payloads import ChangeEvent

MAX_ENTRIES = 64
"""An ``acl`` of more entries counts as not known, so that the dead letters in memory have a limit."""


class RecordFacts(NamedTuple):
    """The history of a record, and its ``acl``; None if the record does not contain it or cannot be read."""

    history: tuple[StageRun, ...] = ()
    acl: tuple[str, ...] | None = None


def facts_of(codec: Codec, carries: type[Any], value: bytes | None) -> RecordFacts:
    """Return the facts of a record of this type.

    A change that is not in Avro, a deletion, a request for generation, and a payload in the object store have no
    ``acl`` here.
    """
    try:
        if carries is ChangeEvent:
            return RecordFacts(acl=_bounded(codec.decode_plain(value, ChangeEvent).acl))
        context, _ = codec.envelope(value, carries)
    except PermanentError:
        return RecordFacts()  # the stage itself reports it in a dead letter
    facts = getattr(context.payload, "facts", None)
    return RecordFacts(context.trace.history, None if facts is None else _bounded(facts.acl))


def _bounded(acl: tuple[str, ...]) -> tuple[str, ...] | None:
    return acl if len(acl) <= MAX_ENTRIES else None
