"""Makes a Unigram tokenizer as XLM-RoBERTa has it (Kudo 2018, https://arxiv.org/abs/1804.10959) from its vocabulary.

SentencePiece normalizes with NFKC and own rules for single characters ("nmt_nfkc": control characters are removed, and
zero-width ones become spaces). The vocabulary's table of characters says which rules. NFKC is applied to whole texts:
it also composes letters that are written in parts (for example Korean file names of macOS), which a table of single
characters cannot.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, normalizers
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

_FIRST_PLACEHOLDER = 0xF0000
"""A character for private use; no text has it."""


class Vocabulary(NamedTuple):
    """Pieces with their scores, the positions of the special ones, and what replaces single characters."""

    pieces: list[tuple[str, float]]
    start: int
    end: int
    pad: int
    unknown: int
    table: dict[str, str]


def tokenizer_json(vocabulary: Vocabulary) -> str:
    """Return the tokenizer in the format of ``tokenizer.json``; it adds the start and end piece to each text."""
    tokenizer = Tokenizer(Unigram(vocabulary.pieces, vocabulary.unknown, byte_fallback=False))
    tokenizer.normalizer = _normalizer(vocabulary)
    tokenizer.pre_tokenizer = Metaspace(prepend_scheme="always")
    start, end = (vocabulary.pieces[one][0] for one in (vocabulary.start, vocabulary.end))
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary.start), (end, vocabulary.end)]
    )
    return str(tokenizer.to_str())


def _normalizer(vocabulary: Vocabulary) -> normalizers.Normalizer:
    """Return NFKC with the table's deviations from it, then one space for each run of spaces.

    Characters that the vocabulary knows and NFKC would change are hidden from it.
    """
    known = set().union(*(piece for piece, _ in vocabulary.pieces)) - vocabulary.table.keys()
    kept = sorted(one for one in known if _nfkc(one) != one)
    hidden = {one: chr(_FIRST_PLACEHOLDER + position) for position, one in enumerate(kept)}
    changed: defaultdict[str, str] = defaultdict(str)
    for character, to in sorted(vocabulary.table.items()):
        if _nfkc(character) != to:
            changed[to] += rf"\x{{{ord(character):x}}}"
    return normalizers.Sequence([
        *(normalizers.Replace(Regex(f"[{characters}]"), to) for to, characters in changed.items()),
        *(normalizers.Replace(one, placeholder) for one, placeholder in hidden.items()),
        normalizers.NFKC(),
        *(normalizers.Replace(placeholder, one) for one, placeholder in hidden.items()),
        normalizers.Replace(Regex(" {2,}"), " "),
    ])  # fmt: skip


def _nfkc(character: str) -> str:
    return unicodedata.normalize("NFKC", character)
