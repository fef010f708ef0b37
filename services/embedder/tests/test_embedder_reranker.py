"""The cross-encoder and its endpoint, with a very small model that is built here."""

from __future__ import annotations

from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from openvino import Model, save_model
from openvino import opset13 as ops
from pydantic import SecretStr
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from headrace.errors import ConfigurationError
from headrace_embedder.cross_encoder import CrossEncoder
from headrace_embedder.hashing import HashingProvider
from headrace_embedder.runnable import INPUTS
from headrace_embedder.server import create_app

pytestmark = pytest.mark.unit

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "gate": 4, "수문": 5, "wheel": 6}
WORTH = [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, -1.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose logit is the worth of the words of the passage; it ignores the question and the padding."""
    ids, mask, types = (ops.parameter([-1, -1], np.int64, name) for name in INPUTS)
    for one, name in zip((ids, mask, types), INPUTS, strict=True):
        one.output(0).set_names({name})
    worth = ops.gather(ops.constant(np.array(WORTH, np.float32)), ids, ops.constant(0))
    counted = ops.multiply(ops.convert(mask, "f32"), ops.convert(types, "f32"))
    logits = ops.reduce_sum(ops.multiply(worth, counted), ops.constant([1]), keep_dims=True)
    save_model(Model([logits], [ids, mask, types]), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = Tokenizer(WordLevel(WORDS, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_each_pair_gets_its_own_score(folder: Path) -> None:
    """Broken: the order of passages, the padding of a batch or the parts of a pair are mixed up."""
    model = CrossEncoder(str(folder))
    passages = ["wheel", "gate", "수문 gate", "nothing"] * 5
    scores = model.scores("wheel gate 수문", passages)
    expected = [1 / (1 + np.exp(-worth)) for worth in (-1.0, 1.0, 3.0, 0.0)] * 5
    assert scores == pytest.approx(expected, abs=1e-5)
    assert model.scores("gate", ["x " * 5000 + "gate"]) == pytest.approx([0.5])  # cut at the model's limit
    assert model.scores("x " * 50_000, ["gate"])[0] >= 0.5


async def test_the_endpoint_answers_as_others_do(folder: Path) -> None:
    """Broken: a client of Cohere's format cannot use it, or it serves those without the token."""
    app = create_app(HashingProvider(), token=SecretStr("t"), reranker=CrossEncoder(str(folder)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://e") as client:
        body = {"query": "gate", "documents": ["wheel", "수문", "gate"], "top_n": 2}
        assert (await client.post("/v1/rerank", json=body)).status_code == 401
        client.headers["Authorization"] = "Bearer t"
        answer = (await client.post("/v1/rerank", json=body)).json()
        assert [one["index"] for one in answer["results"]] == [1, 2]
        assert answer["results"][0]["relevance_score"] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-5)
        assert answer["model"] == folder.name
        refused: list[dict[str, object]] = [
            {"model": "other"},
            {"documents": []},
            {"documents": ["x"] * 101},
            {"query": ""},
            {"top_n": 0},
        ]
        for wrong in refused:
            assert (await client.post("/v1/rerank", json=body | wrong)).status_code in (400, 404)


async def test_without_a_reranker_there_is_no_endpoint() -> None:
    """Broken: the endpoint exists and fails, so that a gateway's reranking looks configured."""
    app = create_app(HashingProvider(), token=None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://e") as client:
        answer = await client.post("/v1/rerank", json={"query": "a", "documents": ["b"]})
        assert answer.status_code == 404


def test_a_folder_without_a_model_is_refused_at_start(folder: Path) -> None:
    """Broken: the embedder starts, and every reranking fails."""
    (folder / "tokenizer.json").rename(folder / "other.json")
    with pytest.raises(ConfigurationError, match=r"no tokenizer\.json") as caught:
        CrossEncoder(str(folder))
    assert "headrace-embedder[rerank]" in caught.value.remedy
    with pytest.raises(ConfigurationError, match=r"no model\.onnx"):
        CrossEncoder(str(folder / "none"))
