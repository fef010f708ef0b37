"""The torch backend: it runs on any device, and OpenVINO models are converted from it and compared with it."""

from __future__ import annotations

import copy
import importlib.util
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from headrace.embeddings.models import MULTILINGUAL_MODEL
from headrace.errors import ConfigurationError
from headrace_embedder.agreement import LEAST_COSINE, PROBES, fast_bfloat16, least_cosine
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_batches import Encode, OutOfMemory
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.types import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = structlog.get_logger(__name__)

CPU_CAPS = Caps(32, 640)
GPU_CAPS = Caps(256, 16_384)
_GPU_STREAMS = 2
"""While the GPU computes one batch, the next one is tokenized and copied."""


def installed() -> bool:
    """Whether torch and sentence-transformers are installed; importing them would take seconds."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "sentence_transformers"))


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model; raises :class:`ConfigurationError` if it does not load or torch is not installed."""
    if not installed():
        raise ConfigurationError(
            f"the model {settings.model} requires torch, which is not installed",
            where="HEADRACE_EMBEDDER_BACKEND, _DEVICE",
            remedy="Install headrace-embedder[torch] (`make setup-torch` in the repository), or set "
            "HEADRACE_EMBEDDER_BACKEND=openvino.",
        )  # fmt: skip
    import torch  # noqa: PLC0415

    if settings.threads:
        torch.set_num_threads(settings.threads)
    model = in_precision(load_model(settings.model, settings.device), settings.precision)
    details = {
        "backend": "torch", "device": str(model.device), "precision": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    caps, streams = (CPU_CAPS, 1) if model.device.type == "cpu" else (GPU_CAPS, _GPU_STREAMS)
    if model.device.type == "cuda":
        details["card"] = torch.cuda.get_device_name(model.device)
    counter = TokenCounter.of(tokenizer_of(model), model.max_seq_length)
    return Loaded(encoder(model), counter, caps, model.max_seq_length, details, settings.streams or streams)


def load_model(name: str, device: str | None) -> SentenceTransformer:
    """Return the model on the device; raises :class:`ConfigurationError` if it does not load."""
    path = model_path(name)
    if name == MULTILINGUAL_MODEL:
        raise ConfigurationError(
            f"torch cannot load the packaged model {name}, whose weights are compressed",
            where="HEADRACE_EMBEDDER_MODEL, _BACKEND, _DEVICE",
            remedy=f"Set HEADRACE_EMBEDDER_MODEL=intfloat/{name}, or remove HEADRACE_EMBEDDER_BACKEND and _DEVICE.",
        )
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    try:
        return SentenceTransformer(path, device=device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"cannot load the model {name}: {error}", where="HEADRACE_EMBEDDER_MODEL, _DEVICE",
            remedy="Set HEADRACE_EMBEDDER_MODEL to a sentence-transformers model or folder, and "
            "HEADRACE_EMBEDDER_DEVICE to a device of this machine.",
        ) from error  # fmt: skip


def tokenizer_of(model: SentenceTransformer) -> str | None:
    """Return the model's fast tokenizer in JSON, or None if it has none."""
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    return None if backend is None else str(backend.to_str())


def encoder(model: SentenceTransformer) -> Encode:
    """Return a function from texts to float32 vectors that runs the model once, without the overhead of ``encode``.

    Several threads may call it: on a GPU each has its own stream. Only one thread at a time tokenizes, because the
    tokenizer allows no more (it fails with "Already borrowed").
    """
    import torch  # noqa: PLC0415

    tokenising, own = threading.Lock(), threading.local()

    def stream() -> AbstractContextManager[Any]:
        if model.device.type != "cuda":
            return nullcontext()
        if not hasattr(own, "stream"):
            own.stream = torch.cuda.Stream(model.device)
        active: AbstractContextManager[Any] = torch.cuda.stream(own.stream)
        return active

    def encode(texts: list[str]) -> Vectors:
        try:
            with tokenising:
                tokens = model.preprocess(texts)
            with torch.inference_mode(), stream():
                features = {
                    name: value.to(model.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
                    for name, value in tokens.items()
                }
                vectors: Vectors = model(features)["sentence_embedding"].float().cpu().numpy()
                return vectors
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(str(error)) from error

    return encode


def in_precision(model: SentenceTransformer, precision: str) -> SentenceTransformer:
    """Return the model in float32 or bfloat16; ``auto`` uses bfloat16 if it is fast and agrees with float32.

    Raises :class:`ConfigurationError` if bfloat16 is configured and disagrees (cosine below :data:`LEAST_COSINE`).
    """
    import torch  # noqa: PLC0415

    model = model.float()
    fast = torch.cuda.is_bf16_supported() if model.device.type == "cuda" else fast_bfloat16()
    if precision == "float32" or (precision == "auto" and not fast):
        return model
    brief = copy.deepcopy(model).bfloat16()
    least = least_cosine(encoder(model)(list(PROBES)), encoder(brief)(list(PROBES)))
    log.info("bfloat16 compared to float32", least_cosine=round(least, 6), needed=LEAST_COSINE)
    if least >= LEAST_COSINE:
        return brief
    if precision == "bfloat16":
        raise too_far(least)
    return model


def too_far(least: float) -> ConfigurationError:
    """Return the error for a model whose vectors bfloat16 changes too much."""
    return ConfigurationError(
        f"this model's bfloat16 vectors differ too much from float32: cosine {least:.6f}, required {LEAST_COSINE}",
        where="HEADRACE_EMBEDDER_PRECISION", remedy="Set it to float32 or auto.",
    )  # fmt: skip
