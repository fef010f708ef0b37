"""The types that the parts of the local stack exchange."""

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

    ``health`` is a URL that returns 200, a ``tcp://host:port`` that accepts connections, a ``kafka://host:port`` that
    speaks Kafka's protocol, or None. ``user`` is the system user of the process if the stack runs as root.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health: str | None = None
    user: str | None = None
    stop_signal: str = "SIGTERM"
    orphan_signal: str = "SIGKILL"
    """The signal that the process gets when the supervisor ends."""
    start_s: float = 90.0
    """Maximum seconds until it is healthy."""
    early: bool = False
    """Whether it starts together with the infrastructure and waits for it by itself, because it loads much."""
    loads: str = ""
    """What it loads before it is healthy, if that can take long; shown to users who wait."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of Kafka, the registry and PostgreSQL; the DSN is the owner's."""

    kafka_bootstrap: str
    registry_url: str
    postgres_dsn: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class External:
    """Existing systems; those given here are not started, only checked."""

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
    """One supervised process; ``state`` is running, waiting (for its restart) or stopped.

    ``failures`` counts consecutive exits without a stable minute between them, ``restarts`` all restarts.
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
