"""Embeds the random questions of a generation, once: they tell what a question finds that nothing answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from headrace.embeddings.random_questions import random_questions
from headrace.errors import HeadraceError, describe
from headrace.store.calibration import calibrated, remember
from headrace.store.rows import Generation
from headrace_embedder.provider import Provider
from headrace_embedder.types import Kind

if TYPE_CHECKING:
    from headrace.store.pool import Pool

log = structlog.get_logger(__name__)


async def embed_random_questions(pool: Pool, generation: Generation, provider: Provider) -> None:
    """Store the vectors of the random questions, unless the generation has them.

    If the model's server does not answer, the next start tries again; until then, a search judges by words, and takes
    every cosine above 0 as a sign that something fits. Raises :class:`headrace.errors.DependencyDown` if PostgreSQL
    does not answer.
    """
    if await calibrated(pool, generation.name):
        return
    questions = random_questions(generation.model)
    try:
        result = await provider.embed([text for _, text in questions], Kind.QUERY)
        if result.failure is not None:
            raise result.failure
    except HeadraceError as error:
        log.warning("random questions not embedded", generation=generation.name, error=describe(error))
        return
    vectors = [
        (language, result.vectors[place].astype("<f4").tobytes())
        for place, (language, _) in enumerate(questions)
        if place not in result.errors and result.vectors[place].any()
    ]
    await remember(pool, generation.name, vectors)
    log.info("random questions embedded", generation=generation.name, questions=len(vectors))
