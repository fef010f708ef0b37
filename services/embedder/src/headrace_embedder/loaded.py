"""A loaded model, independent of its backend: it turns texts into vectors and counts tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from tokenizers import Tokenizer

from headrace_embedder.model_batches import Encode

_CHARACTERS = 4
"""Characters per token if the model has no readable tokenizer."""
_NO_ADDED_TOKENS = '"added_tokens":[]'


class Caps(NamedTuple):
    """The largest micro-batch: number of texts, and number of tokens including padding."""

    texts: int
    tokens: int


def tokenizer_from(text: str) -> Tokenizer:
    """Return a tokenizer from JSON, with its own truncation and padding.

    Tokenizers from the same text share a vocabulary, unless it has added tokens: 250,000 pieces take 270 MB.
    """
    if _NO_ADDED_TOKENS not in text:
        return Tokenizer.from_str(text)
    first = _first(text)
    own = Tokenizer(first.model)
    own.normalizer, own.pre_tokenizer = first.normalizer, first.pre_tokenizer
    own.post_processor, own.decoder = first.post_processor, first.decoder
    return own


@lru_cache(maxsize=1)
def _first(text: str) -> Tokenizer:
    return Tokenizer.from_str(text)


class TokenCounter:
    """Counts tokens as the model does, with a separate tokenizer, so that counting does not disturb a running batch."""

    def __init__(self, tokenizer: Tokenizer | None, limit: int | None) -> None:
        self._tokenizer = tokenizer
        self._limit = limit

    @classmethod
    def of(cls, tokenizer: str | None, limit: int | None) -> TokenCounter:
        """Return a counter for a tokenizer in JSON; without one, four characters count as a token."""
        if tokenizer is None:
            return cls(None, limit)
        own = tokenizer_from(tokenizer)
        own.no_truncation()
        own.no_padding()
        return cls(own, limit)

    @property
    def limit(self) -> int | None:
        """The model's input limit in tokens per text, or None without a limit."""
        return self._limit

    def read(self, whole: Sequence[int]) -> tuple[Sequence[int], tuple[int, ...]]:
        """Return how many tokens of each text the model reads, and the positions of the texts above the limit."""
        limit = self._limit
        if limit is None:
            return whole, ()
        over = tuple(position for position, tokens in enumerate(whole) if tokens > limit)
        return [min(tokens, limit) for tokens in whole], over

    def whole(self, texts: list[str]) -> list[int]:
        """Return the number of tokens of each text, including the special tokens that the model adds."""
        if self._tokenizer is None:
            return [len(text) // _CHARACTERS + 1 for text in texts]
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def cut(self, text: str) -> str:
        """Return the longest beginning of the text that fits the model's limit."""
        if self._limit is None:
            return text
        starts = [*self._starts(text), len(text)]
        marks = self.whole([""])[0]
        end = min(max(1, self._limit - marks), len(starts) - 1)
        while end > 1 and self.whole([text[: starts[end]]])[0] > self._limit:
            end -= 1
        return text[: starts[end]]

    def pieces(self, text: str, prompt: str) -> list[str]:
        """Return consecutive parts of about equal length, each of which fits the model's limit with the prompt."""
        if self._limit is None:
            return [text]
        starts = self._starts(text)
        room = max(1, self._limit - self.whole([prompt])[0])
        count = max(1, -(-len(starts) // room))
        while True:
            bounds = [starts[len(starts) * at // count] for at in range(1, count)]
            edges = list(dict.fromkeys((0, *bounds, len(text))))
            parts = [text[start:end] for start, end in pairwise(edges)]
            longest = max(self.whole([prompt + part for part in parts]), default=0)
            # A part may have one token more than the same characters within the whole text: then add one more part.
            if longest <= self._limit or count >= len(starts):
                return parts
            count += 1

    def _starts(self, text: str) -> list[int]:
        """Return the character position at which each token begins."""
        if self._tokenizer is None:
            return list(range(0, len(text), _CHARACTERS))
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and its facts.

    ``limit`` is the maximum number of tokens per text, None without a limit. ``details`` are for the log. Up to
    ``streams`` threads may call ``encode`` at the same time.
    """

    encode: Encode
    counter: TokenCounter
    caps: Caps
    limit: int | None
    details: Mapping[str, object]
    streams: int = 1
