"""The migration step that runs before the services: topics, schemas, stores and shipped pipelines; idempotent.

``python -m headrace.migrate`` in a container, ``headrace bootstrap`` and ``headrace up`` on a machine. Services
never register, create or migrate anything themselves.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry, register_all
from headrace.config.settings import EXIT_CONFIGURATION, KafkaSettings, ObjectSettings, RegistrySettings, wrong_settings
from headrace.embeddings.models import PACKAGED_MODEL, known_model
from headrace.embeddings.preparation import BODY, OverLong
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace.handlers import pipelines_log
from headrace.lexical.analyzer import DEFAULT
from headrace.pipeline import load
from headrace.store import generations
from headrace.store import schema as store
from headrace.store.error_mapping import postgresql_errors
from headrace.store.rows import Generation
from headrace.topology import topics

PIPELINE_FOLDER = Path(__file__).parent / "pipelines"
_CALL_S = 30.0
_LOOK_S = 0.05


class BootstrapSettings(BaseSettings):
    """Settings of the migration step in addition to the services' settings."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_BOOTSTRAP_", frozen=True)

    postgres_dsn: SecretStr = Field(
        description="PostgreSQL connection string of the role that owns the store's schema."
    )
    store_schema: str = Field("headrace", description="Schema of the store.")
    runtime_login: str = Field("headrace_service", description="PostgreSQL login for the services. It owns no tables.")
    runtime_password: SecretStr = Field(description="Password of that login.")
    model: str = Field(PACKAGED_MODEL, description="Model identity of the first generation.")
    dimensions: int = Field(
        384, ge=1, le=2000, description="Dimensions of the model's vectors. If unset, those of a known model."
    )
    text_template: str = Field(
        BODY, description="Text template of the first generation, the same as HEADRACE_EMBEDDER_TEXT_TEMPLATE."
    )
    passage_prompt: str = Field(
        "", description="Prefix that the model needs before each passage. If unset, that of a known model."
    )
    over_long: OverLong = Field(
        OverLong.CUT, description="How to treat texts that are too long for the model: cut, split or skip."
    )
    analyzer: str = Field(
        DEFAULT,
        description="Analyzer of the first generation, which splits texts into terms for lexical search: words-1/ and "
        "the language of the stems for words in Latin script, or words-1/none.",
    )
    replication_factor: int = Field(1, ge=1, description="Replicas of each partition; use 3 in production.")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Fill in known values of the model that are not set, as the embedder does."""
        if not isinstance(values, dict):
            return values
        known = known_model(str(values.get("model", PACKAGED_MODEL)))
        return {"dimensions": known.dimensions, "passage_prompt": known.passage_prompt} | values


Report = Callable[[str], None]


def bootstrap(
    settings: BootstrapSettings,
    kafka: KafkaSettings,
    registry: RegistrySettings,
    objects: ObjectSettings,
    report: Report = lambda _: None,
) -> None:
    """Prepare Kafka, registry, PostgreSQL and object store for the services; a repeat changes nothing.

    Raises :class:`ConfigurationError` naming what does not match, and :class:`DependencyDown` naming what is down.
    """
    created = create_topics(kafka, settings.replication_factor)
    report(f"topics: {len(created)} created" if created else "topics: up to date")
    client = Registry(registry.url)
    ids = register_all(client, topics.record_schemas())
    report(f"schemas: {len(ids)} registered")
    applied = store.migrate(settings.postgres_dsn.get_secret_value(), settings.store_schema)
    report(f"store: revision {applied.current}")
    store.create_login(
        settings.postgres_dsn.get_secret_value(), settings.runtime_login, settings.runtime_password.get_secret_value()
    )
    if objects.url is not None:
        report(f"objects: {'marker created' if begin_objects(objects, kafka) else 'up to date'} in {objects.url}")
    asyncio.run(_first_generation(settings, kafka.generation))
    report(f"generation: {kafka.generation} for {settings.model}")
    for name, version, changed in apply_shipped(kafka, Codec(client)):
        report(f"pipeline: {name} version {version}{'' if changed else ' (unchanged)'}")
    client.close()


def create_topics(kafka: KafkaSettings, replication_factor: int) -> list[str]:
    """Create the declared topics that are missing; return their names.

    Raises :class:`DependencyDown` and, for a topic with other partitions than declared, :class:`ConfigurationError`.
    """
    admin = AdminClient(kafka.client())
    try:
        existing = admin.list_topics(timeout=_CALL_S).topics
    except KafkaException as error:
        raise DependencyDown("kafka", f"cannot list topics at {kafka.bootstrap}: {error}") from error
    wanted = {kafka.topic(topic.name): topic for topic in topics.concrete()}
    for name, topic in wanted.items():
        if name in existing and len(existing[name].partitions) != topic.partitions:
            raise ConfigurationError(
                f"topic {name!r} has {len(existing[name].partitions)} partitions, not {topic.partitions}",
                remedy="A new number of partitions moves keys to other partitions, which breaks their order. Use "
                "another topic prefix, or declare the existing number in the topic's file in schemas/topics.",
            )
    missing = [
        NewTopic(name, topic.partitions, replication_factor, config=topic.config(kafka.max_message_bytes))
        for name, topic in wanted.items()
        if name not in existing
    ]
    make_topics(admin, missing)
    return [topic.topic for topic in missing]


def make_topics(admin: AdminClient, wanted: Sequence[NewTopic]) -> None:
    """Create topics and wait until each of their partitions has a leader; existing topics stay.

    The controller knows a topic a moment before the brokers do; to a consumer that subscribes in between, the topic
    does not exist. Raises :class:`ConfigurationError` if a topic cannot be created, and :class:`DependencyDown`.
    """
    if not wanted:
        return
    for name, created in admin.create_topics(list(wanted), operation_timeout=_CALL_S).items():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ConfigurationError(f"topic {name!r} cannot be created: {error.args[0].str()}") from error
    deadline = time.monotonic() + _CALL_S
    missing = [topic.topic for topic in wanted]
    while missing := [name for name in missing if not _has_leaders(admin, name)]:
        if time.monotonic() > deadline:
            raise DependencyDown("kafka", f"the new topics {', '.join(missing)} have no leader after {_CALL_S:.0f} s")
        time.sleep(_LOOK_S)


def _has_leaders(admin: AdminClient, name: str) -> bool:
    try:
        partitions = admin.list_topics(name, _CALL_S).topics[name].partitions
    except KafkaException as error:
        raise DependencyDown("kafka", f"cannot list topic {name}: {error}") from error
    return bool(partitions) and all(part.error is None and part.leader >= 0 for part in partitions.values())


def begin_objects(objects: ObjectSettings, kafka: KafkaSettings) -> bool:
    """Mark the configured object store as this deployment's; return whether it had no marker before.

    Raises :class:`DependencyDown`, and :class:`ConfigurationError` if it belongs to another deployment.
    """
    from headrace.objects.store import store_of  # noqa: PLC0415  # the library behind it is large

    found = store_of(objects, kafka)
    return found is not None and found.begin()


async def _first_generation(settings: BootstrapSettings, generation: str) -> None:
    with postgresql_errors():
        connection = await asyncpg.connect(
            settings.postgres_dsn.get_secret_value(),
            server_settings={"search_path": f'"{settings.store_schema}", public'},
        )
    try:
        wanted = Generation(
            generation, settings.model, settings.dimensions, template=settings.text_template,
            passage_prompt=settings.passage_prompt, over_long=settings.over_long, analyzer=settings.analyzer,
        )  # fmt: skip
        found = await generations.get_generation(connection, generation)
        if found is not None:  # made by a reindex: what has no setting here, or is not set, stays as it is
            wanted = replace(wanted, distance=found.distance, storage=found.storage)
            if "analyzer" not in settings.model_fields_set:
                wanted = replace(wanted, analyzer=found.analyzer)
        await generations.create_generation(connection, wanted)
        if await generations.active_generation(connection) is None:
            await generations.activate(connection, generation)
    finally:
        await connection.close()


def apply_shipped(kafka: KafkaSettings, codec: Codec) -> list[tuple[str, int, bool]]:
    """Apply each shipped template unless its pipeline was ever applied: a user's version stays."""
    known = pipelines_log.read_all(kafka, codec)
    done = []
    for path in sorted(PIPELINE_FOLDER.glob("*.yaml")):
        template = load(path.read_text(encoding="utf-8"), path.name, None)
        newest = known.newest(template.id)
        if newest is None:
            newest = pipelines_log.apply(kafka, codec, template, applied_by="bootstrap").version
            done.append((template.id, newest.version, True))
        else:
            done.append((template.id, newest.version, False))
    return done


def main() -> int:
    """Run the step with settings from the environment; exit code 1 with the remedy if it fails.

    The exit code is 78 if a setting is missing or wrong, as for a stage.
    """
    try:
        bootstrap(
            BootstrapSettings(),
            KafkaSettings(),
            RegistrySettings(),
            ObjectSettings(),
            lambda line: print(line, flush=True),
        )
    except ValidationError as error:
        print(f"bootstrap cannot start: {wrong_settings(error)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except HeadraceError as error:
        print(f"bootstrap failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
