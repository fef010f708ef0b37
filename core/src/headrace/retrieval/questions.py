"""The legs of a question: its vector, from the embedder, and its terms."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.models import unread_language
from headrace.lexical import weights
from headrace.lexical.analyzer import analyzer_of
from headrace.retrieval.mode import Mode
from headrace.retrieval.query_vectors import QueryVectors
from headrace.store.fit import FIT_THRESHOLD
from headrace.store.fusion import DENSE_WEIGHT
from headrace.store.generations import check_query
from headrace.store.rows import Generation
from headrace.store.search import Question


class SearchSettings(BaseSettings):
    """How the legs of a search are fused, and what fits; for the gateway and the generator alike."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_SEARCH_", frozen=True)

    dense_weight: float = Field(
        DENSE_WEIGHT, ge=0, le=1,
        description="Share of meaning in the score of a hybrid search, from 0 (words alone) to 1 (meaning alone). "
        "Phrases of the question lower it by up to half where the documents have them, and raise it where they do not.",
    )  # fmt: skip
    fit_threshold: float = Field(
        FIT_THRESHOLD, ge=0, le=1,
        description="Lowest fit of an answer, from 0 (as random questions find) to 1. Below it, a search says that "
        "nothing fits, and a question to answer is answered so without the language model. 0 turns it off.",
    )  # fmt: skip


class Questions:
    """Makes questions for the index out of texts."""

    def __init__(self, embedder: QueryVectors, settings: SearchSettings) -> None:
        self._embedder = embedder
        self._settings = settings

    def fits(self, fit: float | None, minimum: float | None = None) -> bool:
        """Whether what a search found fits: at least ``minimum``, by default the setting; True if nothing can tell."""
        return fit is None or fit >= (self._settings.fit_threshold if minimum is None else minimum)

    async def ask(
        self, generation: Generation, tenant: str, text: str, mode: Mode = Mode.HYBRID, *, explain: bool = False
    ) -> Question:
        """Return the question with the legs of the mode.

        A hybrid question has no dense leg if the model does not know its script, because it would only add noise; it
        has no lexical leg if the text has no terms (punctuation alone).

        Raises :class:`~headrace.errors.DependencyDown`, and :class:`~headrace.errors.InvalidRecord` for a text that the
        embedder rejects.
        """
        weight = self._settings.dense_weight
        terms: dict[int, str] = {}
        sequence: tuple[str, ...] = ()
        if mode is not Mode.VECTOR:
            analyzer = analyzer_of(generation.analyzer)
            terms = weights.query(analyzer, tenant, text)
            sequence = weights.sequence(analyzer, text) if mode is Mode.HYBRID else ()
        unread = unread_language(generation.model, None, text) is not None
        if mode is Mode.LEXICAL or (mode is Mode.HYBRID and terms and unread):
            return Question(None, terms, weight, explain, sequence)
        vector = await self._embedder.embed(text, generation)
        check_query(vector, generation)
        return Question(vector, terms, weight, explain, sequence)
