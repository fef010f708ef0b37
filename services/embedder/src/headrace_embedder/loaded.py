"""A model that is ready to run, whatever runs it: texts to vectors, and a counter of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import Tokenizer

from headrace_embedder.batching import Encode


class Caps(NamedTuple):
    """The largest micro-batch: texts, and tokens with their padding."""

    texts: int
    tokens: int


class TokenCounter:
    """Counts tokens as the model does, with a tokenizer of its own, so that counting disturbs no running batch."""

    def __init__(self, tokenizer: Tokenizer | None, limit: int | None) -> None:
        self._tokenizer = tokenizer
        self._limit = limit

    @classmethod
    def of(cls, tokenizer: str | None, limit: int | None) -> TokenCounter:
        """Return the counter of a tokenizer in JSON; without one, four characters count as a token."""
        if tokenizer is None:
            return cls(None, limit)
        own = Tokenizer.from_str(tokenizer)
        own.no_truncation()
        own.no_padding()
        return cls(own, limit)

    def count(self, texts: list[str]) -> tuple[list[int], int]:
        """Return the tokens of each text after the model's limit, and how many texts are longer than that."""
        if self._tokenizer is None:
            whole = [len(text) // 4 + 1 for text in texts]
        else:
            whole = [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]
        limit = self._limit
        if limit is None:
            return whole, 0
        return [min(tokens, limit) for tokens in whole], sum(tokens > limit for tokens in whole)


@dataclass(frozen=True, slots=True)
class Loaded:
    """``limit`` is the most tokens of a text, None without one; ``details`` are for the log.

    ``encode`` is for as many threads at once as ``streams`` says.
    """

    encode: Encode
    counter: TokenCounter
    caps: Caps
    limit: int | None
    details: Mapping[str, object]
    streams: int = 1
