"""The model in torch: on any device, and what the other backend is made from and compared to."""

from __future__ import annotations

import copy
import importlib.util
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from headrace.errors import ConfigurationError
from headrace_embedder.agreement import LEAST_COSINE, PROBES, fast_bfloat16, least_cosine
from headrace_embedder.batching import Encode, OutOfMemory
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.types import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = structlog.get_logger(__name__)

CPU_CAPS = Caps(32, 640)
GPU_CAPS = Caps(256, 16_384)
_GPU_STREAMS = 2
"""While one batch computes the next one is tokenised and sent."""


def installed() -> bool:
    """Whether torch and sentence-transformers can be imported; to import them takes seconds."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "sentence_transformers"))


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model; raises :class:`ConfigurationError` where it does not load, or torch is not installed."""
    if not installed():
        raise ConfigurationError(
            f"torch is not installed to run the model {settings.model}", where="HEADRACE_EMBEDDER_BACKEND, _DEVICE",
            remedy="Install headrace-embedder[torch] (`make setup-torch` in the repository), or set the backend to "
            "openvino.",
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
    """Return the model on the device; raises :class:`ConfigurationError` where it does not load."""
    path = model_path(name)
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415

    disable_progress_bar()
    try:
        return SentenceTransformer(path, device=device).eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"the model {name} does not load: {error}", where="HEADRACE_EMBEDDER_MODEL, _DEVICE",
            remedy="Name a model or folder of sentence-transformers, and a device that this machine has.",
        ) from error  # fmt: skip


def tokenizer_of(model: SentenceTransformer) -> str | None:
    """Return the model's fast tokenizer in JSON; None where it has none."""
    backend = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    return None if backend is None else str(backend.to_str())


def encoder(model: SentenceTransformer) -> Encode:
    """Return texts → float32 vectors in one run of the model, without what ``encode`` adds around it.

    For several threads: each has a stream of its own on a GPU, and one after the other tokenises, which the tokenizer
    asks for ("Already borrowed").
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
    """Return the model in float32 or bfloat16; ``auto`` takes bfloat16 where it is fast and agrees with float32.

    Raises :class:`ConfigurationError` where bfloat16 is asked for and disagrees (cosine below :data:`LEAST_COSINE`).
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
    """Return the error of a model that bfloat16 changes too much."""
    return ConfigurationError(
        f"bfloat16 vectors of this model are too far from float32: cosine {least:.6f}, needed {LEAST_COSINE}",
        where="HEADRACE_EMBEDDER_PRECISION", remedy="Set it to float32 or auto.",
    )  # fmt: skip
