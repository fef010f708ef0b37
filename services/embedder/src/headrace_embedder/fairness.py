"""Decides which records go to a rate-limited provider now, and defers the others: no tenant waits behind a flood.

It only decides: the caller provides the clock and the state of the limits. See ADR 11.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from headrace_embedder.limits import Cost, Limits

_REST = ""
"""The common name of all tenants above the number to track; a tenant's name is never empty."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one record would use of the limits; nothing if all its texts are known."""

    tenant: str
    cost: Cost


@dataclass(slots=True)
class _Request:
    """A record's request, whether it is admitted, and the name under which its tenant is counted."""

    tenant: str
    cost: Cost
    admitted: bool
    name: str = _REST


@dataclass(slots=True)
class _Window:
    """What each tenant used in a period, in seconds of the limits, and which tenants had records deferred."""

    since: float
    taken: dict[str, float] = field(default_factory=dict)
    deferred: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Grant:
    """What a batch was granted in a window: the tenants' names, each with seconds of the limits."""

    window: _Window
    parts: list[tuple[str, float]] = field(default_factory=list)


class FairShare:
    """Shares the limits between tenants, batch by batch.

    Records that fit the limits immediately are admitted, whatever their tenant. A **live** record beyond that may make
    its batch wait only while its tenant is within its share of the window and had nothing deferred in this window or
    the last one. So a batch waits at most one window, and a flood is deferred as fast as it is read.
    Of the records that are **read again** (including deferred ones), one in ``passes`` is admitted in any case, in turn
    by tenant; the others give way to the records behind them.

    Not thread-safe.
    """

    def __init__(
        self, limits: Limits, *, window_s: float, passes: int, tenants: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._window_s = window_s
        self._passes = passes
        self._tenants = tenants
        self._clock = clock
        self._now = _Window(clock())
        self._before = _Window(self._now.since)
        self._promised: dict[bool, Cost] = {}
        """What the current batch of each lane was granted; the batch uses it up step by step."""
        self._granted: dict[bool, _Grant] = {}
        """To whom it was granted, until the batch ends."""

    def cost(self, texts: Sequence[str], together: int) -> Cost:
        """Return the cost of the texts if ``together`` texts share requests."""
        return self._limits.cost(texts, together)

    def choose(self, asked: Sequence[Asked], *, read_again: bool) -> list[bool]:
        """Return for each record of a batch whether it is admitted now; admitted records count as taken.

        At most one batch of live records and one of records read again may be in progress. End each with :meth:`done`
        or :meth:`give_back`; :meth:`granted` does that.
        """
        self._turn_window()
        granted = self._granted[read_again] = _Grant(self._now)
        requests = [_Request(one.tenant, one.cost, admitted=one.cost == Cost()) for one in asked]
        costly = [request for request in requests if not request.admitted]
        for request in costly:
            request.name = self._name(request.tenant)
        share = self._window_s / max(1, self.tracked())
        planned, others = Cost(), self._promised.get(not read_again, Cost())
        if read_again:
            for index in in_turn([request.tenant for request in costly], -(-len(costly) // self._passes)):
                planned += self._admit(costly[index], granted)
        for request in costly:
            if request.admitted:
                continue
            fits = self._limits.fits(others + planned + request.cost)
            if fits or (not read_again and self._within(share, request.name, request.cost)):
                planned += self._admit(request, granted)
            elif not read_again:  # a record that is deferred again does not indicate a new flood
                self._now.deferred.add(request.name)
        if granted.parts and planned.requests < 1:  # a request counts in full, however few of the texts are admitted
            planned += self._take(granted.parts[0][0], Cost(1 - planned.requests), granted)
        self._promised[read_again] = planned
        return [request.admitted for request in requests]

    @contextmanager
    def granted(self, *, read_again: bool) -> Iterator[None]:
        """Run the chosen batch in this block; if the block fails, give back what the batch was granted."""
        try:
            yield
        except BaseException:
            self.give_back(read_again=read_again)
            raise
        self.done(read_again=read_again)

    def done(self, *, read_again: bool) -> None:
        """End a batch that used what it was granted."""
        self._promised.pop(read_again, None)
        self._granted.pop(read_again, None)

    def give_back(self, *, read_again: bool) -> None:
        """End a batch that failed: it will be computed again, and must not count against its tenants twice.

        What it was granted in an earlier window does not change the current one.
        """
        grant = self._granted.get(read_again)
        if grant is not None:
            for name, seconds in grant.parts:
                grant.window.taken[name] = max(0.0, grant.window.taken[name] - seconds)
        self.done(read_again=read_again)

    def tracked(self) -> int:
        """Return how many tenants are counted separately now."""
        return len(self._now.taken.keys() | self._before.taken.keys())

    def _turn_window(self) -> None:
        now = self._clock()
        age = now - self._now.since
        if age >= self._window_s:
            self._before = self._now if age < 2 * self._window_s else _Window(now)
            self._now = _Window(now)

    def _name(self, tenant: str) -> str:
        """Return the name under which the tenant is counted, and track it as active in this window."""
        taken = self._now.taken
        name = tenant if tenant in taken or len(taken) < self._tenants else _REST
        taken.setdefault(name, 0.0)
        return name

    def _within(self, share: float, name: str, cost: Cost) -> bool:
        if name in self._now.deferred or name in self._before.deferred:
            return False
        return self._now.taken[name] + self._limits.seconds(cost) <= share

    def _admit(self, request: _Request, granted: _Grant) -> Cost:
        request.admitted = True
        return self._take(request.name, request.cost, granted)

    def _take(self, name: str, cost: Cost, granted: _Grant) -> Cost:
        seconds = self._limits.seconds(cost)
        self._now.taken[name] += seconds
        granted.parts.append((name, seconds))
        return cost


def in_turn(tenants: Sequence[str], count: int) -> list[int]:
    """Return ``count`` positions: the first of each tenant, then the second of each, and so on."""
    seen: dict[str, int] = {}
    rounds: list[tuple[int, int]] = []
    for position, tenant in enumerate(tenants):
        seen[tenant] = seen.get(tenant, 0) + 1
        rounds.append((seen[tenant], position))
    return [position for _, position in sorted(rounds)[:count]]
