"""The contract of embedding providers, and the check of every response."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from headrace.errors import DependencyDown, HeadraceError, InvalidRecord
from headrace_embedder.fairness import FairShare
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.types import Kind, Vectors

_REMEDY = "Set HEADRACE_EMBEDDER_MODEL and HEADRACE_EMBEDDER_DIMENSIONS to the model that the provider runs."


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """One unit vector for each text, in order: float32, shape (texts, dimensions), C-contiguous.

    Ignore the rows of texts in ``errors`` and ``skipped``. ``tokens`` is the number of processed tokens (as far as the
    provider counts them). The texts at ``cut`` exceeded the model's input limit; those at ``split`` were embedded in
    parts; ``skipped`` has the reason for each text that gets no vector by design. ``text_tokens`` has the tokens of
    each text, in order, and ``calls`` the number of requests or model runs; both go into the ledger. If a ``failure``
    ended an attempt, the texts at ``unanswered`` have neither a vector nor an error.
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
    """Whether the model runs in this process, so that its tokens cost nothing."""
    model: str
    dimensions: int
    fair: FairShare | None = None
    """Shares the rate limits between tenants; None if the provider has no limits."""
    counter: TokenCounter | None = None
    """Counts tokens as the model does; None if the tokenizer is unknown."""
    prompts: Mapping[Kind, str] = MappingProxyType({})
    """The prefix of a text, by its kind."""

    async def lengths(self, texts: Sequence[str], kind: Kind) -> Sequence[int]:
        """Return the length of each text with its prompt, in tokens if this provider counts them, else in characters.

        Batches of texts of equal length are the cheapest, because a model pads tokens. Sorted by characters instead,
        slices of 256 texts of mixed prose and tables took 1.6 % more tokens.
        """
        full = self.prompted(texts, kind)
        if self.counter is None:
            return [len(text) for text in full]
        return await asyncio.to_thread(self.counter.whole, full)

    def prompted(self, texts: Sequence[str], kind: Kind) -> list[str]:
        """Return the texts with the prompt of their kind in front."""
        prompt = self.prompts.get(kind, "")
        return [prompt + text for text in texts]

    @abstractmethod
    async def embed(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Return vectors in the order of the texts; ``lengths`` is the result of :meth:`lengths` if known.

        Raises :class:`headrace.errors.DependencyDown` if the model's server does not answer, with the delay that it
        requests. Errors of single texts are in the result's ``errors``.
        """

    async def attempt(self, texts: Sequence[str], kind: Kind, lengths: Sequence[int] | None = None) -> EmbedResult:
        """Do the same as :meth:`embed`, but return a failure in the result, with the vectors from before it."""
        return await self.embed(texts, kind, lengths)

    async def aclose(self) -> None:  # noqa: B027
        """Release the provider's resources."""


def check_vectors(vectors: Sequence[npt.ArrayLike] | Vectors, expected: int, dimensions: int) -> EmbedResult:
    """Return the normalized vectors; each invalid vector is an :class:`InvalidRecord` in ``errors``.

    If the number of vectors differs from the number of texts, they cannot be matched, and every text fails.
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
            index,
            InvalidRecord(
                "vector", "the provider returned a vector that is zero or contains NaN or infinity", remedy=_REMEDY
            ),
        )
    array /= norms[:, None]
    return EmbedResult(array, errors)


def _rows(vectors: Sequence[npt.ArrayLike] | Vectors, dimensions: int) -> tuple[Vectors, dict[int, HeadraceError]]:
    """Return the rows with the right shape, and an error for each other row."""
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
            found = (
                f"a vector with {row.size} dimensions instead of {dimensions}"
                if row.ndim == 1
                else "a value that is not a vector"
            )
            errors[index] = InvalidRecord("vector", f"the provider returned {found}", remedy=_REMEDY)
    return array, errors
