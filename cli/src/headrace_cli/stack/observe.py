"""``headrace status``: the processes, whether they are ready, what they wait for, and the size of the index."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from headrace.access.readers import EVERY_DOCUMENT
from headrace.config.settings import KafkaSettings
from headrace.errors import DependencyDown, HeadraceError
from headrace.kafka.lag import LagReader
from headrace.store.transactions import set_tenant
from headrace.topology.generation_names import GENERATION_STAGES, in_generation
from headrace_cli import state
from headrace_cli.failures import NotReachable
from headrace_cli.stack import services
from headrace_local.model import Endpoints, ProcessStatus
from headrace_local.network import healthy
from headrace_local.stack import Stack

_ASK_S = 4.0


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process; ``waiting`` says what it waits for if it is not ready."""

    name: str
    state: str
    pid: int | None
    restarts: int
    uptime_s: float
    ready: bool
    waiting: str | None


@dataclass(frozen=True, slots=True)
class StackView:
    """A stack; values that could not be read are None, and ``notes`` say why."""

    state_dir: str
    url: str | None
    kafka: str
    postgres: str
    """PostgreSQL's address without the password, which is in the owner's file ``stack.json``."""
    provider: str | None
    processes: tuple[ProcessView, ...]
    stages: list[dict[str, Any]] | None
    index: dict[str, Any] | None
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the view for ``--json``."""
        return {**asdict(self), "ready": self.ready}

    @property
    def ready(self) -> bool:
        """Whether every process is ready."""
        return all(process.ready for process in self.processes)


def look(state_dir: Path) -> StackView:
    """Return the stack of the folder; raises :class:`NotReachable` if none is running."""
    stack = Stack(state_dir)
    processes = stack.status()
    if not processes:
        raise NotReachable(
            "no stack is running here", where=str(stack.state_dir), remedy="Start it with `headrace up`."
        )
    known = state.read_services(stack.state_dir)
    urls = known.status_urls if known else {}
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="readyz") as pool:
        views = tuple(pool.map(lambda process: _view(process, urls.get(process.name)), processes))
    notes: list[str] = []
    stages = index = None
    endpoints = stack.endpoints()
    try:
        beside = state.read_generations(stack.state_dir).beside
        stages = stage_lags(endpoints.kafka_bootstrap, known.generation if known else "g1", beside)
    except DependencyDown as error:
        notes.append(error.message)
    try:
        index = index_counts(endpoints, state.read_credentials(stack.state_dir))
    except HeadraceError as error:
        notes.append(error.message)
    return StackView(
        str(stack.state_dir),
        known.url if known else None,
        endpoints.kafka_bootstrap,
        without_password(endpoints.postgres_dsn),
        f"{known.provider} ({known.model})" if known else None,
        views,
        stages,
        index,
        tuple(notes),
    )


def without_password(dsn: str) -> str:
    """Return a PostgreSQL URL without its password; for another form of DSN, a text that refers to --postgres."""
    parts = urlsplit(dsn)
    if not parts.hostname:
        return "the address in --postgres"
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}@{host}" if parts.username else host, query="").geturl()


def stage_lags(bootstrap: str, generation: str, beside: Sequence[str]) -> list[dict[str, Any]]:
    """Return stage, topic and the number of records behind; raises :class:`DependencyDown`.

    ``beside`` are the generations whose embedder and indexer run beside the services.
    """
    kafka = KafkaSettings(bootstrap=bootstrap, generation=generation)
    found = [asdict(one) for one in LagReader(kafka).stages()]
    for name in beside:
        found += [
            {**asdict(one), "stage": in_generation(one.stage, name), "topic": in_generation(one.topic, name)}
            for one in LagReader(kafka.of(name)).stages()
            if one.stage in GENERATION_STAGES
        ]
    return found


def index_counts(endpoints: Endpoints, credentials: state.Credentials | None) -> dict[str, Any] | None:
    """Return the index's contents for the local tenant; None before the first bootstrap."""
    if credentials is None or not credentials.api_key:
        return None
    dsn = services.runtime_dsn(endpoints.postgres_dsn, credentials.runtime_login, credentials.runtime_password)
    return asyncio.run(_count(dsn, credentials.tenant))


async def _count(dsn: str, tenant: str) -> dict[str, Any]:

    schema = os.environ.get("HEADRACE_STORE_SCHEMA_NAME", "headrace")
    try:
        connection = await asyncpg.connect(dsn, timeout=_ASK_S, server_settings={"search_path": f'"{schema}", public'})
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise DependencyDown("postgresql", f"PostgreSQL does not answer: {error}") from error
    try:
        async with connection.transaction(readonly=True):
            await set_tenant(connection, tenant, EVERY_DOCUMENT)
            row = await connection.fetchrow(
                "SELECT (SELECT count(*) FROM document WHERE NOT deleted) AS documents,"
                " (SELECT count(*) FROM chunk) AS passages,"
                " (SELECT name FROM generation WHERE state = 'active') AS generation"
            )
    finally:
        await connection.close()
    assert row is not None
    return {"tenant": tenant, **dict(row)}


def _view(process: ProcessStatus, url: str | None) -> ProcessView:
    if process.state != "running":
        ready, waiting = False, "will be restarted; see `headrace logs`" if process.state == "waiting" else None
    elif url is None:
        ready, waiting = healthy(process.health), None
    else:
        ready, waiting = _readiness(url)
    return ProcessView(
        process.name, process.state, process.pid, process.restarts, round(process.uptime_s, 1), ready, waiting
    )


def _readiness(url: str) -> tuple[bool, str | None]:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_ASK_S)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return False, f"does not answer: {error}"
    finally:
        connection.close()
    return response.status == 200, _reason(body)


def _reason(body: dict[str, Any]) -> str | None:
    """Return what ``/readyz`` of a stage or of the gateway waits for."""
    waiting = body.get("waiting")
    if waiting:
        return f"{waiting['dependency']}: {waiting['reason']}"
    said = body.get("stopped") or body.get("paused") or ("draining" if body.get("draining") else None)
    if said:
        return str(said)
    down = [f"{name}: {one.get('reason')}" for name, one in body.get("dependencies", {}).items() if not one["up"]]
    return "; ".join(down) or None


def history_rows(document: dict[str, Any]) -> Sequence[tuple[object, ...]]:
    """Return the stage history of a document's status as rows: stage, handlers, worker, attempt, start, duration."""
    return [
        (
            run["stage"],
            ", ".join(run["handlers"]),
            run["worker"],
            run["attempt"],
            (run["started_at"] or "")[:23],
            f"{run['duration_us'] / 1000:.1f} ms",
        )
        for run in document["stages"]
    ]
