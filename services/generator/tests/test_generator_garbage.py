"""What a model or an embedder answers instead of an answer must not cost a question."""

from __future__ import annotations

import httpx2 as httpx
import pytest

from headrace.errors import DependencyDown
from headrace_generator.language_model import LanguageModelProvider
from headrace_generator.settings import GeneratorSettings

pytestmark = pytest.mark.unit

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


async def test_what_cannot_be_stored_is_taken_out_of_a_text() -> None:
    """Broken: a text that was paid for is dead-lettered for one character."""
    body = b'{"choices": [{"message": {"content": "Slow\\u0000ly\\ud800 [1]."}}], "model": "m"}'
    draft = await LanguageModelProvider(SETTINGS, answering(body)).write("why?", [])
    assert draft.text == "Slowly? [1]."
