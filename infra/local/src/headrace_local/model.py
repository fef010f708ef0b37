"""What the parts of the local stack say to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headrace.errors import HeadraceError


class StackError(HeadraceError):
    """A part of the local stack did not start."""

    code = "stack"


@dataclass(frozen=True, slots=True)
class Command:
    """A process to keep running.

    ``health`` is a URL that answers 200, a ``tcp://host:port`` that accepts, a ``kafka://host:port`` that speaks
    Kafka's protocol, or None. ``user`` is the system user to run as, where the stack runs as root.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health: str | None = None
    user: str | None = None
    stop_signal: str = "SIGTERM"
    orphan_signal: str = "SIGKILL"
    """What the process gets when the supervisor is gone."""
    start_s: float = 90.0
    """Seconds that it may take to become healthy."""
    early: bool = False
    """Starts together with the infrastructure and waits for it by itself: it has much to load."""
    loads: str = ""
    """What it loads before it is healthy, where that can take long: whoever waits is told."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where Kafka, the registry and PostgreSQL answer; the DSN is the owner's."""

    kafka_bootstrap: str
    registry_url: str
    postgres_dsn: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class External:
    """Systems that exist already; what is given here is not started, only checked to answer."""

    kafka: str | None = None
    registry: str | None = None
    postgres: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a start.

    ``state`` is one of waiting, downloading, starting, loading and ready; a download counts ``done`` of ``total``
    bytes.
    """

    part: str
    state: str
    detail: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One supervised process; ``state`` is running, waiting (to be restarted) or stopped.

    ``failures`` counts the exits in a row without a stable minute between them, ``restarts`` all restarts.
    """

    name: str
    pid: int | None
    state: str
    restarts: int
    uptime_s: float
    health: str | None
    failures: int = 0


MakeServices = Callable[[Endpoints], Sequence[Command]]
Prepare = Callable[[Endpoints], None]
OnEvent = Callable[[Event], None]
