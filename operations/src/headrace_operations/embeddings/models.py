"""The identity of a model, from the name that operators use, and its price."""

from __future__ import annotations

from collections.abc import Collection

from headrace.embeddings.costs import CostBook, CostSettings
from headrace.embeddings.models import PROVIDERS, SERVED, identity
from headrace.errors import ConfigurationError


def is_local(provider: str | None) -> bool:
    """Whether the model is known to run in the embedder's own process."""
    return provider in PROVIDERS and provider != SERVED


def model_identity(model: str, known: Collection[str], provider: str | None) -> str:
    """Return a model's identity in cache and index: the last part of its name or folder.

    A name that is a ``known`` identity stays as it is, and so does the name of a server's model.
    """
    return model if model in known or provider == SERVED else identity(model)


def cap_without_price(book: CostBook, model: str, settings: CostSettings, provider: str | None) -> str | None:
    """Return why the embedder refuses the cost file (a cap in USD for a server's model without a price), or None."""
    if provider != SERVED:
        return None
    try:
        book.require_price(model, local=False, file=settings.file)
    except ConfigurationError as error:
        return str(error)
    return None
