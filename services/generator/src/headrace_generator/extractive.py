"""The provider without a language model: it quotes the best sentences of the passages and says that it does."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.store.search import Hit
from headrace_generator.citations import neutralised
from headrace_generator.providers import Draft

MAX_QUOTES = 5
_MAX_QUOTE_LENGTH = 400
_MIN_QUOTE_LENGTH = 20
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n\s*\n")
_WORD = re.compile(r"\w+")
_UNSPACED = re.compile(r"[\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_RANK_WEIGHT = 0.5
"""How much the passage's rank in the search counts in comparison with the question's words: the first passage without
any word of the question still scores higher than the tenth with one common word."""


@dataclass(frozen=True, slots=True)
class Quote:
    """A sentence of passage ``number`` (from 1); ``place`` is its index among the passage's sentences."""

    number: int
    place: int
    text: str
    score: float


class ExtractiveProvider:
    """Quotes sentences; deterministic, without a model."""

    name = "extractive"

    async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
        """Return the quotations below a sentence that explains them."""
        quotes = best_quotes(question, [passage.text for passage in passages])
        lines = [f"> {neutralised(quote.text)} [{quote.number}]" for quote in quotes]
        opening = (
            "No language model is configured. These sentences match the question best, quoted from "
            f"{len({q.number for q in quotes})} of the passages that the search found."
        )
        return Draft(text="\n\n".join([opening, *lines]), model="none", prompt="")

    async def close(self) -> None:
        """Do nothing: this provider holds no resources."""


def best_quotes(question: str, texts: Sequence[str]) -> list[Quote]:
    """Return at most :data:`MAX_QUOTES` sentences in the order of the passages.

    A sentence scores by the words that it shares with the question, where rare words count more (inverse frequency
    among all sentences), and by the rank of its passage.
    """
    sentences = [
        (number, place, sentence, terms(sentence))
        for number, text in enumerate(texts, start=1)
        for place, sentence in enumerate(split_sentences(text))
    ]
    frequency = Counter(term for *_, found in sentences for term in found)
    wanted = terms(question)
    quotes = [
        Quote(number, place, sentence, _score(found & wanted, frequency, len(sentences)) + _RANK_WEIGHT / number)
        for number, place, sentence, found in sentences
    ]
    distinct = {quote.text: quote for quote in sorted(quotes, key=lambda q: (q.score, -q.number, -q.place))}
    best = sorted(distinct.values(), key=lambda quote: (-quote.score, quote.number, quote.place))[:MAX_QUOTES]
    return sorted(best, key=lambda quote: (quote.number, quote.place))


def split_sentences(text: str) -> list[str]:
    """Return the sentences, each on one line; omit fragments unless the text has nothing else."""
    parts = [" ".join(part.split()) for part in _SENTENCE_END.split(text)]
    parts = [_shortened(part) for part in parts if part]
    return [part for part in parts if len(part) >= _MIN_QUOTE_LENGTH] or parts[:1]


def terms(text: str) -> frozenset[str]:
    """Return the words in lower case; for scripts without spaces, or with attached endings, pairs of characters."""
    found: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.search(word):
            found.update(word[start : start + 2] for start in range(max(1, len(word) - 1)))
        elif len(word) > 1:
            found.add(word)
    return frozenset(found)


def _score(shared: frozenset[str], frequency: Counter[str], sentences: int) -> float:
    return math.fsum(sorted(math.log(1 + sentences / frequency[term]) for term in shared))


def _shortened(text: str) -> str:
    if len(text) <= _MAX_QUOTE_LENGTH:
        return text
    return text[:_MAX_QUOTE_LENGTH].rsplit(" ", 1)[0] + " …"
