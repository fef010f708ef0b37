"""Texts that every system behind the gateway can keep: valid UTF-8 without NUL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StrictStr

MAX_MEMBERS = 256
"""Most members of one object in a request; a million wrong ones would make a million errors, at everybody's cost."""


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


def few(value: object) -> object:
    """Return the value; raises :class:`ValueError` for an object with more members than :data:`MAX_MEMBERS`."""
    if isinstance(value, Mapping) and len(value) > MAX_MEMBERS:
        raise ValueError(f"has {len(value)} members; the limit is {MAX_MEMBERS}")
    return value


Few = BeforeValidator(few)
"""Refuses an object with too many members before it looks at any."""
Text = Annotated[StrictStr, AfterValidator(encodable)]
"""A string of a request."""
