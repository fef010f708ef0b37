"""The operator of a command: connections from the options, or else from the local stack."""

from __future__ import annotations

import getpass
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from headrace_cli.failures import NotReachable, UsageError
from headrace_cli.options import Found
from headrace_cli.stack import services
from headrace_cli.state import RunningServices, find_state_dir, read_credentials, read_services

if TYPE_CHECKING:
    from headrace.config.settings import KafkaSettings, ObjectSettings
    from headrace.objects.store import ObjectStore
    from headrace.store.pool import Pool, StoreSettings
    from headrace_operations.cluster import Cluster

STORE_DSN = "HEADRACE_STORE_DSN"


@dataclass(frozen=True, slots=True)
class Operator:
    """Resolves what a command connects to: from its options, or else from the local stack's state folder."""

    state_dir: Path | None = None
    kafka: str | None = None
    registry: str | None = None
    postgres: str | None = None

    @property
    def folder(self) -> Path:
        """The state folder: the given one, or the nearest in this folder or above."""
        return find_state_dir(self.state_dir)

    @property
    def running(self) -> RunningServices | None:
        """What `headrace up` wrote about the local stack; None if there is none."""
        return read_services(self.folder)

    @property
    def name(self) -> str:
        """Who runs the command."""
        return getpass.getuser()

    def cluster(self, generation: str | None = None) -> Cluster:
        """Return Kafka with the codec over registry and object store; without PostgreSQL.

        Raises :class:`NotReachable` if no Kafka is configured or it does not answer.
        """
        from headrace.codec.codec import Codec
        from headrace.codec.schema_registry import Registry
        from headrace.config.settings import RegistrySettings
        from headrace.objects.store import store_of
        from headrace_cli.quiet import quiet_logs
        from headrace_operations.cluster import Cluster

        quiet_logs()
        known = self.running
        url = self.registry or (known.registry if known else RegistrySettings().url)
        settings = self.kafka_settings()
        codec = Codec(Registry(url), store_of(self.object_settings(), settings))
        return Cluster(settings, codec, by=self.name).of(generation)

    def whole_cluster(self, generation: str | None = None) -> Cluster:
        """Return it with PostgreSQL, as the owner if possible; raises :class:`NotReachable` without one."""
        return self.with_store(self.cluster(generation))

    def with_store(self, cluster: Cluster) -> Cluster:
        """Return the cluster with PostgreSQL, as the owner if possible; raises :class:`NotReachable`."""
        return replace(cluster, store=self.owner_store())

    def with_readable_store(self, cluster: Cluster) -> Cluster:
        """Return the cluster with PostgreSQL for reading, if one is configured."""
        return replace(cluster, store=self.store())

    def kafka_settings(self) -> KafkaSettings:
        """Return the Kafka settings; raises :class:`NotReachable` if none are given or Kafka does not answer."""
        from headrace.config.settings import KafkaSettings
        from headrace_local.network import accepts_any

        known = self.running
        if self.kafka is None and known is None:
            raise NotReachable(
                "no Kafka address found",
                where=f"{self.folder} and HEADRACE_KAFKA_BOOTSTRAP",
                remedy="Start the local stack with `headrace up`, or pass --kafka.",
            )
        bootstrap = self.kafka or (known.kafka if known else "")
        if not accepts_any(bootstrap):  # A Kafka client would retry for a long time and log ten errors a second.
            raise NotReachable(
                "Kafka does not answer",
                where=bootstrap,
                remedy="Start the local stack with `headrace up`, or pass --kafka.",
            )
        if self.kafka is not None or known is None or os.environ.get(services.GENERATION):
            return KafkaSettings(bootstrap=bootstrap)
        return KafkaSettings(bootstrap=bootstrap, generation=known.generation)

    def object_settings(self) -> ObjectSettings:
        """Return the object store from HEADRACE_OBJECTS_… or the local stack; its URL is None without one."""
        from headrace.config.settings import ObjectSettings

        settings = ObjectSettings()
        known = self.running
        return settings if settings.url or known is None else settings.model_copy(update={"url": known.objects})

    def objects(self) -> tuple[ObjectStore, KafkaSettings]:
        """Return the object store and Kafka; raises :class:`UsageError` if no store is configured."""
        from headrace.objects.store import store_of
        from headrace_cli.quiet import quiet_logs

        quiet_logs()
        settings = self.kafka_settings()
        store = store_of(self.object_settings(), settings)
        if store is None:
            raise UsageError(
                "no object store configured", where="HEADRACE_OBJECTS_URL",
                remedy="Set it to the same value as for the stages. The stages of `headrace up` already have a folder.",
            )  # fmt: skip
        return store, settings

    def store(self) -> StoreSettings | None:
        """Return how to read the store: HEADRACE_STORE_DSN, or the local stack's; None without either."""
        from headrace.store.pool import StoreSettings
        from headrace_local.stack import Stack

        if os.environ.get(STORE_DSN):
            return StoreSettings(pool_minimum=0, pool_maximum=2)
        credentials = read_credentials(self.folder)
        if credentials is None:
            return None
        owner = Stack(self.folder).endpoints().postgres_dsn
        dsn = services.runtime_dsn(owner, credentials.runtime_login, credentials.runtime_password)
        return StoreSettings(dsn=dsn, pool_minimum=0, pool_maximum=2)

    def owner_store(self) -> StoreSettings:
        """Return how to connect to the store: as the owner, with the services' login, or as the local stack's owner."""
        from headrace.store.pool import StoreSettings
        from headrace_local.stack import Stack

        if self.postgres is None and os.environ.get(STORE_DSN):
            return StoreSettings()
        if self.postgres is None and self.running is None:
            raise NotReachable(
                "no PostgreSQL address found",
                where=f"{self.folder} and {STORE_DSN}",
                remedy="Start the local stack with `headrace up`, or pass --postgres.",
            )
        return StoreSettings(dsn=self.postgres or Stack(self.folder).endpoints().postgres_dsn)

    def tenant(self, given: str | None) -> str:
        """Return the given tenant, or the local stack's; raises :class:`UsageError` without either."""
        if given:
            return given
        credentials = read_credentials(self.folder)
        if credentials is None:
            raise UsageError("no tenant given", where="--tenant", remedy="Pass --tenant or set HEADRACE_TENANT.")
        return credentials.tenant


InLog: TypeAlias = Annotated[Operator, Found("state_dir", "kafka", "registry")]
InLogAndStore: TypeAlias = Annotated[Operator, Found("postgres", "state_dir", "kafka", "registry")]
InAudit: TypeAlias = Annotated[Operator, Found("state_dir", "kafka", "registry", "postgres")]
InStore: TypeAlias = Annotated[Operator, Found("postgres", "state_dir")]
InKafka: TypeAlias = Annotated[Operator, Found("state_dir", "kafka")]
InFolder: TypeAlias = Annotated[Operator, Found("state_dir")]


@asynccontextmanager
async def opened_store(settings: StoreSettings | None) -> AsyncIterator[Pool | None]:
    """Yield a pool of connections, or None without settings; raises :class:`DependencyDown`."""
    from headrace.store.pool import opened_pool

    if settings is None:
        yield None
        return
    async with opened_pool(settings) as pool:
        yield pool
