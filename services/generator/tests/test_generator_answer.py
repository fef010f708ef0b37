"""The handler and the language model's provider, over fakes and a transport without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import httpx2 as httpx
import pytest
from pydantic import SecretStr

from headrace.access.readers import UNNAMED, Reader
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Change, Context, Operation, Trace, check_transition
from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord, PermanentError
from headrace.handlers.registry import installed
from headrace.payloads import Artifact, GenerationRequest
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.store import artifacts
from headrace.store.legs import Plan
from headrace.store.rows import Generation
from headrace.store.search import Found, Hit
from headrace_generator import passages
from headrace_generator.answer import AnswerHandler, make_provider
from headrace_generator.extractive import ExtractiveProvider
from headrace_generator.language_model import PROMPT, LanguageModelProvider
from headrace_generator.passages import Retriever
from headrace_generator.providers import Draft
from headrace_generator.settings import GeneratorSettings

pytestmark = pytest.mark.unit
GENERATION = Generation("g1", "model", 2)

HITS = [
    Hit("a.md", "A", 1, b"\x01" * 16, ("One",), 0, 33, 0, "The gate opens slowly on purpose.", 0.9, "https://a", {}),
    Hit("b.md", "B", 2, b"\x02" * 16, (), 5, 38, 0, "The wheel turns when water flows.", 0.8, "", {}),
]
FOUND = Found(HITS, more=False, plan=Plan(exact=True, dense=2, lexical=2, documents=None), fit=0.5)


@dataclass
class FakeProvider:
    """Writes what it is told."""

    text: str
    name: str = "openai-compatible"
    asked: list[str] = field(default_factory=list)

    async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
        """Return the text."""
        self.asked.append(question)
        return Draft(self.text, "model-1", PROMPT)

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class FakeArchive:
    """Keeps artifacts, or is down."""

    kept: list[artifacts.Artifact] = field(default_factory=list)
    down: DependencyDown | None = None

    async def get(self, tenant: str, artifact_id: UUID) -> artifacts.Artifact | None:
        """Return the artifact as it comes back from JSON."""
        for one in self.kept:
            if (one.tenant, one.artifact_id) == (tenant, artifact_id):
                return replace(one, citations=json.loads(json.dumps(one.citations)))
        return None

    async def put(self, artifact: artifacts.Artifact) -> bool:
        """Keep it."""
        if self.down is not None:
            raise self.down
        self.kept.append(artifact)
        return True


def context(**changes: Any) -> Context[GenerationRequest]:
    """A request as the gateway publishes it."""
    request = GenerationRequest(**{"question": "How does the gate open?", "top_k": 2, **changes})
    trace = Trace("r-1", "answer", 4, datetime(2026, 1, 1, tzinfo=UTC), "key:abc")
    return Context(trace, Change("alpha", "r-1", 0, Operation.UPSERT), request)


def handler(provider: Any, hits: list[Hit], store: FakeArchive | None = None) -> AnswerHandler:
    """The handler over fakes; it notes nothing and finds these passages."""

    async def find(tenant: str, request: GenerationRequest) -> Found:
        assert tenant == "alpha"
        return replace(FOUND, hits=hits[: request.top_k], fit=0.5 if hits else 0.0)

    return AnswerHandler(
        settings=GeneratorSettings(), find_passages=find, provider=provider, archive=store or FakeArchive()
    )


async def test_an_answer_is_stored_cited_and_handed_on() -> None:
    """If it failed, store and topic would disagree, or the artifact lack what makes it traceable."""
    store = FakeArchive()
    step = handler(FakeProvider("Slowly [1]. Also [2] and [7]."), HITS, store)
    await step.start()
    before = context()
    after = await step.process(before)
    check_transition(before, after, "generator")
    artifact: Artifact = after.payload
    assert artifact.text == "Slowly [1]. Also [2] and."
    assert [(one.marker, one.document_id, one.source) for one in artifact.citations] == [
        (1, "a.md", "https://a"),
        (2, "b.md", None),
    ]
    assert artifact.citations[0].quote == HITS[0].text
    assert dict(after.metadata) == {
        "generator.provider": "openai-compatible",
        "generator.model": "model-1",
        "generator.passages": 2,
        "generator.fit": 0.5,
        "generator.citations": 2,
        "generator.citations_removed": 1,
        "generator.uncited": False,
    }
    (row,) = store.kept
    assert (row.tenant, str(row.artifact_id), row.version) == ("alpha", artifact.artifact_id, 1)
    assert (row.request_id, row.prompt, row.pipeline_version, row.created_by) == ("r-1", PROMPT, "4", "key:abc")
    assert json.loads(json.dumps(row.citations))[0]["chunk_id"] == "01" * 16
    codec = Codec(FixedIds())
    assert codec.decode(codec.encode(after, Artifact), Artifact).payload == artifact
    await step.close()


async def test_an_artifact_knows_its_reader_and_all_its_sources() -> None:
    """Broken: an answer is shown to others than the reader who asked, or stays after he lost a document it is from."""
    store = FakeArchive()
    step = handler(FakeProvider("Slowly [1]."), HITS, store)
    await step.start()
    await step.process(context(reader=("group:staff", "user:ann")))
    (row,) = store.kept
    assert (row.reader, row.sources) == (("group:staff", "user:ann"), ["a.md", "b.md"])  # also what it does not cite
    assert [one["document_id"] for one in row.citations] == ["a.md"]


async def test_a_request_without_a_reader_is_one_without_a_user() -> None:
    """Broken: a request that was written before readers existed reads every document."""
    store = FakeArchive()
    step = handler(FakeProvider("Slowly [1]."), HITS, store)
    await step.start()
    await step.process(context())
    assert store.kept[0].reader == ()
    assert Reader.of(context().payload.reader) == UNNAMED


@pytest.mark.parametrize("reader", [("*", "user:ann"), ("ann",), ("user:",), tuple(f"user:{n}" for n in range(513))])
def test_an_invalid_reader_is_refused(reader: tuple[str, ...]) -> None:
    """Broken: a request that names no valid reader is answered."""
    with pytest.raises(InvalidRecord, match="reader"):
        handler(FakeProvider(""), HITS).validate(context(reader=reader))


@pytest.mark.parametrize("names", [(), ("user:ann",), ("*",)])
async def test_passages_are_those_of_the_requests_reader(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """Broken: the provider is shown passages that the reader may not read."""
    asked: list[Reader] = []

    async def search(*_: object, reader: Reader, **__: object) -> Found:
        asked.append(reader)
        return FOUND

    async def of_any(*_: object, **__: object) -> object:
        return object()

    monkeypatch.setattr(passages, "search", search)
    retriever = passages.Retriever(None, None)  # type: ignore[arg-type]
    monkeypatch.setattr(retriever, "_active", of_any)
    monkeypatch.setattr(retriever._questions, "ask", of_any)
    assert await retriever.find("alpha", context(reader=names).payload) == replace(FOUND, hits=HITS[:2])
    assert asked == [Reader.of(names)]


async def test_a_repeat_is_the_same_artifact_and_costs_no_call() -> None:
    """If it failed, each replay would pay the model again, and the topic differ from the store."""
    store = FakeArchive()
    provider = FakeProvider("First [2].")
    step = handler(provider, HITS, store)
    await step.start()
    first = await step.process(context())
    provider.text = "Another [1]."
    before = context()
    second = await step.process(before)
    check_transition(before, second, "generator")
    assert second.payload == first.payload
    assert len(store.kept) == len(provider.asked) == 1


async def test_one_question_that_fails_leaves_the_others_alone() -> None:
    """If it failed, a question that can never work would take a whole batch with it."""

    class Picky(FakeProvider):
        async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
            if question == "bad":
                raise PermanentError("refused")
            return await super().write(question, passages)

    step = handler(Picky("Yes [1]."), HITS)
    await step.start()
    batch = [replace(context(question=name), trace=replace(context().trace, request_id=name)) for name in ("a", "bad")]
    good, bad = await step.process_batch(batch)
    assert isinstance(good, Context)
    assert good.payload.title == "a"
    assert isinstance(bad, PermanentError)


async def test_an_unforeseen_error_is_raised_for_the_runtime_to_bisect() -> None:
    """If it failed, a defect of ours would be passed off as a result."""

    class Broken(FakeProvider):
        async def write(self, question: str, passages: Sequence[Hit]) -> Draft:
            raise ZeroDivisionError

    step = handler(Broken(""), HITS)
    await step.start()
    with pytest.raises(ZeroDivisionError):
        await step.process_batch([context()])


async def test_without_passages_the_artifact_says_so_and_no_model_is_asked() -> None:
    """If it failed, a model would answer from nothing, or the client wait for ever."""
    provider = FakeProvider("made up")
    step = handler(provider, [])
    await step.start()
    after = await step.process(context())
    assert after.payload.text.startswith("No answer: the documents")
    assert after.payload.citations == ()
    assert provider.asked == []
    assert (after.metadata["generator.passages"], after.metadata["generator.uncited"]) == (0, False)


async def test_an_answer_without_any_citation_is_flagged() -> None:
    """If it failed, a made-up answer would look like a cited one."""
    step = handler(FakeProvider("I just know."), HITS)
    await step.start()
    after = await step.process(context())
    assert after.metadata["generator.uncited"] is True
    assert after.payload.citations == ()


async def test_the_store_comes_first() -> None:
    """If it failed, an artifact would be announced on the topic that the store does not have."""
    step = handler(ExtractiveProvider(), HITS, FakeArchive(down=DependencyDown("postgresql")))
    await step.start()
    with pytest.raises(DependencyDown):
        await step.process(context())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"question": " \n"}, "question"),
        ({"kind": "poem"}, "kind"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": 101}, "top_k"),
        ({"filter": "language = ko"}, "filter"),
        ({"filter": "{}"}, "filter"),
        ({"filter": '{"and": [{"field": "x", "eq": 1}]}'}, "filter.and[0].field"),
    ],
)
def test_a_request_that_can_never_work_is_refused(changes: dict[str, Any], name: str) -> None:
    """If it failed, such a request would be tried for ever or fail without a reason."""
    with pytest.raises(InvalidRecord) as caught:
        handler(ExtractiveProvider(), []).validate(context(**changes))
    assert caught.value.field == name


def test_the_handler_is_found_by_its_entry_point() -> None:
    """If it failed, the stage would start without its handler."""
    assert installed("generator").find("generator", "answer") is AnswerHandler


def test_the_provider_follows_from_the_settings() -> None:
    """If it failed, a configured model would not be used, or a missing one be called."""
    full: dict[str, Any] = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    assert isinstance(make_provider(GeneratorSettings()), ExtractiveProvider)
    assert isinstance(make_provider(GeneratorSettings(model="m")), ExtractiveProvider)
    assert isinstance(make_provider(GeneratorSettings(**full)), LanguageModelProvider)
    assert isinstance(make_provider(GeneratorSettings(provider="extractive", **full)), ExtractiveProvider)
    with pytest.raises(ConfigurationError):
        make_provider(GeneratorSettings(provider="openai-compatible"))


def model(answer: Any) -> tuple[LanguageModelProvider, list[httpx.Request]]:
    """The provider over a transport that answers so."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, httpx.Response)
        return answer

    settings = GeneratorSettings(base_url="http://llm/v1", model="m", api_key=SecretStr("sk"), max_tokens=9)
    return LanguageModelProvider(settings, httpx.AsyncClient(transport=httpx.MockTransport(handle))), seen


def completion(text: str | None) -> httpx.Response:
    """A server's answer."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-2026", "choices": [choice]}
    return httpx.Response(200, json=body)


async def test_the_model_gets_the_prompt_once_and_its_text_comes_back() -> None:
    """If it failed, the model would be asked something else, or twice."""
    provider, seen = model(completion(" Slowly [1]. \n"))
    draft = await provider.write("How?", HITS)
    assert draft == Draft("Slowly [1].", "m-2026", PROMPT)
    (request,) = seen
    assert request.url == "http://llm/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer sk"
    body = json.loads(request.content)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("m", 9, 0.0)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert HITS[1].text in body["messages"][1]["content"]
    await provider.close()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        *(httpx.Response(status) for status in (401, 403, 404, 408, 409, 429, 500, 503)),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={}),
    ],
)
async def test_an_outage_of_the_model_pauses_and_is_tried_once(answer: Any) -> None:
    """If it failed, an outage would send questions to the dead letters, or be hidden by the client's own retries."""
    provider, seen = model(answer)
    with pytest.raises(DependencyDown) as caught:
        await provider.write("How?", HITS)
    assert caught.value.dependency == "language model"
    assert len(seen) == 1
    await provider.close()


@pytest.mark.parametrize("text", ["", " \n", None])
async def test_an_empty_answer_is_dead_lettered(text: str | None) -> None:
    """If it failed, an empty text would be stored as the answer, or one question stop the stage for ever."""
    provider, _ = model(completion(text))
    with pytest.raises(PermanentError):
        await provider.write("How?", HITS)
    await provider.close()


async def test_the_models_retry_after_is_kept() -> None:
    """If it failed, the stage would come back before the model's limit is over."""
    provider, _ = model(httpx.Response(429, headers={"Retry-After": "17"}))
    with pytest.raises(DependencyDown) as caught:
        await provider.write("How?", HITS)
    assert caught.value.delay == 17
    await provider.close()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_request_that_the_model_refuses_is_dead_lettered(status: int) -> None:
    """If it failed, one question that is too long would pause the stage for all others."""
    provider, _ = model(httpx.Response(status, json={"error": {"message": "context length exceeded"}}))
    with pytest.raises(PermanentError, match="context length exceeded"):
        await provider.write("How?", HITS)
    await provider.close()


@pytest.mark.parametrize(
    ("question", "said"), [("How does it open?", "No answer: "), ("어떻게 여나요?", "답변 없음: ")]
)
async def test_nothing_fits_in_the_questions_language_and_costs_no_call(question: str, said: str) -> None:
    """If it failed, the model would be paid to guess, or a Korean would be answered in English."""
    provider = FakeProvider("Guessed [1].")
    after = await handler(provider, []).process(context(question=question))
    assert after.payload.text.startswith(said)
    assert (after.payload.model, after.payload.citations) == ("none", ())
    assert after.metadata["generator.fit"] == 0.0
    assert not provider.asked


@pytest.mark.parametrize(
    ("fit", "minimum", "passages"), [(0.05, None, 0), (0.05, 0.0, 2), (0.2, None, 2), (0.2, 0.5, 0)]
)
async def test_passages_that_do_not_fit_are_left_out(
    monkeypatch: pytest.MonkeyPatch, fit: float, minimum: float | None, passages: int
) -> None:
    """If it failed, the setting or the request's own minimum would be ignored."""

    async def found(*_: Any, **__: Any) -> Found:
        return replace(FOUND, fit=fit)

    monkeypatch.setattr("headrace_generator.passages.search", found)
    retriever = Retriever(AsyncMock(), AsyncMock())
    monkeypatch.setattr(retriever, "_active", AsyncMock())
    monkeypatch.setattr(retriever, "_questions", Questions(AsyncMock(), SearchSettings()))
    monkeypatch.setattr(Questions, "ask", AsyncMock())
    result = await retriever.find("alpha", context(minimum_fit=minimum).payload)
    assert (len(result.hits), result.fit) == (passages, fit)
