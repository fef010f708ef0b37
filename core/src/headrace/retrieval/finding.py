"""The legs of a question: its vector, from the embedder, and its terms."""

from __future__ import annotations

from functools import lru_cache

from headrace.embeddings.models import knows_script
from headrace.lexical import weights
from headrace.lexical.analyzer import Analyzer
from headrace.retrieval.mode import Mode
from headrace.retrieval.query_vectors import QueryVectors
from headrace.store.generations import check_query
from headrace.store.rows import Generation
from headrace.store.search import Question


async def asked(
    embedder: QueryVectors, generation: Generation, tenant: str, text: str, mode: Mode = Mode.HYBRID
) -> Question:
    """Return the question with the legs of the mode.

    A hybrid question has no dense leg if the model does not know its script, because it would only add noise; it has no
    lexical leg if the text has no terms (punctuation alone). Raises :class:`~headrace.errors.DependencyDown`, and
    :class:`~headrace.errors.InvalidRecord` for a text that the embedder rejects.
    """
    terms = list(weights.query(_analyzer(generation.analyzer), tenant, text)) if mode is not Mode.VECTOR else []
    if mode is Mode.LEXICAL or (mode is Mode.HYBRID and terms and not knows_script(generation.model, text)):
        return Question(terms=terms)
    vector = await embedder.embed(text, generation)
    check_query(vector, generation)
    return Question(vector, terms)


@lru_cache(maxsize=8)
def _analyzer(name: str) -> Analyzer:
    return Analyzer(name)
