"""The generator's own settings; Kafka, registry and store have theirs in the core."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.retrieval.query_vectors import EmbedderAccess


class GeneratorSettings(BaseSettings):
    """Which language model writes the answers, and where the embedder is."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_GENERATOR_", frozen=True)

    provider: Literal["auto", "extractive", "openai-compatible"] = Field(
        "auto",
        description="Who writes: a language model, or extractive, which only quotes. auto takes the model where "
        "base_url and model are set.",
    )
    base_url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server, with its /v1, e.g. http://127.0.0.1:8000/v1."
    )
    model: str | None = Field(None, description="Name of the model at that server.")
    api_key: SecretStr | None = Field(None, description="API key of that server, where it wants one.")
    max_tokens: int = Field(800, ge=1, description="Longest answer, in tokens of the model.")
    temperature: float = Field(0.0, ge=0, le=2, description="Sampling temperature; 0 is the most repeatable.")
    timeout_s: float = Field(60.0, gt=0, description="Longest wait for the model, in seconds.")
    concurrency: int = Field(4, ge=1, le=1000, description="Questions that are answered at the same time.")
    embedder_url: str = Field(
        "http://127.0.0.1:8090",
        description="Base URL of the embedder's internal endpoint for queries; {generation} in it is the active one.",
    )
    embedder_token: SecretStr | None = Field(None, description="Bearer token of the embedder's endpoint.")
    embedder_timeout_s: float = Field(10.0, gt=0, description="Longest wait for a question's vector, in seconds.")

    @property
    def embedder(self) -> EmbedderAccess:
        """How questions reach the embedder."""
        return EmbedderAccess(
            self.embedder_url, self.embedder_token, self.embedder_timeout_s, "HEADRACE_GENERATOR_EMBEDDER_"
        )
