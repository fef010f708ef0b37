"""Texts that are longer than the model reads: cut by the provider, embedded in parts, or left out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headrace.preparation import OverLong, Preparation
from headrace_embedder.loaded import TokenCounter
from headrace_embedder.provider import EmbedResult, Kind, Provider, check_vectors


async def embed_passages(provider: Provider, texts: Sequence[str], preparation: Preparation) -> EmbedResult:
    """Return the vectors of the texts, over-long ones dealt with as the preparation says.

    What the provider can tell to be over-long stands in its result; of one whose model's tokenizer is not known
    nothing does. Raises what the provider raises.
    """
    result = await provider.embed(texts, Kind.PASSAGE)
    counter = provider.counter
    if not result.cut or counter is None or preparation.over_long is OverLong.CUT:
        return result
    over = [position for position in result.cut if position not in result.errors]
    if preparation.over_long is OverLong.SKIP:
        prompt = preparation.passage_prompt
        tokens = await asyncio.to_thread(counter.whole, [prompt + texts[position] for position in over])
        reasons = {
            position: f"{count} tokens, the model reads {counter.limit}"
            for position, count in zip(over, tokens, strict=True)
        }
        return replace(result, cut=(), skipped={**result.skipped, **reasons})
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
    found = await provider.embed([part for _, part in parts], Kind.PASSAGE)
    weights = await asyncio.to_thread(counter.whole, [part for _, part in parts])
    vectors, errors = whole.vectors.copy(), dict(whole.errors)
    vectors[list(over)] = 0
    for row, (position, _) in enumerate(parts):
        if row in found.errors:
            errors.setdefault(position, found.errors[row])
        else:
            vectors[position] += found.vectors[row] * np.float32(weights[row])
    means = check_vectors(vectors[list(over)], len(over), provider.dimensions)
    vectors[list(over)] = means.vectors
    for row, error in means.errors.items():
        errors.setdefault(over[row], error)
    text_tokens = list(whole.text_tokens)
    for (position, _), tokens in zip(parts, found.text_tokens, strict=True):
        text_tokens[position] += tokens
    return replace(
        whole, vectors=vectors, errors=errors, tokens=whole.tokens + found.tokens, cut=(), split=tuple(over),
        text_tokens=text_tokens, calls=whole.calls + found.calls,
    )  # fmt: skip
