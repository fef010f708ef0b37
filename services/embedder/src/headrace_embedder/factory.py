"""Creates the configured provider."""

from __future__ import annotations

from headrace.embeddings.models import KNOWN, PACKAGED_MODEL
from headrace.errors import ConfigurationError
from headrace_embedder.provider import Provider
from headrace_embedder.settings import EmbedderSettings


def build(settings: EmbedderSettings) -> Provider:
    """Return the configured provider, and import only its module.

    Raises :class:`ConfigurationError` with the name of the setting that is missing or wrong.
    """
    if settings.provider == "hashing":
        from headrace_embedder.hashing import HashingProvider  # noqa: PLC0415

        return HashingProvider(settings.dimensions)
    if settings.provider == "openai-compatible":
        from headrace_embedder.openai_compatible import OpenAICompatibleProvider  # noqa: PLC0415

        if settings.base_url is None:
            raise ConfigurationError(
                "the provider openai-compatible requires a server", where="HEADRACE_EMBEDDER_BASE_URL",
                remedy="Set it to the server's URL, including /v1.",
            )  # fmt: skip
        if settings.model == PACKAGED_MODEL and settings.dimensions != KNOWN[PACKAGED_MODEL].dimensions:
            raise ConfigurationError(
                f"the model {PACKAGED_MODEL} has {KNOWN[PACKAGED_MODEL].dimensions} dimensions, but "
                f"{settings.dimensions} are configured",
                where="HEADRACE_EMBEDDER_DIMENSIONS",
                remedy=f"Set it to {KNOWN[PACKAGED_MODEL].dimensions}, or set HEADRACE_EMBEDDER_MODEL to the server's "
                "model.",
            )
        return OpenAICompatibleProvider(settings)
    if settings.provider == "model2vec":
        from headrace_embedder.model2vec_model import Model2VecProvider  # noqa: PLC0415

        return Model2VecProvider.load(settings)
    from headrace_embedder.local_model import SentenceTransformersProvider  # noqa: PLC0415

    return SentenceTransformersProvider.load(settings)
