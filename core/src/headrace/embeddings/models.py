"""Known embedding models: what the settings do not have to say about them.

Dimensions and prompts are from each model's card on Hugging Face, and from OpenAI's guide to embeddings.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache
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
    """Dimensions of the vectors, the prompts that the model expects before queries and passages, and its languages.

    ``languages`` are BCP 47 tags; empty, the model knows about as many as anybody writes.
    """

    dimensions: int
    query_prompt: str = ""
    passage_prompt: str = ""
    languages: tuple[str, ...] = ()


_E5 = ("query: ", "passage: ")
_EN = ("en",)
_SCRIPTS = {"en": "LATIN", "ko": "HANGUL"}
"""The script of each language that a model of limited languages knows, as Unicode names its letters."""
_LOOKED_AT = 4096
"""Characters of a text that tell its script."""
KNOWN = {
    PACKAGED_MODEL: KnownModel(384, languages=_EN),
    "KURE-v1": KnownModel(1024, languages=("ko", "en")),
    "bge-m3": KnownModel(1024),
    MULTILINGUAL_MODEL: KnownModel(384, *_E5),
    "multilingual-e5-base": KnownModel(768, *_E5),
    "multilingual-e5-large": KnownModel(1024, *_E5),
    "e5-small-v2": KnownModel(384, *_E5, _EN),
    "e5-base-v2": KnownModel(768, *_E5, _EN),
    "e5-large-v2": KnownModel(1024, *_E5, _EN),
    "potion-base-8M": KnownModel(256, languages=_EN),
    "potion-retrieval-32M": KnownModel(512, languages=_EN),
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


def unread_language(model: str, language: str | None, text: str) -> str | None:
    """Return the language of a text that the model does not know, or None if it knows it as far as can be told.

    ``language`` is the text's BCP 47 tag; without one, the script of most of its letters decides, and its Unicode name
    is returned (``hangul``).
    """
    known = known_model(model).languages
    if not known:
        return None
    if language:
        return None if language.partition("-")[0].lower() in known else language
    letters = Counter(_script(character) for character in text[:_LOOKED_AT] if character.isalpha())
    if not letters:
        return None
    script = letters.most_common(1)[0][0]
    return None if script in {_SCRIPTS[one] for one in known} else script.lower()


@lru_cache(maxsize=1 << 14)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "").partition(" ")[0]
