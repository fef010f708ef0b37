"""Texts as they are embedded: from the template, without empty ones, and over-long ones as the setting says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from headrace.embeddings.preparation import OverLong, Preparation, text_hash
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import ConfigurationError, HoldRecord
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace.store.rows import Generation
from headrace_embedder import handler as handler_module
from headrace_embedder import metrics
from headrace_embedder.batch import Document, EmbeddingBatch, Text
from headrace_embedder.cache_bound import CacheBound
from headrace_embedder.handler import EmbedHandler
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.loaded import Caps, TokenCounter
from headrace_embedder.local_model import SentenceTransformersProvider
from headrace_embedder.over_long import embed_passages
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.spending import Spending
from headrace_embedder.types import Kind, Vectors

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LIMIT = 6


def tokenizer() -> Tokenizer:
    """A tokenizer of words, with a mark at each end of a text."""
    found = Tokenizer(WordLevel({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]"))
    found.pre_tokenizer = Whitespace()
    found.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return found


COUNTER = TokenCounter.of(tokenizer().to_str(), LIMIT)


def encode(texts: list[str]) -> Vectors:
    """A model whose vector tells the text's words and whether it begins with the prompt."""
    return np.array([[len(text.split()), 1.0 + text.startswith("p: ")] for text in texts], np.float32)


def local(prompt: str = "") -> SentenceTransformersProvider:
    """The local provider over that model, which reads six tokens."""
    prompts = {Kind.QUERY: "", Kind.PASSAGE: prompt}
    return SentenceTransformersProvider("fake", 2, encode, COUNTER, Caps(8, 100), prompts)


def context(*texts: str, title: str = "T") -> Context[ChunkedDocument]:
    """A document with a chunk for each text."""
    chunks = tuple(
        Chunk(bytes([number]) * 16, ("S",), 0, len(text), text, text_hash(text)) for number, text in enumerate(texts)
    )
    payload = ChunkedDocument(DocumentFacts(title, "text/plain", bytes(16)), chunks)
    return Context(Trace("r", "default", 1, NOW), Change("a", "d", 1, Operation.UPSERT), payload, Metadata({}))


class Cached(EmbedHandler):
    """The handler with a cache in memory."""

    def __init__(self, provider: Any, preparation: Preparation) -> None:
        super().__init__()
        self._provider = provider
        self._spending = Spending(provider.model, local=provider.local)
        self._preparation = preparation
        self.known: dict[tuple[str, bytes], bytes] = {}

    async def _known(self, texts: Sequence[Text]) -> set[tuple[str, bytes]]:
        return {text[:2] for text in texts} & self.known.keys()

    async def _over(self, tenants: set[str]) -> dict[str, HoldRecord]:
        return {}

    async def _remember(self, vectors: Any, bills: Any) -> None:
        self.known.update(vectors)


async def test_the_template_decides_what_is_embedded_and_the_key_says_so() -> None:
    """Broken: the index holds vectors of other texts than the generation says, or the indexer cannot find them."""
    preparation = Preparation("{title}: {body}")
    handler = Cached(HashingProvider(8), preparation)
    (found,) = await handler.process_batch([context("one", "two", "one")])
    assert isinstance(found, Context)
    keys = [text_hash(f"T: {text}") for text in ("one", "two", "one")]
    assert found.payload.vector_keys == tuple(keys)
    assert found.payload.vectors.keys() == {key.hex() for key in keys}
    expected = await HashingProvider(8).embed(["T: one", "T: two"], Kind.PASSAGE)
    assert found.payload.vectors[keys[1].hex()] == expected.vectors[1].tobytes()
    (renamed,) = await handler.process_batch([context("one", "two", "one", title="U")])
    assert isinstance(renamed, Context)
    assert len(renamed.payload.vectors) == 2


async def test_by_default_a_record_names_no_keys() -> None:
    """Broken: every record carries what its chunks say already."""
    (found,) = await Cached(HashingProvider(8), Preparation()).process_batch([context("one", "two")])
    assert isinstance(found, Context)
    assert found.payload.vector_keys == ()
    assert set(found.metadata) == {"embedder.model", "embedder.texts", "embedder.embedded"}


async def test_empty_texts_are_skipped_and_listed_and_the_rest_goes_on() -> None:
    """Broken: a model is asked for nothing, a document is dead-lettered for a blank line, or the reason is missing."""
    before = metrics.TEXTS_SKIPPED._value.get()
    handler = Cached(HashingProvider(8), Preparation())
    (found,) = await handler.process_batch([context("one", " \n", "")])
    assert isinstance(found, Context)
    assert found.payload.vector_keys == (text_hash("one"), b"", b"")
    assert found.metadata["embedder.skipped"] == "1 (empty), 2 (empty)"
    assert metrics.TEXTS_SKIPPED._value.get() - before == 2
    assert len(handler.known) == 1


@pytest.mark.parametrize(("policy", "name"), [(OverLong.CUT, "cut"), (OverLong.SPLIT, "split")])
async def test_over_long_texts_are_listed_with_their_document(policy: OverLong, name: str) -> None:
    """Broken: the record does not say which passages cannot be found whole."""
    handler = Cached(local(), Preparation(over_long=policy))
    (found,) = await handler.process_batch([context("short", "w " * 9)])
    assert isinstance(found, Context)
    assert found.metadata[f"embedder.{name}"] == "1"
    assert len(found.payload.vectors) == 2


async def test_an_over_long_text_that_is_skipped_has_no_vector_and_says_by_how_much() -> None:
    """Broken: the setting is not obeyed, or the indexer waits for a vector that never comes."""
    handler = Cached(local(), Preparation(over_long=OverLong.SKIP))
    found, again = await handler.process_batch([context("short", "w " * 9), context("w " * 9)])
    assert isinstance(found, Context)
    assert isinstance(again, Context)
    assert found.metadata["embedder.skipped"] == "1 (11 tokens exceed the model's limit of 6)"
    assert found.payload.vector_keys[1] == again.payload.vector_keys[0] == b""
    assert len(found.payload.vectors) == 1


async def test_a_split_text_has_the_mean_of_its_parts_by_their_tokens() -> None:
    """Broken: a long passage is found by its beginning alone, or its parts lack the prompt."""
    provider = local("p: ")
    text = "a b c d e"  # four words fit beside the marks; two of them are the prompt's
    result = await embed_passages(provider, ["x", text], Preparation(over_long=OverLong.SPLIT, passage_prompt="p: "))
    assert result.split == (1,)
    assert result.cut == ()
    parts = COUNTER.pieces(text, "p: ")
    assert "".join(parts) == text
    assert all(count <= LIMIT for count in COUNTER.whole(["p: " + part for part in parts]))
    units = encode(["p: " + part for part in parts])
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    mean = (units * np.array(COUNTER.whole(parts))[:, None]).sum(axis=0)
    np.testing.assert_allclose(result.vectors[1], mean / np.linalg.norm(mean), rtol=1e-5)
    alone = await provider.embed(["x"], Kind.PASSAGE)
    np.testing.assert_array_equal(result.vectors[0], alone.vectors[0])
    await provider.aclose()


@settings(max_examples=60)
@given(st.text("ab ,.\n漢é", max_size=200), st.integers(4, 9), st.booleans())
def test_parts_are_the_whole_text_and_each_is_read_whole(text: str, limit: int, with_tokenizer: bool) -> None:
    """Broken: words between two parts are lost, or a part is cut once more."""
    counter = TokenCounter.of(tokenizer().to_str() if with_tokenizer else None, limit)
    parts = counter.pieces(text, "")
    assert "".join(parts) == text
    assert all(count <= limit for count in counter.whole(parts))
    beginning = counter.cut(text)
    assert text.startswith(beginning)
    assert counter.whole([beginning])[0] <= limit


def test_a_template_with_an_unknown_field_is_refused_at_the_start() -> None:
    """Broken: the service starts, and every text has the name of a field in it."""
    with pytest.raises(ValidationError, match=r"unknown field 'text'.*\{title\}, \{section\}, \{body\}, \{tags\}"):
        EmbedderSettings(text_template="{text}")


async def test_a_generation_of_otherwise_prepared_texts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: vectors of two templates stand in one index, and no distance means anything."""
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://h/db")
    found = Generation("g1", "hashing-384", 384, template="{title} {body}")
    monkeypatch.setattr(handler_module, "shared_provider", AsyncMock(return_value=HashingProvider()))
    monkeypatch.setattr(handler_module, "create_pool", AsyncMock(return_value=MagicMock()))
    monkeypatch.setattr(handler_module, "get_generation", AsyncMock(return_value=found))
    with pytest.raises(ConfigurationError, match=r"has the template '\{title\} \{body\}', not '\{body\}'") as caught:
        await EmbedHandler().start()
    assert "HEADRACE_EMBEDDER_TEXT_TEMPLATE" in str(caught.value)
    assert "--template" in caught.value.remedy


def test_texts_of_two_tenants_are_two_texts() -> None:
    """Broken: one tenant's vector stands in another's cache."""
    ones = [context("x"), context("x")]
    other = Context(ones[1].trace, Change("b", "d", 1, Operation.UPSERT), ones[1].payload)
    batch = EmbeddingBatch([Document(one, Preparation().of(one.payload)) for one in (ones[0], other, ones[0])])
    assert [text.tenant for text in batch.missing()] == ["a", "b"]


def test_the_cache_is_looked_at_first_and_after_each_hundredth_of_its_bound() -> None:
    """Broken: a count of the whole cache with every batch, or never."""
    bound = CacheBound(10_000, 10)
    looks = [bound.due("a", 30) for _ in range(9)]
    assert looks == [True, False, False, False, True, False, False, False, True]
    assert bound.due("b", 1)


@pytest.mark.parametrize(
    ("model", "dimensions", "prompts"),
    [
        ("all-MiniLM-L6-v2", 384, ("", "")),
        ("nlpai-lab/KURE-v1", 1024, ("", "")),
        ("/models/KURE-v1/", 1024, ("", "")),
        ("intfloat/multilingual-e5-base", 768, ("query: ", "passage: ")),
        ("multilingual-e5-small", 384, ("query: ", "passage: ")),
        ("somebody/unknown", 384, ("", "")),
    ],
)
def test_a_model_that_is_known_needs_no_further_setting(
    model: str, dimensions: int, prompts: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: KURE-v1 needs its figures looked up by hand, or e5 runs without its prompts and finds little."""
    monkeypatch.setenv("HEADRACE_EMBEDDER_MODEL", model)
    found = EmbedderSettings()
    assert (found.dimensions, (found.query_prompt, found.passage_prompt)) == (dimensions, prompts)
    monkeypatch.setenv("HEADRACE_EMBEDDER_DIMENSIONS", "77")
    monkeypatch.setenv("HEADRACE_EMBEDDER_PASSAGE_PROMPT", "own: ")
    assert (EmbedderSettings().dimensions, EmbedderSettings().passage_prompt) == (77, "own: ")


def test_hashing_keeps_its_dimensions_whatever_model_is_named() -> None:
    """Broken: a load test's index has the dimensions of a model that it does not run."""
    assert EmbedderSettings(provider="hashing", model="nlpai-lab/KURE-v1").dimensions == 384
