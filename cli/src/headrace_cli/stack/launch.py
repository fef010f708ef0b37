"""``headrace up`` and ``bootstrap``: the local stack with its services, keys and passwords."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from headrace.errors import DependencyDown
from headrace.topology.generation_names import GENERATION_STAGES
from headrace_cli import state
from headrace_cli.failures import CommandError
from headrace_cli.stack import services
from headrace_local import parts
from headrace_local.model import Command, Endpoints, External, OnEvent
from headrace_local.stack import Stack

TENANT = "default"
CONNECT = "connect"
DEFAULT_LOGIN = "headrace_service"
_OTHER_INDEX = (
    "Set --provider and HEADRACE_EMBEDDER_… back to the values this stack's index was built with, start another stack "
    "with `headrace up --state-dir NEW`, or change the model of this one with `headrace reindex start --model`."
)
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Launch:
    """The request of ``headrace up``."""

    state_dir: Path
    provider: str = "sentence-transformers"
    external: External = field(default_factory=External)
    only_infrastructure: bool = False
    scale: Sequence[str] = ()
    with_connect: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


@dataclass(frozen=True, slots=True)
class Launched:
    """A running stack; ``started`` is False if it was already running. Without services there is no URL."""

    endpoints: Endpoints
    started: bool
    tenant: str
    url: str | None
    processes: tuple[str, ...]


class Launcher:
    """Starts one stack."""

    def __init__(self, launch: Launch, report: Report) -> None:
        self._launch = launch
        self._report = report
        self._stack = Stack(launch.state_dir)
        self._generations = state.read_generations(launch.state_dir)
        base = self._generations.base
        self._own = {} if base is None else self._generations.own[base]
        self._generation = base or launch.environment.get(services.GENERATION, "g1")
        self._provider = services.provider_of(
            self._own.get(services.PROVIDER, launch.provider), {**launch.environment, **self._own}
        )
        self._instances = services.scale(launch.scale)
        self._on_event: OnEvent = lambda _: None
        self._loading = threading.Thread(target=_load_bootstrap, name="bootstrap import", daemon=True)

    def up(self, on_event: OnEvent) -> Launched:
        """Start what is missing and wait until everything is ready.

        Raises :class:`headrace_local.model.StackError` naming the broken part, and the errors of the migration.
        """
        self._on_event = on_event
        tables, kept = self._tables(), None
        if (running := self._stack.state()) is not None:
            tables, kept = self._as_started(tables)
        else:
            self._loading.start()
        done = self._stack.up(self._services, prepare=self._prepare, external=self._launch.external, on_event=on_event)
        if self._launch.only_infrastructure:
            return Launched(done.endpoints, done.started, TENANT, None, ())
        if running is not None:
            self._scale_down()
        known = state.RunningServices(
            url=services.gateway_url(self._stack.port),
            kafka=done.endpoints.kafka_bootstrap,
            registry=done.endpoints.registry_url,
            provider=self._provider.name,
            model=self._provider.model,
            status_urls=self._status_urls(),
            connect=self._connect_url(),
            objects=self._objects(),
            tables=tables,
            settings=self._digests() if kept is None else kept,
            generation=self._generation,
            embedder=services.embedder_settings({**self._launch.environment, **self._own}),
        )
        state.write(self._stack.state_dir, state.SERVICES, known)
        return Launched(done.endpoints, done.started, TENANT, known.url, tuple(known.status_urls))

    def prepare(self, endpoints: Endpoints) -> None:
        """Run the migration step and create the API key if there is none."""
        self._prepare(endpoints)

    def _as_started(self, tables: str | None) -> tuple[str | None, dict[str, str] | None]:
        """Return the tables that ingest has read, and digests of the running services' settings (None if unknown).

        Raises :class:`CommandError` if the tables differ, or if the index was built with another model.
        """
        known = state.read_services(self._stack.state_dir)
        processes = {process.name for process in self._stack.status()}
        if known is None or not any(name.partition("-")[0] in services.SERVICES for name in processes):
            return tables, None
        if any(name.partition("-")[0] == "embedder" for name in processes):
            self._require_same_model(known)
        if known.settings is not None:
            self._tell_unread(known.settings)
        if "ingest" in processes:
            self._require_same_tables(known, tables)
            tables = known.tables
        return tables, known.settings

    def _require_same_tables(self, known: state.RunningServices, tables: str | None) -> None:
        if tables is not None and known.tables != tables:
            raise CommandError(
                "ingest is already running and has not read this file; it reads tables only when it starts",
                where=self._launch.environment[services.TABLES], remedy="Run `headrace down` first.",
            )  # fmt: skip

    def _tell_unread(self, then: dict[str, str]) -> None:
        now = self._digests()
        if differ := sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name)):
            self._report(
                f"note: running services keep the settings they started with; these have changed: {', '.join(differ)}. "
                "To apply them, run `headrace down`, then `headrace up`."
            )

    def _require_same_model(self, known: state.RunningServices) -> None:
        if known.model != self._provider.model:
            wanted = f"{self._provider.name} ({self._provider.model})"
            raise CommandError(
                f"the stack runs with {known.provider} ({known.model}), not with {wanted}",
                where=str(self._stack.state_dir),
                remedy="Its index was built with that model. Start another stack with `headrace up --state-dir NEW`, "
                "change the model with `headrace reindex start --model`, or keep provider and model.",
            )

    def _tables(self) -> str | None:
        """Return the file of captured tables with its digest, or None without one."""
        path = self._launch.environment.get(services.TABLES)
        if path is None:
            return None
        try:
            return f"{path} {hashlib.blake2b(Path(path).read_bytes(), digest_size=8).hexdigest()}"
        except OSError:  # the code that reads the file reports the error
            return path

    def _digests(self) -> dict[str, str]:
        return services.digests(self._launch.environment, self._credentials().embedder_token)

    def _prepare(self, endpoints: Endpoints) -> None:
        credentials = self._credentials()
        _migrate(endpoints, self._provider, credentials, self._objects(), self._report, self._generation)
        valid = asyncio.run(_with_valid_keys(endpoints.postgres_dsn, credentials))
        if valid != credentials:
            state.write(self._stack.state_dir, state.CREDENTIALS, valid)
            self._report(f"API keys: created for tenant {TENANT}")

    def _credentials(self) -> state.Credentials:
        """Return the stored secrets, created on the first call, when the API key is still empty."""
        known = state.read_credentials(self._stack.state_dir)
        if known is None:
            login = self._launch.environment.get("HEADRACE_BOOTSTRAP_RUNTIME_LOGIN", DEFAULT_LOGIN)
            password = self._launch.environment.get("HEADRACE_BOOTSTRAP_RUNTIME_PASSWORD") or secrets.token_urlsafe(24)
            known = state.Credentials(TENANT, "", login, password, secrets.token_urlsafe(24))
            state.write(self._stack.state_dir, state.CREDENTIALS, known)
        return known

    def _services(self, endpoints: Endpoints) -> Sequence[Command]:
        if self._launch.only_infrastructure:
            return ()
        credentials = self._credentials()
        captures = [self._connect(endpoints)] if self._launch.with_connect else []
        dsn = services.runtime_dsn(endpoints.postgres_dsn, credentials.runtime_login, credentials.runtime_password)
        environment = {**self._launch.environment, services.OBJECTS: self._objects()}
        mark = services.mark_of(self._generation) if self._own else ""
        plan = services.Plan(
            self._provider, dsn, credentials.embedder_token, self._instances, environment, self._generation,
            self._own, mark,
        )  # fmt: skip
        beside = [
            command
            for name in self._generations.beside
            for command in services.generation_commands(endpoints, self._beside(plan, name), self._stack.port)
        ]
        return [*captures, *services.service_commands(endpoints, plan, self._stack.port), *beside]

    def start_beside(self, name: str) -> None:
        """Start the embedder and the indexer of a generation beside the running services, unless they run.

        Its settings are in the stack's file of generations. Raises
        :class:`headrace_local.model.StackError` with the last lines of a process that does not start.
        """
        processes = {process.name for process in self._stack.status()}
        own = {services.process_name(stage, 0, services.mark_of(name)) for stage in GENERATION_STAGES}
        for command in self._services(self._stack.endpoints()):
            if command.name in own - processes:
                self._stack.start(command)
        known = state.read_services(self._stack.state_dir)
        if known is not None:
            state.write(self._stack.state_dir, state.SERVICES, replace(known, status_urls=self._status_urls()))

    def _beside(self, plan: services.Plan, name: str) -> services.Plan:
        """Return the plan of a generation's own embedder and indexer."""
        own = self._generations.own[name]
        provider = services.provider_of(own[services.PROVIDER], {**self._launch.environment, **own})
        return replace(plan, provider=provider, generation=name, settings=own, mark=services.mark_of(name))

    def _status_urls(self) -> dict[str, str]:
        mark = services.mark_of(self._generation) if self._own else ""
        return services.status_urls(self._instances, self._stack.port, mark, self._generations.beside)

    def _objects(self) -> str:
        """Return the object store from the environment, or a folder of this stack."""
        named = self._launch.environment.get(services.OBJECTS)
        if named:
            return named
        folder = self._stack.state_dir / "objects"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder.as_uri()

    def _connect(self, endpoints: Endpoints) -> Command:
        folder, port = self._stack.state_dir / CONNECT, self._stack.port(CONNECT)
        return parts.connect(folder, port, endpoints.kafka_bootstrap, self._on_event)

    def _connect_url(self) -> str | None:
        """Return the URL of Kafka Connect; None if this stack does not run it."""
        there = any(process.name == CONNECT for process in self._stack.status())
        return f"http://127.0.0.1:{self._stack.port(CONNECT)}" if there else None

    def _scale_down(self) -> None:
        """Stop the instances beyond the wanted number; each drains first."""
        wanted = set(self._status_urls())
        surplus = [
            process.name
            for process in self._stack.status()
            if process.name.partition("-")[0] in services.SERVICES and process.name not in wanted
        ]
        if surplus:
            self._stack.stop(*surplus)
            self._report(f"stopped: {', '.join(surplus)}")


def _load_bootstrap() -> None:
    """Load the migration step while Kafka starts; if that fails, the later import reports it."""
    with suppress(ImportError):
        importlib.import_module("headrace.migrate")


def _migrate(
    endpoints: Endpoints, provider: services.Provider, credentials: state.Credentials, objects: str, report: Report,
    generation: str = "g1",
) -> None:  # fmt: skip
    from pydantic import SecretStr  # noqa: PLC0415

    from headrace.config.settings import KafkaSettings, ObjectSettings, RegistrySettings  # noqa: PLC0415
    from headrace.migrate import BootstrapSettings, bootstrap  # noqa: PLC0415
    from headrace.store.error_mapping import GenerationExists  # noqa: PLC0415

    settings = BootstrapSettings(
        postgres_dsn=SecretStr(endpoints.postgres_dsn),
        runtime_login=credentials.runtime_login,
        runtime_password=SecretStr(credentials.runtime_password),
        model=provider.model,
        dimensions=provider.dimensions,
        text_template=provider.preparation.template,
        passage_prompt=provider.preparation.passage_prompt,
        over_long=provider.preparation.over_long,
    )
    kafka = KafkaSettings(bootstrap=endpoints.kafka_bootstrap, generation=generation)
    registry = RegistrySettings(url=endpoints.registry_url)
    try:
        bootstrap(settings, kafka, registry, ObjectSettings(url=objects), report)
    except GenerationExists as error:
        raise GenerationExists(error.message, where=str(endpoints.state_dir), remedy=_OTHER_INDEX) from error


async def _with_valid_keys(owner_dsn: str, credentials: state.Credentials) -> state.Credentials:
    """Return the credentials with a new API key in place of each that the store does not know."""
    import asyncpg  # noqa: PLC0415

    from headrace.access.readers import EVERY_DOCUMENT, UNNAMED  # noqa: PLC0415
    from headrace.store import keys  # noqa: PLC0415

    schema = os.environ.get("HEADRACE_BOOTSTRAP_STORE_SCHEMA", "headrace")
    try:
        pool = await asyncpg.create_pool(
            owner_dsn, min_size=1, max_size=1, server_settings={"search_path": f'"{schema}", public'}
        )
    except OSError as error:
        raise DependencyDown("postgresql", str(error)) from error
    async with pool:
        valid = credentials
        readers = {"api_key": UNNAMED, "acting_key": None, "operator_key": EVERY_DOCUMENT}
        for name, reader in readers.items():
            known = await keys.authenticate(pool, getattr(credentials, name))
            if known != keys.KeyOwner(credentials.tenant, reader):
                async with pool.acquire() as connection:
                    key = await keys.create_api_key(connection, credentials.tenant, f"local {name}", reader)
                valid = replace(valid, **{name: key})
        return valid


def bootstrap_from_environment(report: Report) -> None:
    """Run the migration step with settings from the environment alone, as a container does."""
    from headrace import migrate as step  # noqa: PLC0415
    from headrace.config.settings import KafkaSettings, ObjectSettings, RegistrySettings  # noqa: PLC0415

    step.bootstrap(step.BootstrapSettings(), KafkaSettings(), RegistrySettings(), ObjectSettings(), report)
