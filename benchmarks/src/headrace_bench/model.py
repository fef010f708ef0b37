"""The baselines of all benchmarks that embed: the plain sentence-transformers model, and the embedder's own backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from headrace.embeddings.models import PACKAGED_MODEL
from headrace.errors import ConfigurationError
from headrace_embedder.agreement import fast_bfloat16
from headrace_embedder.local_model import SentenceTransformersProvider
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.torch_model import installed
from headrace_embedder.types import Kind

BATCH_SIZES = (4, 8, 16, 32)


def require_baseline() -> None:
    """Raise :class:`ConfigurationError` if sentence-transformers is not installed."""
    if not installed():
        raise ConfigurationError(
            "this benchmark compares with sentence-transformers, which is not installed",
            where="headrace-bench[torch]",
            remedy="Run `make setup-torch` and use .venvs/torch/bin/headrace-bench.",
        )


class Backend:
    """The packaged model at the precision that the embedder chooses by itself on this machine."""

    def __init__(self) -> None:
        """Load the model; raises what :func:`require_baseline` does."""
        require_baseline()
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        self._model = SentenceTransformer(model_path(PACKAGED_MODEL), device="cpu")
        self.precision = "bfloat16" if fast_bfloat16() else "float32"
        if self.precision == "bfloat16":
            self._model.bfloat16()
        self.seconds(["warm up"] * 8, 8)

    def seconds(self, texts: Sequence[str], batch_size: int) -> float:
        """Return the seconds of one ``encode`` of the texts."""
        import torch  # noqa: PLC0415

        started = time.perf_counter()
        with torch.inference_mode():
            self._model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
        return time.perf_counter() - started

    def best_batch_size(self, texts: Sequence[str]) -> int:
        """Return the fastest batch size for these texts."""
        return min(BATCH_SIZES, key=lambda size: self.seconds(texts, size))


def own_backend(texts: Sequence[str]) -> float:
    """Return the texts per second of the embedder's own provider, alone in this process."""

    async def run() -> float:
        provider = SentenceTransformersProvider.load(EmbedderSettings())
        await provider.embed(list(texts[:64]), Kind.PASSAGE)
        started = time.perf_counter()
        await provider.embed(list(texts), Kind.PASSAGE)
        elapsed = time.perf_counter() - started
        await provider.aclose()
        return len(texts) / elapsed

    return asyncio.run(run())
