"""Texts that are longer than the model reads: cut by the provider, embedded in parts, or left out before it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.embeddings.preparation import OverLong, Preparation
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.provider import EmbedResult, Kind, Provider, check_vectors


async def left_out(provider: Provider, texts: Sequence[str], preparation: Preparation) -> Mapping[int, str]:
    """Return the texts that get no vector because they are over-long, by position, with the reason.

    None unless the preparation says so; none where the model's tokenizer is not known.
    """
    counter = provider.counter
    if not texts or counter is None or counter.limit is None or preparation.over_long is not OverLong.SKIP:
        return {}
    tokens = await asyncio.to_thread(counter.whole, [preparation.passage_prompt + text for text in texts])
    return {
        position: f"{count} tokens, the model reads {counter.limit}"
        for position, count in enumerate(tokens)
        if count > counter.limit
    }


async def embed_passages(
    provider: Provider, texts: Sequence[str], preparation: Preparation, lengths: Sequence[int] | None = None
) -> EmbedResult:
    """Return the vectors of the texts, over-long ones cut or embedded in parts as the preparation says.

    What the provider can tell to be over-long stands in its result; of one whose model's tokenizer is not known
    nothing does. Those to be left out are not for this function: see :func:`left_out`. A failure of the provider
    stands in the result, beside what was answered before.
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
    """Return ``whole`` with the mean of its parts, weighted by their tokens, for each text that is over-long."""
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
