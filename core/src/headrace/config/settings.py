"""Settings shared by all services, from the environment; ``docs/reference/settings.md`` is generated from them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.topology import generation_names

EXIT_CONFIGURATION = 78
"""Exit code of a process that a missing or wrong setting keeps from starting."""


def wrong_settings(error: ValidationError) -> str:
    """Return what is wrong with which environment variable, for each setting that the error names."""
    classes = {cls.__name__: cls for cls in BaseSettings.__subclasses__()}
    prefix = classes[error.title].model_config.get("env_prefix", "") if error.title in classes else ""
    return "; ".join(f"{prefix}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors())


class KafkaSettings(BaseSettings):
    """How to reach Kafka."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_KAFKA_", frozen=True)

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka's bootstrap servers, host:port separated by commas.")
    topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="Put before every topic, group and transactional id."
    )
    generation: str = Field(
        "g1",
        pattern=f"^{generation_names.GENERATION}$",
        description="Generation of the index whose lanes are meant: the embedder and the indexer have topics, groups "
        "and transactional ids of their own in each.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Protocol of the connections."
    )
    sasl_mechanism: str | None = Field(None, description="SASL mechanism, for instance SCRAM-SHA-512.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password.")
    ssl_ca_location: str | None = Field(None, description="File with the certificates of the brokers' authorities.")
    max_message_bytes: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Largest record in bytes; broker, topics and clients agree on it.",
    )

    def client(self) -> dict[str, Any]:
        """Return the configuration that every librdkafka client shares."""
        config: dict[str, Any] = {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": self.security_protocol,
            "log.connection.close": "false",
            "reconnect.backoff.ms": 200,
            "reconnect.backoff.max.ms": 2000,
            "socket.nagle.disable": "true",
        }
        if self.sasl_mechanism:
            config["sasl.mechanism"] = self.sasl_mechanism
        if self.sasl_username:
            config["sasl.username"] = self.sasl_username
        if self.sasl_password:
            config["sasl.password"] = self.sasl_password.get_secret_value()
        if self.ssl_ca_location:
            config["ssl.ca.location"] = self.ssl_ca_location
        return config

    def of(self, generation: str) -> KafkaSettings:
        """Return the same settings for the lanes of that generation."""
        return self.model_copy(update={"generation": generation})

    def topic(self, name: str) -> str:
        """Return the topic's name on this broker."""
        return f"{self.topic_prefix}{generation_names.in_generation(name, self.generation)}"

    def bare(self, topic: str) -> str:
        """Return the name of which :meth:`topic` made this one; a topic of elsewhere keeps what it has more."""
        return generation_names.without_generation(topic.removeprefix(self.topic_prefix), self.generation)

    def group(self, stage: str, *, side: bool = False) -> str:
        """Return the consumer group of the stage's live or side lane."""
        name = generation_names.in_generation(stage, self.generation)
        return f"{self.topic_prefix}headrace-{name}{'-side' if side else ''}"


class RegistrySettings(BaseSettings):
    """How to reach the schema registry."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_REGISTRY_", frozen=True)

    url: str = Field(
        "http://127.0.0.1:8081",
        description="Base URL of the Confluent-compatible API, e.g. http://host:8080/apis/ccompat/v7.",
    )


class WorkerSettings(BaseSettings):
    """How a stage's worker reads, batches and commits."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_WORKER_", frozen=True)

    slot: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Stable name of this worker within its stage, unique among live ones; a restart with the same "
        "slot fences its predecessor at once. The default is the host's name.",
    )
    batch_records: int | None = Field(
        None, ge=1, le=100_000,
        description="Most records in a batch and its transaction; by default 64 for the embedder, 200 for the indexer, "
        "8 for the generator and 500 for the others.",
    )  # fmt: skip
    batch_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Most bytes of values in a batch.")
    linger_ms: int = Field(0, ge=0, le=60_000, description="How long a batch waits to fill; 0 takes what is there.")
    session_timeout_ms: int = Field(10_000, ge=1000, description="After this silence the group gives up a worker.")
    static_membership: bool = Field(
        False, description="Keep a worker's partitions for the session timeout while it restarts with the same slot, "
        "so that a restart moves nothing; a worker that leaves for good is missed only after that time.",
    )  # fmt: skip
    transaction_timeout_ms: int = Field(
        30_000,
        ge=1000,
        description="After this the broker aborts an abandoned transaction; readers wait no longer.",
    )
    call_bound_s: float = Field(
        60.0, gt=0, description="A Kafka call that hangs longer ends the process, so that it is restarted."
    )
    drain_s: float = Field(10.0, ge=0, description="On SIGTERM, the time to finish the batches under way.")
    retry_attempts: int = Field(
        8, ge=1, le=1000, description="How often a record is tried that fails for now, before it is given up."
    )
    retry_first_s: float = Field(1.0, gt=0, description="First wait of a record that failed for now; then it doubles.")
    retry_max_s: float = Field(60.0, gt=0, le=3600, description="Longest wait of a record that failed for now.")
    deaths: int = Field(
        3, ge=1, le=1000, description="A record that ends the worker so often, begun alone, is given up."
    )
    side_batch_records: int = Field(
        50, ge=1, le=100_000, description="Most records in a batch of retried and replayed ones; live ones wait for it."
    )
    replay_share: float = Field(
        0.1, gt=0, le=1, description="Part of the time that replays get from a stage while live records come."
    )
    dead_letter_window: int = Field(
        1000, ge=1, le=1_000_000, description="Newest records of which the share of dead letters is taken."
    )
    dead_letter_share: float = Field(
        0.5, gt=0, le=1, description="Above this share of dead letters for a fault that is hardly the records' own, "
        "the stage stops itself, so that a bad release does not drain a topic into the dead letters; 1 is never.",
    )  # fmt: skip
    backoff_s: float = Field(0.5, gt=0, description="First wait when a dependency is down; doubles with jitter.")
    backoff_max_s: float = Field(30.0, gt=0, description="Longest wait when a dependency is down.")


class ObjectSettings(BaseSettings):
    """Where payloads go that are too large for a record."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_OBJECTS_", frozen=True)

    url: str | None = Field(
        None,
        pattern=r"^(file:///[^?#]*[^/?#]|s3://[^/?#]+(/[^?#]*)?)$",
        description="Object store, the same for all stages and tools: `file:///folder` or `s3://bucket/folder`. "
        "Unset: a record that is too large is given up.",
    )
    limit_bytes: int = Field(
        1024 * 1024, ge=1024, description="A larger record has its payload put into the object store, in bytes."
    )
    max_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="Largest payload that is stored or read, in bytes.")
    batch_bytes: int = Field(
        16 * 1024 * 1024, ge=1024,
        description="Bytes of stored payloads that a stage takes up at a time; one that is larger is taken up alone.",
    )  # fmt: skip
    s3_endpoint: str | None = Field(None, description="URL of the S3 service; unset: that of AWS in the region.")
    s3_region: str | None = Field(None, description="Region of the bucket; unset: AWS_REGION, or us-east-1.")
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key for S3; unset: what AWS's own variables, the workload's or the machine's role give.",
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    s3_allow_http: bool = Field(False, description="Whether the S3 service may be reached without TLS.")
    ca_file: Path | None = Field(
        None, description="PEM file of further certificate authorities; the public ones stay trusted."
    )
    timeout_s: float = Field(30.0, gt=0, description="Longest reading or writing of one object, in seconds.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for one connection, in seconds.")


class ServiceSettings(BaseSettings):
    """What every service process shares."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True)

    http_host: str = Field("127.0.0.1", description="Address of /metrics, /healthz and /readyz.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz; 0 picks a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for eyes.")
