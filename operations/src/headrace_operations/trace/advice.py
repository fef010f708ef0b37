"""Advice for a version that is not in the index, with the exact command if there is one. Pure."""

from __future__ import annotations

import shlex

from headrace.errors import sentences
from headrace.orders.holds import PAUSE, REVIEW, ends
from headrace_operations.trace.model import Held, Letter, Place, VersionTrace

_BAD_INPUT = ("invalid-record", "undecodable")
"""Reasons for which the same record would always fail."""
_NOWHERE = (
    "No stage has it, and it is neither indexed nor dead-lettered: a stage is processing it, or its records expired."
)


def advice(tenant: str, document_id: str, trace: VersionTrace) -> tuple[str, ...]:
    """Return one line for each possible action; nothing if the version is indexed or superseded."""
    named = f"--document {shlex.quote(document_id)} --tenant {shlex.quote(tenant)}"
    if trace.state == "dead_lettered":
        return tuple(line for letter in trace.dead_letters if letter.state == "open" for line in _of_letter(letter))
    if trace.state == "in_flight":
        return tuple(dict.fromkeys(_of_place(place) for place in trace.waiting))
    if trace.state == "discarded":
        return ("Its dead letter was discarded. Send the document again if you need it.",)
    if trace.state == "unknown":
        return (f"{_NOWHERE} If this does not change: headrace replay start --stage chunker {named}",)
    return ()


def _of_letter(letter: Letter) -> list[str]:
    if letter.reason in _BAD_INPUT:
        remedy = letter.remedy or "Correct the document and send it again."
        return [sentences(remedy, f"Then: headrace dlq discard {letter.id} --why REASON")]
    remedy = letter.remedy or "Fix the cause that the message names."
    return [sentences(remedy, f"Then: headrace dlq redrive {letter.id}")]


def _of_place(place: Place) -> str:
    if place.held is not None:
        return _of_held(place.held)
    if place.paused:
        return f"The stage {place.stage} is {place.paused}. headrace resume --stage {place.stage}"
    if place.lane == "retry":
        return f"Nothing to do: {place.stage} retries it by itself. To see why it failed: headrace logs {place.stage}"
    return f"Nothing to do if {place.stage} makes progress. To check: headrace status"


def _of_held(held: Held) -> str:
    first = {REVIEW: "Review it, then", PAUSE: "To end the pause"}.get(held.kind, "To allow more spending")
    return f"{first}: {ends(held.kind, held.scope, held.id)}"
