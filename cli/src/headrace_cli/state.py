"""The files that ``headrace up`` writes to the state folder, and how commands find them.

``services.json`` has the addresses of all services; ``credentials.json``, readable by its owner only, has the API keys,
the services' database password and the token between them; ``generations.json`` has the generations of the index that
reindexing made.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar
from urllib.parse import quote

from headrace_cli.client import Gateway
from headrace_cli.failures import CommandError, NotReachable
from headrace_cli.options import Found
from headrace_cli.output import say

DEFAULT_NAME = ".headrace"
CREDENTIALS = "credentials.json"
SERVICES = "services.json"
GENERATIONS = "generations.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Secrets of a local stack.

    ``api_key`` reads documents without an ``acl``, ``acting_key`` acts for readers, and ``operator_key`` reads every
    document.
    """

    tenant: str
    api_key: str
    runtime_login: str
    runtime_password: str
    embedder_token: str
    acting_key: str = ""
    operator_key: str = ""


@dataclass(frozen=True, slots=True)
class RunningServices:
    """Addresses of the services of a local stack; ``status_urls`` by process name."""

    url: str
    kafka: str
    registry: str
    provider: str
    model: str
    status_urls: dict[str, str] = field(default_factory=dict)
    connect: str | None = None
    """URL of Kafka Connect's REST API, if it was started."""
    objects: str | None = None
    """The object store's URL."""
    tables: str | None = None
    """The file of captured tables that ingest has read, with a digest of its content at that time."""
    settings: dict[str, str] | None = None
    """A digest of each setting that the services were started with, by variable; None if unknown."""
    generation: str = "g1"
    """The generation of the index that ingest, chunker, generator and gateway work for."""
    embedder: dict[str, str] = field(default_factory=dict)
    """The settings that its embedder was started with, without secrets."""


@dataclass(frozen=True, slots=True)
class StackGenerations:
    """The generations that reindexing made in a local stack.

    ``own`` has the settings of each one's embedder, by name. ``base`` is the one that the services work for; None means
    the stack's first one, whose settings come from the environment.
    """

    base: str | None = None
    own: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def beside(self) -> list[str]:
        """Those that have their embedder and indexer beside the services."""
        return sorted(self.own.keys() - {self.base})


def find_state_dir(given: Path | None, start: Path | None = None) -> Path:
    """Return the given folder, else the nearest ``.headrace`` upward, else ``.headrace`` here."""
    if given is not None:
        return given
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / DEFAULT_NAME).is_dir():
            return folder / DEFAULT_NAME
    return here / DEFAULT_NAME


def write(state_dir: Path, name: str, value: Credentials | RunningServices | StackGenerations) -> None:
    """Write a file of the state folder in one step, readable by its owner only."""
    partial = state_dir / f"{name}.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(value), file, indent=2)
    partial.replace(state_dir / name)


def read_credentials(state_dir: Path) -> Credentials | None:
    """Return what ``headrace up`` wrote, or None; raises :class:`CommandError` if the file is damaged."""
    return _read(state_dir / CREDENTIALS, Credentials)


def read_services(state_dir: Path) -> RunningServices | None:
    """Return what ``headrace up`` wrote, or None; raises :class:`CommandError` if the file is damaged."""
    return _read(state_dir / SERVICES, RunningServices)


def read_generations(state_dir: Path) -> StackGenerations:
    """Return the generations that reindexing made; raises :class:`CommandError` if the file is damaged."""
    return _read(state_dir / GENERATIONS, StackGenerations) or StackGenerations()


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kind(**fields)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(
            f"cannot read the file: {error}", where=str(path), remedy="Remove it and run `headrace up`."
        ) from error


def connect(
    url: str | None,
    api_key: str | None,
    state_dir: Path | None,
    *,
    retry_s: float = 0.0,
    reader: Mapping[str, str] | None = None,
    operator: bool = False,
) -> Gateway:
    """Return the given gateway, or the local stack's; raises :class:`NotReachable` without either.

    ``reader`` has the headers that name a reader. Without ``api_key``, the local stack's key for that is used, or the
    one that reads every document for an ``operator``. The local stack's keys are never sent to another address.
    """
    folder = find_state_dir(state_dir)
    services = read_services(folder)
    if url is None and services is None:
        raise NotReachable("no gateway address found", where=f"{folder} and HEADRACE_URL")
    if api_key is None:
        local = services is not None and url in (None, services.url)
        credentials = read_credentials(folder) if local else None
        if credentials is None:
            raise CommandError(
                "no API key for this gateway",
                where=str(url),
                remedy="Pass --api-key or set HEADRACE_API_KEY.",
            )
        api_key = credentials.acting_key if reader else credentials.operator_key if operator else credentials.api_key
    assert url is not None or services is not None
    address = url or (services.url if services else "")
    return Gateway(address, api_key, retry_s=retry_s, on_retry=_told_once(address, retry_s), reader=reader)


@dataclass(frozen=True, slots=True)
class Caller:
    """Finds the gateway: from the options of a command, or else the local stack's."""

    state_dir: Path | None = None
    url: str | None = None
    api_key: str | None = None
    user: str | None = None
    groups: Sequence[str] | None = None
    projects: Sequence[str] | None = None

    def gateway(self, *, retry_s: float = 0.0, operator: bool = False) -> Gateway:
        """Return it; raises :class:`NotReachable` if there is none. See :func:`connect`.

        With ``operator``, the local stack's key reads every document, unless the options name a reader.
        """
        reader = reader_headers(self.user, self.groups or (), self.projects or ())
        return connect(self.url, self.api_key, self.state_dir, retry_s=retry_s, reader=reader, operator=operator)


AtGateway: TypeAlias = Annotated[Caller, Found("state_dir", "url", "api_key", "user", "groups", "projects")]


def reader_headers(user: str | None, groups: Sequence[str], projects: Sequence[str]) -> dict[str, str]:
    """Return the headers that name the reader, percent-encoded; none without a name."""
    named = {
        "Headrace-User": () if user is None else (user,),
        "Headrace-Groups": groups,
        "Headrace-Projects": projects,
    }
    return {header: ",".join(quote(name, safe="") for name in names) for header, names in named.items() if names}


def _told_once(address: str, retry_s: float) -> Callable[[str], None]:
    """Return a function that reports the first retry, so that a minute of retries does not look like a hang."""
    told = threading.Lock()

    def tell(reason: str) -> None:
        if told.acquire(blocking=False):
            say(f"{address} does not accept the request yet ({reason}); retrying for up to {retry_s:.0f} s")

    return tell


def provider_name(state_dir: Path | None) -> str | None:
    """Return the embedding provider from the environment or the local stack; None without either."""
    named = os.environ.get("HEADRACE_EMBEDDER_PROVIDER")
    if named is None:
        known = read_services(find_state_dir(state_dir))
        named = known.provider if known else None
    return named
