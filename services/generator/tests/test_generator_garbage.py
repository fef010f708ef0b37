"""What a model or an embedder answers instead of an answer must not cost a question."""

from __future__ import annotations

import httpx2 as httpx
import pytest

from headrace.errors import DependencyDown
from headrace.store.rows import Generation
from headrace_generator.language_model import LanguageModelProvider
from headrace_generator.passages import QuestionEmbedder
from headrace_generator.settings import GeneratorSettings

pytestmark = pytest.mark.unit
GENERATION = Generation("g1", "model", 2)

SETTINGS = GeneratorSettings(base_url="http://model/v1", model="m")


def answering(body: bytes) -> httpx.AsyncClient:
    """A client of a server that always answers so."""
    headers = {"content-type": "application/json"}
    return httpx.AsyncClient(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=body, headers=headers))
    )


@pytest.mark.parametrize("body", [b'{"choices": [', b"\xff\xfe", b"[" * 100_000, b"[]", b"{}"])
async def test_an_answer_that_is_cut_or_no_json_is_waited_for(body: bytes) -> None:
    """Broken: a proxy that cuts an answer short sends the question to the dead letters."""
    with pytest.raises(DependencyDown):
        await LanguageModelProvider(SETTINGS, answering(body)).write("why?", [])
    with pytest.raises(DependencyDown):
        await QuestionEmbedder(SETTINGS, answering(body)).embed("why?", GENERATION)


@pytest.mark.parametrize("number", ["NaN", "1e400", "-Infinity", "1e39", '"a"'])
async def test_a_vector_that_no_index_takes_is_waited_for(number: str) -> None:
    """Broken: PostgreSQL refuses the vector, and the question is given up for the embedder's fault."""
    body = f'{{"data": [{{"embedding": [0.5, {number}]}}]}}'.encode()
    with pytest.raises(DependencyDown, match="no vector"):
        await QuestionEmbedder(SETTINGS, answering(body)).embed("why?", GENERATION)


async def test_what_cannot_be_stored_is_taken_out_of_a_text() -> None:
    """Broken: a text that was paid for is given up for one character."""
    body = b'{"choices": [{"message": {"content": "Slow\\u0000ly\\ud800 [1]."}}], "model": "m"}'
    draft = await LanguageModelProvider(SETTINGS, answering(body)).write("why?", [])
    assert draft.text == "Slowly? [1]."
