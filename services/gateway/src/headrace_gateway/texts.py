"""Strings that every system behind the gateway can store: valid UTF-8 without NUL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StrictStr

MAX_MEMBERS = 256
"""Maximum members of one object in a request: a million invalid members would cause a million errors."""


def encodable(text: str) -> str:
    """Return the text; raises :class:`ValueError` for a lone surrogate or a NUL character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains a lone surrogate, which UTF-8 cannot encode") from error
    if "\x00" in text:
        raise ValueError("contains a NUL character, which PostgreSQL cannot store; remove it")
    return text


def printable(text: str) -> str:
    """Return the text with lone surrogates escaped, so that an answer can quote it."""
    return text.encode("utf-8", "backslashreplace").decode()


def few(value: object) -> object:
    """Return the value; raises :class:`ValueError` for an object with more members than :data:`MAX_MEMBERS`."""
    if isinstance(value, Mapping) and len(value) > MAX_MEMBERS:
        raise ValueError(f"has {len(value)} members; the limit is {MAX_MEMBERS}")
    return value


Few = BeforeValidator(few)
"""Rejects an object with too many members before it checks any of them."""
Text = Annotated[StrictStr, AfterValidator(encodable)]
"""A string of a request."""
