"""The check that each provider's answer goes through, hashing, and the choice of a provider."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord
from headrace_embedder.factory import build
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.loaded import Caps, TokenCounter
from headrace_embedder.local_model import SentenceTransformersProvider
from headrace_embedder.model_batches import OutOfMemory
from headrace_embedder.provider import check_vectors
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.types import Kind, Vectors

pytestmark = pytest.mark.unit


def test_good_vectors_come_back_as_unit_vectors() -> None:
    """Cosine and inner product would differ, and scores would be wrong."""
    result = check_vectors([[3.0, 4.0], [0.0, 2.0]], 2, 2)
    assert not result.errors
    np.testing.assert_allclose(result.vectors, np.array([[0.6, 0.8], [0, 1]]), rtol=1e-6)
    assert result.vectors.dtype == np.float32
    assert result.vectors.flags.c_contiguous


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([1.0, float("nan")], "NaN"),
        ([float("inf"), 1.0], "infinity"),
        ([0.0, 0.0], "zero"),
        ([1.0, 2.0, 3.0], "3 dimensions instead of 2"),
        ([1.0], "1 dimensions"),
        ([[1.0, 2.0]], "not a vector"),
        (5.0, "not a vector"),
        (["x", "y"], "not a vector"),
        (None, "not a vector"),
        ([[1.0], [1.0, 2.0]], "not a vector"),
    ],
)
def test_a_wrong_vector_fails_its_own_text_alone(bad: object, reason: str) -> None:
    """A broken vector would reach the index, or would take its batch to the dead letters."""
    result = check_vectors([[1.0, 0.0], bad, [0.0, 1.0]], 3, 2)  # type: ignore[list-item]
    assert list(result.errors) == [1]
    error = result.errors[1]
    assert isinstance(error, InvalidRecord)
    assert error.field == "vector"
    assert reason in error.reason
    assert result.vectors[[0, 2]].tolist() == [[1, 0], [0, 1]]
    assert np.isfinite(result.vectors).all()


def test_nan_in_an_array_fails_its_row_alone_and_the_input_stays_as_it_was() -> None:
    """The fast way of whole arrays would let NaN through, or change the caller's array."""
    given_array = np.array([[2.0, 0.0], [np.nan, 1.0]], np.float32)
    result = check_vectors(given_array, 2, 2)
    assert list(result.errors) == [1]
    assert given_array[0, 0] == 2.0


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_vectors_is_used_for_no_text(count: int) -> None:
    """Vectors would be stored with the wrong texts."""
    result = check_vectors([[1.0, 0.0]] * count, 2, 2)
    assert sorted(result.errors) == [0, 1]
    assert f"{count} vectors for 2 texts" in str(result.errors[0])
    assert result.vectors.shape == (2, 2)


@given(st.lists(st.text(max_size=60), max_size=12))
def test_hashing_gives_a_unit_vector_for_any_text_whatever_stands_beside_it(texts: list[str]) -> None:
    """A load test would die of an odd text, or a text's vector would depend on its batch."""
    provider = HashingProvider(32)
    together = asyncio.run(provider.embed(texts, Kind.PASSAGE))
    assert not together.errors
    assert together.vectors.shape == (len(texts), 32)
    np.testing.assert_allclose(np.linalg.norm(together.vectors, axis=1), 1, rtol=1e-5)
    for index, text in enumerate(texts):
        alone = asyncio.run(provider.embed([text], Kind.QUERY))
        np.testing.assert_array_equal(alone.vectors[0], together.vectors[index])


def test_hashing_is_the_same_in_every_process_and_sees_the_order_of_words() -> None:
    """A cache filled by one process would not match another's, or pairs of words would not count."""
    result = asyncio.run(HashingProvider(8).embed(["a b", "b a", ""], Kind.PASSAGE))
    assert not np.array_equal(result.vectors[0], result.vectors[1])
    assert result.vectors[2].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    program = (
        "import asyncio; from headrace_embedder.hashing import HashingProvider;"
        "print(asyncio.run(HashingProvider(8).embed(['a b'], 'passage')).vectors.tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.strip() == result.vectors[0].tobytes().hex()


def test_no_module_imports_torch_by_itself() -> None:
    """Broken: the default installation, which has no torch, does not start; or a service pays seconds for it."""
    program = """
import importlib, pkgutil, sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sentence_transformers"):
            raise AssertionError(name + " is imported")
sys.meta_path.insert(0, Refused())
import headrace_embedder
for module in pkgutil.walk_packages(headrace_embedder.__path__, "headrace_embedder."):
    importlib.import_module(module.name)
from headrace_embedder.factory import build
from headrace_embedder.settings import EmbedderSettings
for name in ("hashing", "openai-compatible"):
    print(build(EmbedderSettings(provider=name, base_url="http://127.0.0.1:9/v1")).name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["hashing", "openai-compatible"]


def test_a_missing_url_or_unknown_provider_is_refused_by_name() -> None:
    """The service would start and fail at the first record."""
    with pytest.raises(ConfigurationError, match="HEADRACE_EMBEDDER_BASE_URL"):
        build(EmbedderSettings(provider="openai-compatible", base_url=None))
    with pytest.raises(ValidationError, match="provider"):
        EmbedderSettings.model_validate({"provider": "magic"})


def test_settings_describe_themselves_and_hide_secrets() -> None:
    """The generated documentation would have gaps, or a log would show a key."""
    assert all(field.description for field in EmbedderSettings.model_fields.values())
    assert "hush" not in repr(EmbedderSettings(api_key=SecretStr("hush"), token=SecretStr("hush")))


def local(encode: object, caps: Caps = Caps(2, 100)) -> SentenceTransformersProvider:  # noqa: B008
    """Return the local provider over a fake model of one dimension."""
    prompts = {Kind.QUERY: "query: ", Kind.PASSAGE: ""}
    return SentenceTransformersProvider("fake", 2, encode, TokenCounter(None, 4), caps, prompts)  # type: ignore[arg-type]


async def test_the_local_model_restores_the_order_counts_what_is_cut_and_puts_prompts_before() -> None:
    """Sorted texts would get each other's vectors; cut texts and prompts would go unseen."""
    seen: list[str] = []

    def encode(texts: list[str]) -> Vectors:
        seen.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    provider = local(encode)
    texts = ["x" * length for length in (3, 40, 7, 1, 12)]
    result = await provider.embed(texts, Kind.PASSAGE)
    ratios = result.vectors[:, 0] / result.vectors[:, 1]
    np.testing.assert_allclose(ratios, [3, 40, 7, 1, 12], rtol=1e-5)
    assert result.cut == (1,)
    assert result.tokens == 1 + 4 + 2 + 1 + 4
    await provider.embed(["where"], Kind.QUERY)
    assert seen[-1] == "query: where"
    assert (await provider.embed([], Kind.PASSAGE)).vectors.shape == (0, 2)
    await provider.aclose()


async def test_a_device_without_room_for_one_text_pauses_the_stage() -> None:
    """A document would be dead-lettered because another process fills the GPU."""

    def encode(texts: list[str]) -> Vectors:
        raise OutOfMemory("0 bytes free")

    provider = local(encode)
    with pytest.raises(DependencyDown, match="0 bytes free"):
        await provider.embed(["a", "b", "c"], Kind.PASSAGE)
    await provider.aclose()


def test_a_name_that_is_not_the_packaged_model_stays_as_it_is() -> None:
    """A user's folder would be replaced by the packaged model."""
    assert model_path("models/mine") == "models/mine"
