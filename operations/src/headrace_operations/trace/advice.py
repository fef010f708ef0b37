"""What to do about a version that has not arrived, as the exact command where there is one; pure."""

from __future__ import annotations

import shlex

from headrace.errors import sentences
from headrace.orders.holds import PAUSE, REVIEW, ends
from headrace_operations.trace.model import Held, Letter, Place, VersionTrace

_BAD_INPUT = ("invalid-record", "undecodable")
"""Reasons for which the same record would fail for ever."""
_NOWHERE = (
    "No stage has it, and it is neither indexed nor given up: it is under way this moment, or its records aged out."
)


def advice(tenant: str, document_id: str, trace: VersionTrace) -> tuple[str, ...]:
    """Return one line for each thing that can be done; nothing where the version arrived or was overtaken."""
    named = f"--document {shlex.quote(document_id)} --tenant {shlex.quote(tenant)}"
    if trace.state == "dead_lettered":
        return tuple(line for letter in trace.dead_letters if letter.state == "open" for line in _of_letter(letter))
    if trace.state == "in_flight":
        return tuple(dict.fromkeys(_of_place(place) for place in trace.waiting))
    if trace.state == "discarded":
        return ("It was discarded on purpose. Send the document again if it is wanted after all.",)
    if trace.state == "unknown":
        return (f"{_NOWHERE} If it stays so: headrace replay start --stage chunker {named}",)
    return ()


def _of_letter(letter: Letter) -> list[str]:
    if letter.reason in _BAD_INPUT:
        remedy = letter.remedy or "Repair the document and send it again."
        return [sentences(remedy, f"Then: headrace dlq discard {letter.id} --why REASON")]
    remedy = letter.remedy or "Repair what the message names."
    return [sentences(remedy, f"Then: headrace dlq redrive {letter.id}")]


def _of_place(place: Place) -> str:
    if place.held is not None:
        return _of_held(place.held)
    if place.paused:
        return f"The stage {place.stage} is {place.paused}. headrace resume --stage {place.stage}"
    if place.lane == "retry":
        return f"Nothing: {place.stage} takes it up again by itself. If it failed, why: headrace logs {place.stage}"
    return f"Nothing, where {place.stage} makes progress: headrace status"


def _of_held(held: Held) -> str:
    first = {REVIEW: "Look at it, then", PAUSE: "When the pause may end"}.get(held.kind, "When more may be spent")
    return f"{first}: {ends(held.kind, held.scope, held.id)}"
