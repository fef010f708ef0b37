"""Texts that every system behind the gateway can keep: valid UTF-8 without NUL."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, StrictStr


def encodable(text: str) -> str:
    """Return the text; raises :class:`ValueError` for a lone surrogate or a NUL character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains a lone surrogate, which UTF-8 cannot carry") from error
    if "\x00" in text:
        raise ValueError("contains a NUL character, which the store cannot keep")
    return text


def printable(text: str) -> str:
    """Return the text with lone surrogates written out, so that an answer can quote it."""
    return text.encode("utf-8", "backslashreplace").decode()


Text = Annotated[StrictStr, AfterValidator(encodable)]
"""A string of a request."""
