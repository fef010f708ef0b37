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
    """A process to keep running: ``health`` is a URL that answers 200, or a ``tcp://host:port`` that accepts."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health: str | None = None
    user: str | None = None
    stop_signal: str = "SIGTERM"
    start_s: float = 90.0
    """Seconds that it may take to become healthy."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where Kafka, the registry and PostgreSQL answer; the DSN is the owner's."""

    kafka_bootstrap: str
    registry_url: str
    postgres_dsn: str
    state_dir: Path


@dataclass(frozen=True, slots=True)
class External:
    """Systems that exist already; what is given here is not started."""

    kafka: str | None = None
    registry: str | None = None
    postgres: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a start: ``part`` is a name, ``state`` one of downloading, starting, ready, and a detail."""

    part: str
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One supervised process; ``state`` is running, waiting (to be restarted) or stopped."""

    name: str
    pid: int | None
    state: str
    restarts: int
    uptime_s: float
    health: str | None


MakeServices = Callable[[Endpoints], Sequence[Command]]
Prepare = Callable[[Endpoints], None]
OnEvent = Callable[[Event], None]
