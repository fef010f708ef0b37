"""What every provider of embeddings promises, and the check that each answer goes through."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from headrace.embeddings.models import KNOWN, PACKAGED_MODEL
from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, InvalidRecord
from headrace_embedder.fairness import FairShare
from headrace_embedder.settings import EmbedderSettings

if TYPE_CHECKING:
    from headrace_embedder.loaded import TokenCounter

Vectors = npt.NDArray[np.float32]
_REMEDY = "Compare HEADRACE_EMBEDDER_MODEL and _DIMENSIONS to what the provider runs."


class Kind(StrEnum):
    """What a text is; some models embed queries and passages differently."""

    PASSAGE = "passage"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """One unit vector for each text, in order: float32, shape (texts, dimensions), C-contiguous.

    The rows of texts in ``errors`` and ``skipped`` mean nothing. ``tokens`` were computed (as far as the provider
    counts them); the texts at ``cut`` were longer than the model's limit and those at ``split`` embedded in parts;
    ``skipped`` has the reason of each text that gets no vector by decision. ``text_tokens`` are the tokens by text, in
    order, and ``calls`` the requests, or runs of the model, that it took: the ledger of costs is written from them.
    Where a ``failure`` ended an attempt, the texts at ``unanswered`` have neither vector nor error.
    """

    vectors: Vectors
    errors: Mapping[int, HeadraceError] = field(default_factory=dict)
    tokens: int = 0
    cut: tuple[int, ...] = ()
    split: tuple[int, ...] = ()
    skipped: Mapping[int, str] = field(default_factory=dict)
    text_tokens: Sequence[int] = ()
    calls: int = 0
    failure: DependencyDown | None = None
    unanswered: frozenset[int] = frozenset()


class Provider(ABC):
    """Turns texts into unit vectors of ``dimensions`` numbers; ``model`` is its identity in cache and index."""

    name: ClassVar[str]
    local: ClassVar[bool] = True
    """Whether the model runs in this process, so that nobody charges for its tokens."""
    model: str
    dimensions: int
    fair: FairShare | None = None
    """Who goes first, where the provider has limits."""
    counter: TokenCounter | None = None
    """Counts tokens as the model does, where that is known."""
    prompts: Mapping[Kind, str] = MappingProxyType({})
    """What is put before a text, by its kind."""

    async def lengths(self, texts: Sequence[str], kind: Kind) -> Sequence[int]:
        """Return how long each text is behind its prompt: its tokens where they are counted here, else characters.

        Texts of one length are the cheapest together, and it is tokens that a model pads: sorted by characters, slices
        of 256 texts of mixed prose and tables took 1.6 % more of them.
        """
        full = self.prompted(texts, kind)
        if self.counter is None:
            return [len(text) for text in full]
        return await asyncio.to_thread(self.counter.whole, full)

    def prompted(self, texts: Sequence[str], kind: Kind) -> list[str]:
        """Return the texts behind the prompt of their kind."""
        prompt = self.prompts.get(kind, "")
        return [prompt + text for text in texts]

    @abstractmethod
    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return vectors in the order of the texts; ``lengths`` are those of :meth:`lengths`, where they are known.

        Raises :class:`headrace.errors.DependencyDown` where the model's server does not answer, with the delay that
        it asks for; what concerns single texts stands in the result's errors.
        """

    async def attempt(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Do as :meth:`embed`; what was answered, and paid for, before a failure stands in the result beside it."""
        return await self.embed(texts, kind, lengths)

    async def aclose(self) -> None:  # noqa: B027
        """Let go of what the provider holds."""


def check_vectors(vectors: Sequence[npt.ArrayLike] | Vectors, expected: int, dimensions: int) -> EmbedResult:
    """Return the vectors normalised, each that is wrong listed as :class:`InvalidRecord` naming field and reason.

    With more or fewer vectors than texts nobody knows which belongs to which: nothing is used, every text fails.
    """
    if len(vectors) != expected:
        error = InvalidRecord(
            "vector", f"the provider returned {len(vectors)} vectors for {expected} texts", remedy=_REMEDY
        )
        return EmbedResult(np.zeros((expected, dimensions), np.float32), dict.fromkeys(range(expected), error))
    if isinstance(vectors, np.ndarray) and vectors.shape == (expected, dimensions):
        errors: dict[int, HeadraceError] = {}
        array = np.array(vectors, dtype=np.float32, order="C")
    else:
        array, errors = _rows(vectors, dimensions)
    finite = np.asarray(np.isfinite(array).all(axis=1), dtype=np.bool_)
    norms = np.linalg.norm(np.where(finite[:, None], array, 0), axis=1)
    for index in np.flatnonzero(~finite | ~(norms > 0) | ~np.isfinite(norms)).tolist():
        array[index] = 0
        norms[index] = 1
        errors.setdefault(
            index, InvalidRecord("vector", "the provider returned NaN, infinity or a zero vector", remedy=_REMEDY)
        )
    array /= norms[:, None]
    return EmbedResult(array, errors)


def _rows(vectors: Sequence[npt.ArrayLike] | Vectors, dimensions: int) -> tuple[Vectors, dict[int, HeadraceError]]:
    """Return the rows that have the right shape, and an error for each of the others."""
    array = np.zeros((len(vectors), dimensions), np.float32)
    errors: dict[int, HeadraceError] = {}
    for index, vector in enumerate(vectors):
        try:
            row: Vectors = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            row = np.zeros((), np.float32)
        if row.shape == (dimensions,):
            array[index] = row
        else:
            found = f"a vector of {row.size} dimensions instead of {dimensions}" if row.ndim == 1 else "no vector"
            errors[index] = InvalidRecord("vector", f"the provider returned {found}", remedy=_REMEDY)
    return array, errors


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
        if settings.model == PACKAGED_MODEL and settings.dimensions != KNOWN[PACKAGED_MODEL].dimensions:
            raise ConfigurationError(f"{PACKAGED_MODEL} has 384 dimensions", where="HEADRACE_EMBEDDER_DIMENSIONS")
        return OpenAICompatibleProvider(settings)
    if settings.provider == "model2vec":
        from headrace_embedder.model2vec_model import Model2VecProvider  # noqa: PLC0415

        return Model2VecProvider.load(settings)
    from headrace_embedder.local_model import SentenceTransformersProvider  # noqa: PLC0415

    return SentenceTransformersProvider.load(settings)
