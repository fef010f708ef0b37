"""A model in this process: threads of its own run it, queries overtake passages.

Texts are counted in tokens over the whole list, sorted, and run in small batches: measured on two cores, small ones
reach the highest rate; larger ones gain nothing and make queries wait longer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import structlog

from headrace.errors import ConfigurationError, DependencyDown
from headrace_embedder import openvino_model, torch_model
from headrace_embedder.agreement import PROBES
from headrace_embedder.batching import Encode, ModelThreads, OutOfMemory, micro_batches
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_folder import NotConverted
from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.tuning import tuned
from headrace_embedder.types import Kind

log = structlog.get_logger(__name__)

_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""Where Linux shows a GPU: to ask torch would load it."""


class SentenceTransformersProvider(Provider):
    """A model behind ``encode`` (texts to vectors), run in threads of its own, and a counter of tokens."""

    name: ClassVar[str] = "sentence-transformers"
    counter: TokenCounter

    def __init__(
        self, model: str, dimensions: int, encode: Encode, counter: TokenCounter, caps: Caps, prompts: dict[Kind, str],
        streams: int = 1,
    ) -> None:  # fmt: skip
        self.model = model
        self.dimensions = dimensions
        self.caps = caps
        self.counter = counter
        self.prompts = prompts
        self._threads = ModelThreads(encode, streams)

    @classmethod
    def load(cls, settings: EmbedderSettings) -> SentenceTransformersProvider:
        """Load the model; raises :class:`ConfigurationError` for one that does not exist or has other dimensions."""
        loaded = load(settings)
        dimensions = loaded.encode(list(PROBES[:1])).shape[1]
        if dimensions != settings.dimensions:
            raise ConfigurationError(
                f"{settings.model} has {dimensions} dimensions, {settings.dimensions} are configured",
                where="HEADRACE_EMBEDDER_DIMENSIONS", remedy=f"Set it to {dimensions}.",
            )  # fmt: skip
        if settings.batch_size:
            caps = Caps(settings.batch_size, settings.batch_size * (loaded.limit or loaded.caps.tokens))
        else:
            caps = tuned(loaded, settings)
        log.info("model loaded", model=settings.model, batch_texts=caps.texts, batch_tokens=caps.tokens,
                 **loaded.details)  # fmt: skip
        prompts = {Kind.QUERY: settings.query_prompt, Kind.PASSAGE: settings.passage_prompt}
        name = Path(settings.model).name
        return cls(name, dimensions, loaded.encode, loaded.counter, caps, prompts, loaded.streams)

    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return the vectors; what exceeds the model's limit is cut, and counted in the result.

        Raises :class:`DependencyDown` where the device has no room for one text: others use it, or it is too small.
        """
        full = self.prompted(texts, kind)
        read, cut = self.counter.read(await self.lengths(texts, kind) if lengths is None else lengths)
        batches = micro_batches(read, *self.caps)
        futures = [self._threads.submit([full[index] for index in batch], kind) for batch in batches]
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
        return EmbedResult(
            checked.vectors, checked.errors, tokens=sum(read), cut=cut, text_tokens=read, calls=len(batches)
        )

    async def aclose(self) -> None:
        """Finish what runs and end the model's threads."""
        await asyncio.to_thread(self._threads.close)


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model in the backend that the settings name.

    ``auto`` takes OpenVINO on a processor where it can be, and on a GPU where torch is not installed. Raises
    :class:`ConfigurationError`.
    """
    if settings.backend == "torch" or (settings.backend == "auto" and not on_processor(settings.device)):
        if settings.backend == "torch" or settings.device is not None or torch_model.installed():
            return torch_model.load(settings)
        log.warning("a GPU is not used, as torch is not installed", remedy="Install headrace-embedder[torch].")
    try:
        return openvino_model.load(settings)
    except NotConverted as error:
        if settings.backend == "openvino" or not torch_model.installed():
            raise ConfigurationError(
                f"the model {settings.model} cannot run in OpenVINO: {error}",
                where="HEADRACE_EMBEDDER_MODEL, _BACKEND", remedy=_remedy(settings),
            ) from error  # fmt: skip
        log.warning("the model cannot run in OpenVINO; torch takes it", model=settings.model, error=str(error))
        return torch_model.load(settings)


def _remedy(settings: EmbedderSettings) -> str:
    """Return what to do about a model that OpenVINO does not run."""
    if torch_model.installed():
        return "Set the backend to torch or auto, or name another model."
    return (
        "Install headrace-embedder[torch] (`make setup-torch` in the repository). Or run `headrace-embedder-convert "
        f"{settings.model} FOLDER` where it is installed, and set HEADRACE_EMBEDDER_MODEL to the folder. Or name a "
        "model of the BERT family."
    )


def on_processor(device: str | None) -> bool:
    """Whether the model will run on a processor of a kind that OpenVINO is fast on."""
    if device is not None:
        return device == "cpu"
    return sys.platform == "linux" and not any(Path(place).exists() for place in _ACCELERATORS)
