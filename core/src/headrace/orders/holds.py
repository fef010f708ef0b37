"""Why a record waits in ``held.<stage>``, and what ends its waiting; pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.embeddings.costs import CAP_SCOPE
from headrace.kafka.headers import HELD_AT, HELD_FOR, HELD_KIND, HELD_WHY

PAUSE = "pause"
REVIEW = "review"
CAP = CAP_SCOPE
"""A pause that a cap on spending set: its records say pause, and the cap in their scope (``cap/acme``)."""
KINDS = (PAUSE, CAP, REVIEW)
_LONGEST_NUMBER = 15
"""Digits of a time that a date can be; others are not believed."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a record waits: ``kind`` is pause, cap or review, ``scope`` whose (``tenant/acme``), ``ends`` the command.

    ``since_ms`` is in milliseconds since 1970, 0 where the record does not tell it.
    """

    kind: str
    scope: str
    why: str
    since_ms: int
    ends: str


def hold_of(headers: Mapping[str, str], identity: str) -> Hold:
    """Return what a held record with these headers says of its waiting."""
    kind, scope, since = headers.get(HELD_KIND, PAUSE), headers.get(HELD_FOR, ""), headers.get(HELD_AT, "")
    return Hold(
        waits_for(kind, scope),
        scope,
        headers.get(HELD_WHY, ""),
        int(since) if since.isdecimal() and len(since) <= _LONGEST_NUMBER else 0,
        ends(kind, scope, identity),
    )


def waits_for(kind: str, scope: str) -> str:
    """Return what a record with these headers waits for: a cap is told from the pauses that a person ordered."""
    return CAP if kind == PAUSE and scope.partition("/")[0] == CAP_SCOPE else kind


def ends(kind: str, scope: str, identity: str = "ID") -> str:
    """Return what ends the waiting: the command, for a cap behind what comes first."""
    if kind == REVIEW:
        return f"headrace review approve {identity} (or reject)"
    of, _, target = scope.partition("/")
    if of == CAP_SCOPE:
        return f"raise the cap of {target} in the file of HEADRACE_COST_FILE, then run headrace embeddings release"
    return f"headrace resume --{of} {shlex.quote(target)}"
