"""The contract of providers that write answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.store.search import Hit


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that cites passages by ``[number]``, from 1; ``prompt`` is the prompt's name and version."""

    text: str
    model: str
    prompt: str = ""


class Provider(Protocol):
    """Writes an answer from passages."""

    @property
    def name(self) -> str:
        """The provider's name in artifacts."""

    async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
        """Return the answer; ``passages`` is not empty.

        Raises :class:`headrace.errors.DependencyDown` and :class:`headrace.errors.PermanentError`.
        """

    async def close(self) -> None:
        """Close the connections."""
