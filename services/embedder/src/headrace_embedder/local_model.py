"""A model in this process: it runs in its own threads, and queries overtake passages.

The provider counts the tokens of all texts, sorts the texts by length, and runs them in small batches. Measured on two
cores, small batches reach the highest rate; larger ones gain nothing and make queries wait longer.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import structlog

from headrace.embeddings.models import MULTILINGUAL_MODEL
from headrace.errors import ConfigurationError, DependencyDown
from headrace_embedder import openvino_model, torch_model
from headrace_embedder.agreement import PROBES
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_batches import Encode, ModelThreads, OutOfMemory, micro_batches
from headrace_embedder.model_folder import NotConverted
from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.tuning import tuned
from headrace_embedder.types import Kind

log = structlog.get_logger(__name__)

_ACCELERATORS = ("/dev/nvidia0", "/dev/kfd", "/dev/dxg")
"""Device files that show a GPU on Linux; asking torch would load it."""


class SentenceTransformersProvider(Provider):
    """Runs a model's ``encode`` (texts to vectors) in its own threads, and counts tokens."""

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
        """Load the model; raises :class:`ConfigurationError` if it does not exist or has different dimensions."""
        loaded = load(settings)
        dimensions = loaded.encode(list(PROBES[:1])).shape[1]
        if dimensions != settings.dimensions:
            raise ConfigurationError(
                f"the model {settings.model} has {dimensions} dimensions, but {settings.dimensions} are configured",
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
        """Return the vectors; texts that exceed the model's input limit are cut and listed in the result.

        Raises :class:`DependencyDown` if the device has too little memory for a single text.
        """
        full = self.prompted(texts, kind)
        read, cut = self.counter.read(await self.lengths(texts, kind) if lengths is None else lengths)
        batches = micro_batches(read, *self.caps)
        futures = [self._threads.submit([full[index] for index in batch], kind) for batch in batches]
        try:
            parts = await asyncio.gather(*map(asyncio.wrap_future, futures))
        except OutOfMemory as error:
            raise DependencyDown(
                "model device", f"the device has too little memory for a single text: {error}"
            ) from error
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
        """Finish the submitted batches and stop the model's threads."""
        await asyncio.to_thread(self._threads.close)


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model in the configured backend; raises :class:`ConfigurationError`.

    ``auto`` chooses OpenVINO on a CPU if it can run the model, and on a machine with a GPU if torch is not installed or
    cannot read the packaged model.
    """
    if settings.backend == "torch" or (settings.backend == "auto" and not on_processor(settings.device)):
        packaged = settings.model == MULTILINGUAL_MODEL
        if settings.backend == "torch" or settings.device is not None or (torch_model.installed() and not packaged):
            return torch_model.load(settings)
        if packaged:
            log.warning(
                "the GPU is not used by the packaged model",
                remedy=f"Set HEADRACE_EMBEDDER_MODEL=intfloat/{MULTILINGUAL_MODEL}.",
            )
        else:
            log.warning(
                "the GPU is not used because torch is not installed", remedy="Install headrace-embedder[torch]."
            )
    try:
        return openvino_model.load(settings)
    except NotConverted as error:
        if settings.backend == "openvino" or not torch_model.installed():
            raise ConfigurationError(
                f"OpenVINO cannot run the model {settings.model}: {error}",
                where="HEADRACE_EMBEDDER_MODEL, _BACKEND", remedy=_remedy(settings),
            ) from error  # fmt: skip
        log.warning("OpenVINO cannot run the model; torch runs it", model=settings.model, error=str(error))
        return torch_model.load(settings)


def _remedy(settings: EmbedderSettings) -> str:
    """Return the remedy for a model that OpenVINO cannot run."""
    if torch_model.installed():
        return "Set HEADRACE_EMBEDDER_BACKEND to torch or auto, or choose another model."
    return (
        "Install headrace-embedder[torch] (`make setup-torch` in the repository). Or run `headrace-embedder-convert "
        f"{settings.model} FOLDER` on a machine that has torch, and set HEADRACE_EMBEDDER_MODEL to the folder. Or "
        "choose a model of the BERT family."
    )


def on_processor(device: str | None) -> bool:
    """Whether the model will run on a CPU, where OpenVINO is fast."""
    if device is not None:
        return device == "cpu"
    return sys.platform == "linux" and not any(Path(place).exists() for place in _ACCELERATORS)
