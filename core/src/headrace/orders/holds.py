"""Why a record is held in ``held.<stage>``, and which command releases it; pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.embeddings.costs import CAP_SCOPE
from headrace.kafka.headers import HELD_AT, HELD_FOR, HELD_KIND, HELD_WHY

PAUSE = "pause"
REVIEW = "review"
CAP = CAP_SCOPE
"""A pause because of a spending cap: its records have the kind pause, and the cap as their scope (``cap/acme``)."""
KINDS = (PAUSE, CAP, REVIEW)
_LONGEST_NUMBER = 15
"""Maximum digits of a time that fits a date; longer times are ignored."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a record is held: ``kind`` (pause, cap or review), ``scope`` (``tenant/acme``), ``ends`` (the command).

    ``since_ms`` is in milliseconds since 1970, or 0 if unknown.
    """

    kind: str
    scope: str
    why: str
    since_ms: int
    ends: str


def hold_of(headers: Mapping[str, str], identity: str) -> Hold:
    """Return why a record with these headers is held."""
    kind, scope, since = headers.get(HELD_KIND, PAUSE), headers.get(HELD_FOR, ""), headers.get(HELD_AT, "")
    return Hold(
        waits_for(kind, scope),
        scope,
        headers.get(HELD_WHY, ""),
        int(since) if since.isdecimal() and len(since) <= _LONGEST_NUMBER else 0,
        ends(kind, scope, identity),
    )


def waits_for(kind: str, scope: str) -> str:
    """Return what the record waits for; distinguishes a cap from a pause that an operator ordered."""
    return CAP if kind == PAUSE and scope.partition("/")[0] == CAP_SCOPE else kind


def ends(kind: str, scope: str, identity: str = "ID") -> str:
    """Return the command that releases the record; for a cap, preceded by what to do first."""
    if kind == REVIEW:
        return f"headrace review approve {identity} (or reject)"
    of, _, target = scope.partition("/")
    if of == CAP_SCOPE:
        return f"raise the cap of {target} in the file of HEADRACE_COST_FILE, then run headrace embeddings release"
    return f"headrace resume --{of} {shlex.quote(target)}"
