"""Known embedding models: what the settings do not have to say about them.

Dimensions and prompts are from each model's card on Hugging Face, and from OpenAI's guide to embeddings.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

ProviderName = Literal["sentence-transformers", "model2vec", "openai-compatible", "hashing"]
"""The provider of vectors; hashing ignores meaning and is for load tests only."""
PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)
SERVED: ProviderName = "openai-compatible"
"""The provider whose model runs on a server and may cost money; all others run in the embedder's own process."""
PACKAGED_MODEL = "all-MiniLM-L6-v2"
"""The default model, which comes as a package."""
MULTILINGUAL_MODEL = "multilingual-e5-small"
"""The model for all languages that comes as a package, under this name without an owner."""
PACKAGED_MODELS = (PACKAGED_MODEL, MULTILINGUAL_MODEL)
"""Models that need no download."""


class KnownModel(NamedTuple):
    """Dimensions of the vectors, and the prompts that the model expects before queries and passages."""

    dimensions: int
    query_prompt: str = ""
    passage_prompt: str = ""


_E5 = ("query: ", "passage: ")
KNOWN = {
    PACKAGED_MODEL: KnownModel(384),
    "KURE-v1": KnownModel(1024),
    "bge-m3": KnownModel(1024),
    MULTILINGUAL_MODEL: KnownModel(384, *_E5),
    "multilingual-e5-base": KnownModel(768, *_E5),
    "multilingual-e5-large": KnownModel(1024, *_E5),
    "e5-small-v2": KnownModel(384, *_E5),
    "e5-base-v2": KnownModel(768, *_E5),
    "e5-large-v2": KnownModel(1024, *_E5),
    "potion-base-8M": KnownModel(256),
    "potion-retrieval-32M": KnownModel(512),
    "potion-multilingual-128M": KnownModel(256),
    "text-embedding-3-small": KnownModel(1536),
}
"""By identity: the last part of a model's name or folder."""


def identity(model: str) -> str:
    """Return a model's identity in cache and index: the last part of its name or folder."""
    return model.rstrip("/").rpartition("/")[2]


def shortened(model: str, dimensions: int) -> str:
    """Return the identity of a model with a requested number of dimensions; each number is a separate model."""
    return f"{model}@{dimensions}"


def known_model(model: str) -> KnownModel:
    """Return the known model with this name or folder; for an unknown one, 384 dimensions and no prompts."""
    return KNOWN.get(identity(model), KnownModel(384))
