"""Why a record waits in ``held.<stage>``, and what ends its waiting; pure."""

from __future__ import annotations

import shlex

from headrace.costs import CAP_SCOPE

PAUSE = "pause"
REVIEW = "review"
CAP = CAP_SCOPE
"""A pause that a cap on spending set: its records say pause, and the cap in their scope (``cap/acme``)."""
KINDS = (PAUSE, CAP, REVIEW)


def waits_for(kind: str, scope: str) -> str:
    """Return what a record with these headers waits for: a cap is told from the pauses that a person ordered."""
    return CAP if kind == PAUSE and scope.partition("/")[0] == CAP_SCOPE else kind


def ends(kind: str, scope: str, identity: str = "ID") -> str:
    """Return what ends the waiting: the command, for a cap behind what comes first."""
    if kind == REVIEW:
        return f"headrace review approve {identity} (or reject)"
    of, _, target = scope.partition("/")
    if of == CAP_SCOPE:
        return f"raise the cap of {target} in the file of HEADRACE_COST_FILE, then: headrace embeddings release"
    return f"headrace resume --{of} {shlex.quote(target)}"
