"""What every provider of embeddings promises, and the check that each answer goes through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from headrace.errors import ConfigurationError, HeadraceError, InvalidRecord
from headrace_embedder.settings import PACKAGED_MODEL, EmbedderSettings

Vectors = npt.NDArray[np.float32]


class Kind(StrEnum):
    """What a text is; some models embed queries and passages differently."""

    PASSAGE = "passage"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """One unit vector (float32) for each text, in order; the rows of texts in ``errors`` mean nothing."""

    vectors: Vectors
    errors: Mapping[int, HeadraceError] = field(default_factory=dict)


class Provider(ABC):
    """Turns texts into unit vectors of ``dimensions`` numbers; ``model`` is its identity in cache and index."""

    model: str
    dimensions: int

    @abstractmethod
    async def embed(self, texts: Sequence[str], kind: Kind) -> EmbedResult:
        """Return vectors in the order of the texts.

        Raises :class:`headrace.errors.DependencyDown` where the model's server does not answer, with the delay that
        it asks for; what concerns single texts stands in the result's errors.
        """

    async def aclose(self) -> None:  # noqa: B027
        """Let go of what the provider holds."""


def check_vectors(vectors: npt.ArrayLike, texts: int, dimensions: int) -> EmbedResult:
    """Return the vectors normalised, each that is wrong listed as :class:`InvalidRecord` naming field and reason.

    An answer with another number of vectors or another dimension cannot be matched to its texts: every text fails.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape != (texts, dimensions):
        reason = f"the provider returned an array of shape {array.shape} for {texts} texts of {dimensions} dimensions"
        error = InvalidRecord("vector", reason, remedy="Compare HEADRACE_EMBEDDER_MODEL and _DIMENSIONS to the server.")
        return EmbedResult(np.zeros((texts, dimensions), np.float32), dict.fromkeys(range(texts), error))
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    wrong = ~np.isfinite(array).all(axis=1) | ~(norms[:, 0] > 0)
    errors: dict[int, HeadraceError] = {
        int(index): InvalidRecord("vector", "the provider returned NaN, infinity or zero for this text")
        for index in np.flatnonzero(wrong)
    }
    norms[wrong] = 1.0
    return EmbedResult(array / norms, errors)


def build(settings: EmbedderSettings) -> Provider:
    """Return the provider that the settings name; only the local one imports torch.

    Raises :class:`ConfigurationError` naming the setting that is missing or wrong.
    """
    if settings.provider == "hashing":
        from headrace_embedder.hashing import HashingProvider  # noqa: PLC0415

        return HashingProvider(settings.dimensions)
    if settings.provider == "openai-compatible":
        from headrace_embedder.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

        if settings.base_url is None:
            raise ConfigurationError(
                "the provider openai-compatible has no server", where="HEADRACE_EMBEDDER_BASE_URL",
                remedy="Set it to the server's URL up to /v1.",
            )  # fmt: skip
        if settings.model == PACKAGED_MODEL and settings.dimensions != 384:
            raise ConfigurationError(f"{PACKAGED_MODEL} has 384 dimensions", where="HEADRACE_EMBEDDER_DIMENSIONS")
        return OpenAICompatibleProvider(settings)
    from headrace_embedder.local_model import LocalModelProvider  # noqa: PLC0415

    return LocalModelProvider.load(settings)
