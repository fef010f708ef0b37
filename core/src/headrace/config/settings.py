"""Settings shared by all services, from the environment; ``docs/reference/settings.md`` is generated from them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.topology import generation_names

EXIT_CONFIGURATION = 78
"""Exit code of a process that cannot start because a setting is missing or wrong."""


def wrong_settings(error: ValidationError) -> str:
    """Return a text with the variable and the problem of each setting in the error."""
    classes = {cls.__name__: cls for cls in BaseSettings.__subclasses__()}
    prefix = classes[error.title].model_config.get("env_prefix", "") if error.title in classes else ""
    return "; ".join(f"{prefix}{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors())


class KafkaSettings(BaseSettings):
    """How to reach Kafka."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_KAFKA_", frozen=True)

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, host:port, separated by commas.")
    topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]*$", description="Prefix of every topic, consumer group and transactional ID."
    )
    generation: str = Field(
        "g1",
        pattern=f"^{generation_names.GENERATION}$",
        description="Generation of the index that this process works for. In each generation, the embedder and the "
        "indexer use their own topics, consumer groups and transactional IDs.",
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Security protocol of the connections to Kafka."
    )
    sasl_mechanism: str | None = Field(None, description="SASL mechanism, such as SCRAM-SHA-512.")
    sasl_username: str | None = Field(None, description="SASL user.")
    sasl_password: SecretStr | None = Field(None, description="SASL password.")
    ssl_ca_location: str | None = Field(None, description="File with the CA certificates for the brokers.")
    max_message_bytes: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Maximum size of a record in bytes. Set the same value for brokers, topics and clients.",
    )

    def client(self) -> dict[str, Any]:
        """Return the configuration that all librdkafka clients share."""
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
        """Return the same settings for another generation."""
        return self.model_copy(update={"generation": generation})

    def topic(self, name: str) -> str:
        """Return the topic's name on this broker."""
        return f"{self.topic_prefix}{generation_names.in_generation(name, self.generation)}"

    def bare(self, topic: str) -> str:
        """Return the name without prefix and generation (see :meth:`topic`); other names are returned unchanged."""
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
        description="Stable name of this worker within its stage. It must be unique among live workers; a worker that "
        "restarts with the same slot fences its predecessor at once. The default is the host name.",
    )
    batch_records: int | None = Field(
        None, ge=1, le=100_000,
        description="Maximum number of records in a batch and its transaction. The default is 64 for the embedder, 200 "
        "for the indexer, 8 for the generator and 500 for other stages.",
    )  # fmt: skip
    batch_bytes: int = Field(
        4 * 1024 * 1024, ge=1024, description="Maximum total size of the values in a batch, in bytes."
    )
    linger_ms: int = Field(
        0, ge=0, le=60_000, description="Time to wait for a batch to fill, in milliseconds; 0 does not wait."
    )
    session_timeout_ms: int = Field(
        10_000, ge=1000, description="The consumer group removes a worker that is silent for this many milliseconds."
    )
    static_membership: bool = Field(
        False, description="Reserve a worker's partitions for the session timeout while it restarts with the same "
        "slot, so that a restart causes no rebalance. The partitions of a worker that does not return stay unread "
        "for that time.",
    )  # fmt: skip
    transaction_timeout_ms: int = Field(
        30_000,
        ge=1000,
        description="The broker aborts an abandoned transaction after this many milliseconds. Until then, readers "
        "wait.",
    )
    call_bound_s: float = Field(
        60.0, gt=0, description="A Kafka call that hangs for more seconds than this ends the process, for a restart."
    )
    drain_s: float = Field(10.0, ge=0, description="Seconds to finish running batches after SIGTERM.")
    retry_attempts: int = Field(
        8, ge=1, le=1000, description="Maximum attempts for a record that fails temporarily; then it is dead-lettered."
    )
    retry_first_s: float = Field(
        1.0, gt=0, description="Seconds before the first retry of a record; doubles each time."
    )
    retry_max_s: float = Field(60.0, gt=0, le=3600, description="Maximum seconds between two attempts of a record.")
    deaths: int = Field(
        3,
        ge=1,
        le=1000,
        description="A record processed alone is dead-lettered after it crashed the worker this often.",
    )
    side_batch_records: int = Field(
        50,
        ge=1,
        le=100_000,
        description="Maximum number of retried and replayed records in a batch. Live records wait while it runs.",
    )
    replay_share: float = Field(
        0.1, gt=0, le=1, description="Share of a stage's time for replayed records while live records arrive."
    )
    dead_letter_window: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="Number of newest records over which the share of dead letters is computed.",
    )
    dead_letter_share: float = Field(
        0.5, gt=0, le=1, description="The stage stops itself above this share of dead letters for reasons other than "
        "invalid input, so that a bad release does not dead-letter a whole topic. 1 disables this.",
    )  # fmt: skip
    backoff_s: float = Field(
        0.5, gt=0, description="Seconds before the first retry when a dependency is down; doubles with jitter."
    )
    backoff_max_s: float = Field(30.0, gt=0, description="Maximum seconds between retries when a dependency is down.")


class ObjectSettings(BaseSettings):
    """Where large payloads are stored."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_OBJECTS_", frozen=True)

    url: str | None = Field(
        None,
        pattern=r"^(file:///[^?#]*[^/?#]|s3://[^/?#]+(/[^?#]*)?)$",
        description="URL of the object store, the same for all stages and tools: `file:///folder` or "
        "`s3://bucket/folder`. If unset, a record that is too large is dead-lettered.",
    )
    limit_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        description="The payload of a record larger than this many bytes goes to the object store.",
    )
    max_bytes: int = Field(32 * 1024 * 1024, ge=1024, description="Maximum size of a stored payload, in bytes.")
    batch_bytes: int = Field(
        16 * 1024 * 1024, ge=1024,
        description="Maximum bytes of stored payloads that a stage loads at a time. A larger payload is loaded alone.",
    )  # fmt: skip
    s3_endpoint: str | None = Field(None, description="URL of the S3 service. If unset, AWS in the region.")
    s3_region: str | None = Field(None, description="Region of the bucket. If unset, AWS_REGION or us-east-1.")
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key ID for S3. If unset, AWS's own variables or the role of the workload or machine apply.",
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret access key for S3.")
    s3_allow_http: bool = Field(False, description="Allow connections to the S3 service without TLS.")
    ca_file: Path | None = Field(None, description="PEM file with additional CA certificates. Public CAs stay trusted.")
    timeout_s: float = Field(30.0, gt=0, description="Maximum seconds to read or write one object.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Maximum seconds to open a connection.")


class ServiceSettings(BaseSettings):
    """What every service process shares."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True)

    http_host: str = Field("127.0.0.1", description="Host address of /metrics, /healthz and /readyz.")
    http_port: int = Field(0, ge=0, le=65535, description="Port of /metrics, /healthz and /readyz; 0 picks one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum level to log.")
    log_format: Literal["json", "console"] = Field(
        "json", description="Log format: json for machines, console for people."
    )
