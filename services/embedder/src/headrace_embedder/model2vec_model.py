"""model2vec: averages the word vectors of a table. Hundreds of times faster than a transformer, and less accurate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import structlog

from headrace.embeddings.models import identity
from headrace.errors import ConfigurationError
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.types import Kind

if TYPE_CHECKING:
    from model2vec import StaticModel

log = structlog.get_logger(__name__)

_UNKNOWN = "the model knows none of its words"
_TEXTS = 1024
"""Texts in one run."""


class Model2VecProvider(Provider):
    """A static model without an input limit."""

    name: ClassVar[str] = "model2vec"
    counter: TokenCounter

    def __init__(self, model: str, table: StaticModel, prompts: dict[Kind, str]) -> None:
        self.model = model
        self.dimensions = int(table.dim)
        self.counter = TokenCounter.of(table.tokenizer.to_str(), None)
        self._table = table
        self.prompts = prompts

    @classmethod
    def load(cls, settings: EmbedderSettings) -> Model2VecProvider:
        """Load a model by folder or name; raises :class:`ConfigurationError` if it fails or its dimensions differ."""
        table = _table(settings.model)
        if table.dim != settings.dimensions:
            raise ConfigurationError(
                f"the model {settings.model} has {table.dim} dimensions, but {settings.dimensions} are configured",
                where="HEADRACE_EMBEDDER_DIMENSIONS", remedy=f"Set it to {table.dim}.",
            )  # fmt: skip
        log.info("model loaded", model=settings.model, backend="model2vec", words=len(table.embedding))
        prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        return cls(identity(settings.model), table, prompts)

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return the vectors; a passage without a known word is skipped, and such a query is an error."""
        full = self.prompted(texts, kind)
        vectors = np.zeros((len(full), self.dimensions), np.float32)
        tokens = await self.lengths(texts, kind) if lengths is None else lengths
        for start in range(0, len(full), _TEXTS):
            part = full[start : start + _TEXTS]
            vectors[start : start + len(part)] = await asyncio.to_thread(self._encode, part)
        unknown = [] if kind is Kind.QUERY else np.flatnonzero(~vectors.any(axis=1)).tolist()
        checked = check_vectors(vectors, len(full), self.dimensions)
        errors = {position: error for position, error in checked.errors.items() if position not in set(unknown)}
        return EmbedResult(
            checked.vectors, errors, sum(tokens), skipped=dict.fromkeys(unknown, _UNKNOWN), text_tokens=tokens,
            calls=-(-len(full) // _TEXTS),
        )  # fmt: skip

    def _encode(self, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return np.asarray(self._table.encode(texts, max_length=None, use_multiprocessing=False), np.float32)


def _table(model: str) -> StaticModel:
    try:
        from model2vec import StaticModel  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "the package model2vec is not installed", where="HEADRACE_EMBEDDER_PROVIDER",
            remedy="Install headrace-embedder[model2vec], or choose another provider.",
        ) from error  # fmt: skip
    try:
        return StaticModel.from_pretrained(str(Path(model)) if Path(model).is_dir() else model)
    except Exception as error:  # from hub, safetensors, tokenizers or json
        raise ConfigurationError(
            f"cannot load the model {model}: {error}", where="HEADRACE_EMBEDDER_MODEL",
            remedy="Set it to a model2vec model or to a folder that contains one.",
        ) from error  # fmt: skip
