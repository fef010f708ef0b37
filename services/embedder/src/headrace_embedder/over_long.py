"""Handles texts above the model's input limit: the provider cuts them, or they are embedded in parts or skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.embeddings.preparation import OverLong, Preparation
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.provider import EmbedResult, Provider, check_vectors
from headrace_embedder.types import Kind


async def left_out(provider: Provider, texts: Sequence[str], preparation: Preparation) -> Mapping[int, str]:
    """Return the positions of over-long texts that get no vector, each with the reason.

    The result is empty unless the preparation skips over-long texts and the model's tokenizer is known.
    """
    counter = provider.counter
    if not texts or counter is None or counter.limit is None or preparation.over_long is not OverLong.SKIP:
        return {}
    tokens = await asyncio.to_thread(counter.whole, [preparation.passage_prompt + text for text in texts])
    return {
        position: f"{count} tokens exceed the model's limit of {counter.limit}"
        for position, count in enumerate(tokens)
        if count > counter.limit
    }


async def embed_passages(
    provider: Provider, texts: Sequence[str], preparation: Preparation, lengths: Sequence[int] | None = None
) -> EmbedResult:
    """Return the vectors of the texts; cut over-long texts or embed them in parts, as the preparation says.

    The result lists the texts that the provider recognizes as over-long; without the model's tokenizer it recognizes
    none. Remove the texts to skip first, with :func:`left_out`. If the provider fails, the result has the failure and
    the vectors that were computed before it.
    """
    result = await provider.attempt(texts, Kind.PASSAGE, lengths)
    counter = provider.counter
    if not result.cut or counter is None or preparation.over_long is OverLong.CUT:
        return result
    over = [position for position in result.cut if position not in result.errors]
    if result.failure is not None:
        return replace(result, cut=(), unanswered=result.unanswered.union(over))
    return await _in_parts(provider, counter, texts, over, preparation.passage_prompt, result)


async def _in_parts(
    provider: Provider,
    counter: TokenCounter,
    texts: Sequence[str],
    over: Sequence[int],
    prompt: str,
    whole: EmbedResult,
) -> EmbedResult:
    """Return ``whole`` in which each over-long text has the mean of its parts, weighted by their tokens."""
    pieces = await asyncio.to_thread(lambda: [counter.pieces(texts[position], prompt) for position in over])
    parts = [(position, part) for position, own in zip(over, pieces, strict=True) for part in own]
    found = await provider.attempt([part for _, part in parts], Kind.PASSAGE)
    weights = await asyncio.to_thread(counter.whole, [part for _, part in parts])
    vectors, errors = whole.vectors.copy(), dict(whole.errors)
    vectors[list(over)] = 0
    for row, (position, _) in enumerate(parts):
        if row in found.errors:
            errors.setdefault(position, found.errors[row])
        else:
            vectors[position] += found.vectors[row] * np.float32(weights[row])
    unanswered = frozenset(parts[row][0] for row in found.unanswered)
    means = check_vectors(vectors[list(over)], len(over), provider.dimensions)
    vectors[list(over)] = means.vectors
    for row, error in means.errors.items():
        if over[row] not in unanswered:
            errors.setdefault(over[row], error)
    text_tokens = list(whole.text_tokens)
    for (position, _), tokens in zip(parts, found.text_tokens, strict=True):
        text_tokens[position] += tokens
    return replace(
        whole, vectors=vectors, errors=errors, tokens=whole.tokens + found.tokens, cut=(),
        split=tuple(position for position in over if position not in unanswered), text_tokens=text_tokens,
        calls=whole.calls + found.calls, failure=found.failure, unanswered=unanswered,
    )  # fmt: skip
