"""The gateway's own settings. The settings for Kafka, registry and store are in the core."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.retrieval.query_vectors import EmbedderAccess


class GatewaySettings(BaseSettings):
    """Address and limits of the gateway, and access to the embedder."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_GATEWAY_", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on. 0 picks a free port.")
    embedder_url: str = Field(
        "http://127.0.0.1:8090",
        description="Base URL of the embedder's internal endpoint for queries. {generation} means the active one.",
    )
    embedder_token: SecretStr | None = Field(None, description="Bearer token for the embedder's endpoint.")
    embedder_timeout_s: float = Field(10.0, gt=0, description="Maximum wait for a query's vector, in seconds.")
    query_cache: int = Field(1024, ge=0, description="Maximum number of query vectors to keep in memory. 0 keeps none.")
    query_cache_s: float = Field(60.0, gt=0, description="Time to keep a query vector, in seconds.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Maximum size of a request body, in bytes.")
    max_content_bytes: int = Field(
        4 * 1024 * 1024, ge=1, description="Maximum size of a change's content, in bytes of UTF-8, or of its file."
    )
    max_changes: int = Field(1000, ge=1, description="Maximum number of changes in one request.")
    key_cache_s: float = Field(
        15.0, ge=0, le=30, description="Time to cache an API key's tenant, in seconds. A revoked key works that long."
    )
    idempotency_s: float = Field(
        3600.0, gt=0, description="Time to answer repeats with the same Idempotency-Key from memory, in seconds."
    )
    idempotency_entries: int = Field(10_000, ge=1, description="Maximum number of answers to keep for repeats.")
    publish_timeout_s: float = Field(
        10.0, gt=0, description="Maximum wait for Kafka to acknowledge changes, in seconds."
    )
    retry_after_s: int = Field(2, ge=1, description="Retry-After of a response with status 503, in seconds.")
    drain_s: int = Field(10, ge=0, description="Time to finish requests in progress after SIGTERM, in seconds.")

    @property
    def embedder(self) -> EmbedderAccess:
        """Access to the embedder for queries."""
        return EmbedderAccess(
            self.embedder_url, self.embedder_token, self.embedder_timeout_s, "HEADRACE_GATEWAY_EMBEDDER_",
            self.query_cache, self.query_cache_s,
        )  # fmt: skip
