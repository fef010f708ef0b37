"""A model that is ready to run, whatever runs it: texts to vectors, and a counter of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from tokenizers import Tokenizer

from headrace_embedder.batching import Encode

_CHARACTERS = 4
"""In a token, where the model has no tokenizer that we can read."""


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

    @property
    def limit(self) -> int | None:
        """The most tokens of a text that the model reads, None without a limit."""
        return self._limit

    def read(self, whole: Sequence[int]) -> tuple[Sequence[int], tuple[int, ...]]:
        """Return how many of its tokens the model reads of each text, and the positions of those longer than that."""
        limit = self._limit
        if limit is None:
            return whole, ()
        over = tuple(position for position, tokens in enumerate(whole) if tokens > limit)
        return [min(tokens, limit) for tokens in whole], over

    def whole(self, texts: list[str]) -> list[int]:
        """Return the tokens of each text, the model's marks at its ends included."""
        if self._tokenizer is None:
            return [len(text) // _CHARACTERS + 1 for text in texts]
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(texts)]

    def cut(self, text: str) -> str:
        """Return the longest beginning that the model reads whole."""
        if self._limit is None:
            return text
        starts = [*self._starts(text), len(text)]
        marks = self.whole([""])[0]
        end = min(max(1, self._limit - marks), len(starts) - 1)
        while end > 1 and self.whole([text[: starts[end]]])[0] > self._limit:
            end -= 1
        return text[: starts[end]]

    def pieces(self, text: str, prompt: str) -> list[str]:
        """Return neighbouring parts of about the same length that the model reads whole, each behind the prompt."""
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
            # A part may have a token more than the same characters within the whole: then there is one part more.
            if longest <= self._limit or count >= len(starts):
                return parts
            count += 1

    def _starts(self, text: str) -> list[int]:
        """Return where each token begins, in characters."""
        if self._tokenizer is None:
            return list(range(0, len(text), _CHARACTERS))
        return [start for start, _ in self._tokenizer.encode(text, add_special_tokens=False).offsets]


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
