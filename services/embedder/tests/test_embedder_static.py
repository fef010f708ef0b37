"""model2vec over a tiny model that the test makes, and models that are converted beforehand."""

from __future__ import annotations

import builtins
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace.errors import ConfigurationError
from headrace_embedder import conversion, local_model, openvino_model, torch_model
from headrace_embedder.convert import converted_to
from headrace_embedder.factory import build
from headrace_embedder.model_folder import NotConverted
from headrace_embedder.runnable import FACTS
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.types import Kind

pytestmark = pytest.mark.unit

WORDS = {"[UNK]": 0, "river": 1, "dam": 2, "bread": 3}
VECTORS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A static model of three words, in a folder."""
    model2vec = pytest.importorskip("model2vec")
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    model2vec.StaticModel(VECTORS, tokenizer, normalize=True).save_pretrained(str(tmp_path / "words"))
    return tmp_path / "words"


async def test_a_static_model_embeds_by_the_mean_of_its_words(folder: Path) -> None:
    """Broken: the light provider gives other vectors than its model."""
    provider = build(EmbedderSettings(provider="model2vec", model=str(folder), dimensions=3))
    assert (provider.model, provider.dimensions) == ("words", 3)
    result = await provider.embed(["river dam", "bread", "dam " * 3000], Kind.PASSAGE)
    assert not result.errors
    assert not result.cut
    np.testing.assert_allclose(result.vectors[0], np.array([2, 1, 0]) / np.sqrt(5), rtol=1e-5)
    np.testing.assert_allclose(result.vectors[2], np.array([1, 1, 0]) / np.sqrt(2), rtol=1e-4)
    assert result.tokens == 3003
    assert (await provider.embed([], Kind.PASSAGE)).vectors.shape == (0, 3)


async def test_a_passage_without_a_known_word_is_skipped_and_such_a_query_refused(folder: Path) -> None:
    """Broken: a document is dead-lettered for a line of signs, or a search answers with anything."""
    provider = build(EmbedderSettings(provider="model2vec", model=str(folder), dimensions=3))
    result = await provider.embed(["bread", "zzz"], Kind.PASSAGE)
    assert dict(result.skipped) == {1: "the model knows none of its words"}
    assert not result.errors
    assert list((await provider.embed(["zzz"], Kind.QUERY)).errors) == [0]


def test_another_dimension_a_missing_model_and_a_missing_package_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the service starts with a model that does not fit its index, or dies without a reason."""
    with pytest.raises(ConfigurationError, match="has 3 dimensions, but 256 are configured"):
        build(EmbedderSettings(provider="model2vec", model=str(folder), dimensions=256))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="cannot load"):
        build(EmbedderSettings(provider="model2vec", model=str(tmp_path / "empty"), dimensions=3))
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "model2vec":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"Install headrace-embedder\[model2vec\]"):
        build(EmbedderSettings(provider="model2vec", model=str(folder), dimensions=3))


def test_without_torch_another_architecture_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the default installation fails with a stack instead of what to install."""
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    settings = EmbedderSettings(model=str(tmp_path), device="cpu")
    with pytest.raises(ConfigurationError, match=r"architecture is mpnet.*torch, which converts") as refused:
        build(settings)
    assert "Install headrace-embedder[torch]" in refused.value.remedy
    assert f"headrace-embedder-convert {tmp_path} FOLDER" in refused.value.remedy
    for torch in ({"backend": "torch"}, {"device": "cuda"}):
        with pytest.raises(ConfigurationError, match=r"requires torch, which.*headrace-embedder\[torch\]"):
            build(EmbedderSettings.model_validate({"model": str(tmp_path), **torch}))
    with pytest.raises(NotConverted, match=r"architecture is mpnet.*Install headrace-embedder\[torch\]"):
        converted_to(str(tmp_path), tmp_path / "made" / tmp_path.name)


def test_a_gpu_without_torch_leaves_the_model_to_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the default installation does not start on a machine that happens to have a GPU."""
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    (card := tmp_path / "nvidia0").touch()
    monkeypatch.setattr(local_model, "_ACCELERATORS", (str(card),))
    assert not local_model.on_processor(None)
    monkeypatch.setattr(torch_model, "installed", lambda: False)
    monkeypatch.setattr(openvino_model, "installed", lambda: False)
    with capture_logs() as logs, pytest.raises(ConfigurationError, match="OpenVINO cannot run"):
        build(EmbedderSettings(model=str(tmp_path)))
    assert [log["event"] for log in logs] == ["the GPU is not used because torch is not installed"]


def test_a_conversion_is_whole_or_not_there_and_keeps_the_models_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: half a model is taken for one, or its vectors stand in the index under another name."""
    (source := tmp_path / "source" / "model").mkdir(parents=True)
    target = tmp_path / "made" / "model"

    def fails(_: Path, partial: Path) -> None:
        (partial / "model.xml").write_text("half")
        raise NotConverted("no such operation")

    monkeypatch.setattr("headrace_embedder.convert._write", fails)
    with pytest.raises(NotConverted, match="no such operation"):
        converted_to(str(source), target)
    assert list((tmp_path / "made").iterdir()) == []
    with pytest.raises(ConfigurationError, match="'other': it must be the model's identity in the index, 'model'"):
        converted_to(str(source), tmp_path / "made" / "other")
    monkeypatch.setattr("headrace_embedder.convert._write", lambda _, partial: (partial / FACTS).write_text("{}"))
    converted_to(str(source), target)
    assert [file.name for file in target.iterdir()] == ["facts.json"]
    with pytest.raises(ConfigurationError, match="already exists"):
        converted_to(str(source), target)


def test_a_conversion_that_takes_too_long_is_stopped_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the embedder ends with a stack of calls, and each restart leaves another folder of some GB."""
    (source := tmp_path / "source").mkdir()
    monkeypatch.setattr(conversion, "_CONVERT_S", 0.2)
    monkeypatch.setattr(conversion, "_CONVERTER", ("-c", "import time; time.sleep(60)"))
    settings = EmbedderSettings(model=str(source), device="cpu", cache_dir=tmp_path / "cache")
    with pytest.raises(
        NotConverted, match=r"longer than 0.2 s\. Convert the model once with `headrace-embedder-convert`"
    ):
        conversion.converted(source, settings)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_conversion_left_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a process that is killed while it converts leaves its folder for ever, or removes a running one."""
    (source := tmp_path / "source").mkdir()
    for name, days in ((".converting-old", 2), (".converting-new", 0), ("model", 2)):
        (tmp_path / "cache" / name).mkdir(parents=True)
        at = time.time() - days * 86_400
        os.utime(tmp_path / "cache" / name, (at, at))
    monkeypatch.setattr(conversion, "_CONVERTER", ("-c", "raise SystemExit('no such operation')"))
    with pytest.raises(NotConverted, match="no such operation"):
        conversion.converted(source, EmbedderSettings(model=str(source), device="cpu", cache_dir=tmp_path / "cache"))
    assert {folder.name for folder in (tmp_path / "cache").iterdir()} == {".converting-new", "model"}
