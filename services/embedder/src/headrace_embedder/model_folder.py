"""Reads a model's folder without transformers and sentence-transformers, which define its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

WEIGHTS = "model.safetensors"
FILES = ("*.json", f"*{WEIGHTS}")
"""The files to read; repositories also hold the same weights in other formats, several GB each."""
_COUNTS_FROM_PADDING = {"bert": False, "roberta": True, "xlm-roberta": True}
"""The architectures of the BERT family, and whether their positions start after the padding token's ID."""
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
_LEGACY_POOLING = "pooling_mode_"
_POOLINGS = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
_HARMLESS = {"max_seq_length", "modality_config"}
_DEFAULTS = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}


class NotConverted(Exception):
    """OpenVINO cannot run the model; the message says why."""


class Config(BaseModel):
    """The fields of ``config.json`` that the graph needs; the defaults are those of transformers."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_type: str
    hidden_size: int = Field(768, ge=1)
    num_hidden_layers: int = Field(12, ge=1)
    num_attention_heads: int = Field(12, ge=1)
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = Field(512, ge=1)
    pad_token_id: int = Field(0, ge=0)
    position_embedding_type: str = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    auto_map: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None

    @property
    def counts_from_padding(self) -> bool:
        """Whether the first token's position is the padding token's ID plus 1, as in RoBERTa."""
        return _COUNTS_FROM_PADDING[self.model_type]

    @property
    def positions(self) -> int:
        """The maximum number of tokens that have a position."""
        return self.max_position_embeddings - (self.pad_token_id + 1 if self.counts_from_padding else 0)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model of the BERT family; ``pooling`` is ``mean`` or ``cls``, ``limit`` the maximum tokens per text."""

    weights: Path
    config: Config
    pooling: str
    normalised: bool
    tokenizer: str
    limit: int


def read(folder: Path) -> ModelFolder:
    """Read the model's folder; raises :class:`NotConverted` for a model that the graph does not support."""
    transformer, pooling, normalised = _modules(folder)
    config = _config(transformer)
    weights, tokenizer = transformer / WEIGHTS, transformer / "tokenizer.json"
    for file in (weights, tokenizer):
        if not file.is_file():
            raise NotConverted(f"its folder has no file {file.name}")
    limit = _limit(transformer, config)
    return ModelFolder(weights, config, pooling, normalised, tokenizer.read_text(encoding="utf-8"), limit)


def _modules(folder: Path) -> tuple[Path, str, bool]:
    """Return the transformer's folder, the pooling, and whether vectors are normalized.

    A folder without ``modules.json`` is a plain transformer, for which sentence-transformers uses mean pooling.
    """
    modules = _json(folder / "modules.json", [])
    if not modules:
        return folder, "mean", False
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise NotConverted(f"its modules are {', '.join(kinds)}; supported: Transformer, Pooling, Normalize")
    pooling = _pooling(_json(folder / modules[1]["path"] / "config.json", {}))
    return folder / modules[0]["path"], pooling, len(kinds) > 2


def _pooling(config: dict[str, Any]) -> str:
    """Return the pooling, from either notation: one name, or a flag for each mode."""
    named = config.get("pooling_mode")
    if named is None:
        flags = {name.removeprefix(_LEGACY_POOLING) for name in config if name.startswith(_LEGACY_POOLING)}
        named = [name for name in sorted(flags) if config[_LEGACY_POOLING + name]] or ["mean"]
    modes = [named] if isinstance(named, str) else list(named)
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise NotConverted(f"its pooling is {', '.join(modes)}; supported: mean, cls")
    return _POOLINGS[modes[0]]


def _config(transformer: Path) -> Config:
    """Return the transformer's configuration; raises :class:`NotConverted` unless it is a plain encoder."""
    file = transformer / "config.json"
    if not file.is_file():
        raise NotConverted(f"its folder has no file {file.name}")
    try:
        config = Config.model_validate(_json(file, {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise NotConverted(f"config.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if config.model_type not in _COUNTS_FROM_PADDING:
        raise NotConverted(f"its architecture is {config.model_type}; supported: {', '.join(_COUNTS_FROM_PADDING)}")
    if config.hidden_act not in _ACTIVATIONS:
        raise NotConverted(f"its hidden_act is {config.hidden_act}; supported: {', '.join(_ACTIVATIONS)}")
    if config.position_embedding_type != "absolute":
        raise NotConverted(f"its position_embedding_type is {config.position_embedding_type}, not absolute")
    if config.is_decoder or config.add_cross_attention:
        raise NotConverted("it is a decoder")
    if config.auto_map or config.quantization_config:
        raise NotConverted("it requires custom code (auto_map)" if config.auto_map else "its weights are quantized")
    if config.hidden_size % config.num_attention_heads:
        raise NotConverted(
            f"its hidden_size {config.hidden_size} is not divisible by {config.num_attention_heads} attention heads"
        )
    return config


def _limit(transformer: Path, config: Config) -> int:
    """Return the maximum tokens per text, from the same files and in the same order as sentence-transformers."""
    found = sorted(transformer.glob("sentence_*_config.json"))
    settings = _json(found[0], {}) if found else {}
    odd = [name for name, value in settings.items() if value and name not in _HARMLESS and value != _DEFAULTS.get(name)]
    if odd:
        raise NotConverted(f"{found[0].name} sets {', '.join(odd)}, which the graph does not support")
    limit = settings.get("max_seq_length") or _json(transformer / "tokenizer_config.json", {}).get("model_max_length")
    return min(int(limit or config.positions), config.positions)


def _json(file: Path, default: Any) -> Any:
    """Return the file's content, or the default if it does not exist; raises :class:`NotConverted` for invalid JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as error:
        raise NotConverted(f"{file.name} is not JSON: {error}") from error
