"""Detects the language of a text with py3langid, by a table of letter sequences. Returns only certain results."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from headrace.errors import ConfigurationError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SAMPLE = 2000
"""Characters to examine; takes about 1.5 ms."""
LEAST_LETTERS = 20
LEAST_PROBABILITY = 0.9
_NONE = "zxx"
"""py3langid's language for a text without words."""

Detect = Callable[[str], str | None]


def detector() -> Detect:
    """Return a function from a text to its language (ISO 639), or to None if the language is uncertain.

    The table takes 120 MB of memory, once per process, and some seconds to load.
    Raises :class:`ConfigurationError` if the package is not installed.
    """
    table = _table()
    return lambda text: _language(table, text)


@cache
def _table() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "the package py3langid is not installed", where="HEADRACE_INGEST_DETECT_LANGUAGE",
            remedy="Install headrace-ingest[language], or turn the setting off.",
        ) from error  # fmt: skip
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _language(table: LanguageIdentifier, text: str) -> str | None:
    sample = text[:SAMPLE]
    if sum(character.isalpha() for character in sample) < LEAST_LETTERS:
        return None
    language, probability = table.classify(sample)
    return str(language) if probability >= LEAST_PROBABILITY and language != _NONE else None
