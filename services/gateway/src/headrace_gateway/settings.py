"""The gateway's own settings; Kafka, registry and store have theirs in the core."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.retrieval.query_vectors import EmbedderAccess


class GatewaySettings(BaseSettings):
    """How the gateway listens, what it accepts, and where the embedder is."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_GATEWAY_", frozen=True)

    host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port that the gateway listens on; 0 picks a free one.")
    embedder_url: str = Field(
        "http://127.0.0.1:8090",
        description="Base URL of the embedder's internal endpoint for queries; {generation} in it is the active one.",
    )
    embedder_token: SecretStr | None = Field(None, description="Bearer token of the embedder's endpoint.")
    embedder_timeout_s: float = Field(10.0, gt=0, description="Longest wait for a query's vector, in seconds.")
    query_cache: int = Field(1024, ge=0, description="Query vectors kept in memory; 0 keeps none.")
    query_cache_s: float = Field(60.0, gt=0, description="How long a query vector is kept, in seconds.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Largest request body in bytes.")
    max_content_bytes: int = Field(
        4 * 1024 * 1024, ge=1, description="Largest content of one change in bytes of UTF-8, and largest file in bytes."
    )
    max_changes: int = Field(1000, ge=1, description="Most changes in one request.")
    key_cache_s: float = Field(
        15.0, ge=0, le=30, description="How long a key's tenant is remembered; a revoked key works that long."
    )
    idempotency_s: float = Field(
        3600.0, gt=0, description="How long a repeat with the same Idempotency-Key is answered from memory."
    )
    idempotency_entries: int = Field(10_000, ge=1, description="Most answers remembered for repeats.")
    publish_timeout_s: float = Field(10.0, gt=0, description="Longest wait for Kafka to take changes, in seconds.")
    retry_after_s: int = Field(2, ge=1, description="Retry-After of a 503, in seconds.")
    drain_s: int = Field(10, ge=0, description="On SIGTERM, the time to finish requests under way, in seconds.")

    @property
    def embedder(self) -> EmbedderAccess:
        """How queries reach the embedder."""
        return EmbedderAccess(
            self.embedder_url, self.embedder_token, self.embedder_timeout_s, "HEADRACE_GATEWAY_EMBEDDER_",
            self.query_cache, self.query_cache_s,
        )  # fmt: skip
