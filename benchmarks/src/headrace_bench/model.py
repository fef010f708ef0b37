"""The baseline of everything that embeds: the bare model of sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer

from headrace_embedder.local_model import fast_bfloat16, model_path
from headrace_embedder.settings import PACKAGED_MODEL

BATCH_SIZES = (4, 8, 16, 32)


class Backend:
    """The packaged model at the precision that the embedder chooses by itself on this machine."""

    def __init__(self) -> None:
        self._model = SentenceTransformer(model_path(PACKAGED_MODEL), device="cpu")
        self.precision = "bfloat16" if fast_bfloat16() else "float32"
        if self.precision == "bfloat16":
            self._model.bfloat16()
        self.seconds(["warm up"] * 8, 8)

    def seconds(self, texts: Sequence[str], batch_size: int) -> float:
        """Seconds of one ``encode`` over the texts."""
        started = time.perf_counter()
        with torch.inference_mode():
            self._model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
        return time.perf_counter() - started

    def best_batch_size(self, texts: Sequence[str]) -> int:
        """Return the batch size that is fastest on these texts."""
        return min(BATCH_SIZES, key=lambda size: self.seconds(texts, size))
