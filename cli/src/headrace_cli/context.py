"""What an operator's command reaches: Kafka, the registry and PostgreSQL, as named or the local stack's."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.avro.codec import Codec
from headrace.avro.registry import Registry
from headrace.objects.store import store_of
from headrace.settings import KafkaSettings, ObjectSettings, RegistrySettings
from headrace.store.generations import list_generations
from headrace.store.pool import StoreSettings, create_pool
from headrace.store.records import Generation
from headrace_cli import output
from headrace_cli.failures import NotFound, NotReachable, UsageError
from headrace_cli.stack import services
from headrace_cli.state import find_state_dir, read_credentials, read_services
from headrace_local.network import accepts_any
from headrace_local.stack import Stack
from headrace_operations.audit.model import Report
from headrace_operations.audit.run import Scope, UnknownDocument, audit

if TYPE_CHECKING:
    from headrace.store.pool import Pool

STORE_DSN = "HEADRACE_STORE_DSN"
_PROGRESS_S = 2.0


def tenant_of(state_dir: Path | None, given: str | None) -> str:
    """Return the tenant that was named, or the local stack's; raises :class:`UsageError` without either."""
    if given:
        return given
    credentials = read_credentials(find_state_dir(state_dir))
    if credentials is None:
        raise UsageError("no tenant is known", where="--tenant", remedy="Name it with --tenant or HEADRACE_TENANT.")
    return credentials.tenant


def store_settings(state_dir: Path | None) -> StoreSettings | None:
    """Return how to reach the store: HEADRACE_STORE_DSN, or the local stack's; None where neither is known."""
    if os.environ.get(STORE_DSN):
        return StoreSettings(pool_minimum=0, pool_maximum=2)
    folder = find_state_dir(state_dir)
    credentials = read_credentials(folder)
    if credentials is None:
        return None
    owner = Stack(folder).endpoints().postgres_dsn
    dsn = services.runtime_dsn(owner, credentials.runtime_login, credentials.runtime_password)
    return StoreSettings(dsn=dsn, pool_minimum=0, pool_maximum=2)


@asynccontextmanager
async def opened_store(settings: StoreSettings | None) -> AsyncIterator[Pool | None]:
    """Yield a pool of connections, or None without settings; raises :class:`DependencyDown`."""
    if settings is None:
        yield None
        return
    pool = await create_pool(settings)
    try:
        yield pool
    finally:
        await pool.close()


def kafka_settings(state_dir: Path | None, given: str | None) -> KafkaSettings:
    """Return how to reach the Kafka that was named, or the local stack's; raises :class:`NotReachable`."""
    folder = find_state_dir(state_dir)
    known = read_services(folder)
    if given is None and known is None:
        raise NotReachable(
            "no Kafka is known",
            where=f"{folder} and HEADRACE_KAFKA_BOOTSTRAP",
            remedy="Start the local stack with `headrace up`, or name Kafka with --kafka.",
        )
    bootstrap = given or (known.kafka if known else "")
    if not accepts_any(bootstrap):  # a client of Kafka would try for long, and say so ten times a second
        raise NotReachable(
            "Kafka does not answer",
            where=bootstrap,
            remedy="Start the local stack with `headrace up`, or name Kafka with --kafka.",
        )
    return KafkaSettings(bootstrap=bootstrap)


def object_settings(state_dir: Path | None) -> ObjectSettings:
    """Return what HEADRACE_OBJECTS_… says of the object store, or the local stack's; its URL is None without one."""
    settings = ObjectSettings()
    known = read_services(find_state_dir(state_dir))
    return settings if settings.url or known is None else settings.model_copy(update={"url": known.objects})


def clients(state_dir: Path | None, kafka: str | None, registry_url: str | None) -> tuple[KafkaSettings, Codec]:
    """Return Kafka's settings, and a codec over registry and object store; as named, or the local stack's."""
    output.quiet_logs()
    known = read_services(find_state_dir(state_dir))
    url = registry_url or (known.registry if known else RegistrySettings().url)
    settings = kafka_settings(state_dir, kafka)
    return settings, Codec(Registry(url), store_of(object_settings(state_dir), settings))


def owner_store(state_dir: Path | None, postgres: str | None) -> StoreSettings:
    """Return how to reach the store: as the owner, by the services' login, or as the local stack's owner."""
    if postgres is None and os.environ.get(STORE_DSN):
        return StoreSettings()
    folder = find_state_dir(state_dir)
    if postgres is None and read_services(folder) is None:
        raise NotReachable(
            "no PostgreSQL is known",
            where=f"{folder} and {STORE_DSN}",
            remedy="Start a stack with `headrace up`, or name it with --postgres.",
        )
    return StoreSettings(dsn=postgres or Stack(folder).endpoints().postgres_dsn)


def require_generation(name: str, where: str, state_dir: Path | None) -> None:
    """Raise :class:`NotFound` for a generation that the index has not; where no store is known nothing is said."""
    known = asyncio.run(generations(state_dir))
    if known and name not in {one.name for one in known}:
        raise NotFound(
            f"there is no generation {name!r}", where=where,
            remedy=f"There are: {'; '.join(map(described, known))}. `headrace generations create` makes another.",
        )  # fmt: skip


async def generations(state_dir: Path | None) -> list[Generation] | None:
    """Return the generations of the index; None where no store is known. Raises :class:`DependencyDown`."""
    async with opened_store(store_settings(state_dir)) as pool:
        if pool is None:
            return None
        async with pool.acquire() as connection:
            return await list_generations(connection)


def described(one: Generation) -> str:
    """Return what is to be known of a generation, in a line."""
    return f"{one.name} ({one.model}, {one.dimensions} dimensions, {one.state})"


def audited(kafka: KafkaSettings, codec: Codec, store: StoreSettings, scope: Scope) -> Report:
    """Compare log and store, telling how far it is; raises :class:`NotFound` for a document that nothing knows."""
    try:
        return asyncio.run(audit(kafka, codec, store, scope, _progress()))
    except UnknownDocument as unknown:
        raise NotFound(unknown.message, remedy=unknown.remedy) from unknown


def _progress() -> Callable[[str], None]:
    """Return what tells how far the audit is, at most every two seconds."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            last = time.monotonic()
            output.say(line)

    return tell
