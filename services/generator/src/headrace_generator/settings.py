"""The generator's own settings; those of Kafka, the schema registry and the store are in the core."""

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
        description="Provider that writes the answers: openai-compatible calls a language model, extractive quotes "
        "passages. auto uses openai-compatible if base_url and model are set, otherwise extractive.",
    )
    base_url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible server, including /v1, e.g. http://127.0.0.1:8000/v1."
    )
    model: str | None = Field(None, description="Name of the model on that server.")
    api_key: SecretStr | None = Field(None, description="API key for that server, if it requires one.")
    max_tokens: int = Field(800, ge=1, description="Maximum length of an answer, in tokens of the model.")
    temperature: float = Field(
        0.0, ge=0, le=2, description="Sampling temperature; 0 gives the most repeatable answers."
    )
    timeout_s: float = Field(60.0, gt=0, description="Timeout for a request to the model, in seconds.")
    concurrency: int = Field(4, ge=1, le=1000, description="Maximum number of questions to answer concurrently.")
    embedder_url: str = Field(
        "http://127.0.0.1:8090",
        description="Base URL of the embedder's internal endpoint for queries. {generation} is replaced by the name of "
        "the active generation.",
    )
    embedder_token: SecretStr | None = Field(None, description="Bearer token for the embedder's endpoint.")
    embedder_timeout_s: float = Field(10.0, gt=0, description="Timeout for a question's vector, in seconds.")

    @property
    def embedder(self) -> EmbedderAccess:
        """How to reach the embedder."""
        return EmbedderAccess(
            self.embedder_url, self.embedder_token, self.embedder_timeout_s, "HEADRACE_GENERATOR_EMBEDDER_"
        )
