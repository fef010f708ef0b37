"""Who pays for what of an answer, what a cap lets through, and tokens that are charged for nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from structlog.testing import capture_logs

from headrace.config.settings import EXIT_CONFIGURATION
from headrace.embeddings.costs import CostSettings
from headrace.embeddings.preparation import Preparation
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.errors import ConfigurationError, HeadraceError, HoldRecord, InvalidRecord
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts
from headrace_embedder import main, metrics
from headrace_embedder.batch import Computed, Document, EmbeddingBatch, Key, Text
from headrace_embedder.fairness import FairShare
from headrace_embedder.openai_compatible import OpenAICompatibleProvider
from headrace_embedder.provider import EmbedResult
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.spending import Spending, bills
from headrace_embedder.types import Kind

pytestmark = pytest.mark.unit
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def text(tenant: str, word: str, document_id: str) -> Text:
    """A text by its word."""
    return Text(tenant, word.encode().ljust(16, b"."), word, document_id)


def document(tenant: str, name: str, *words: str) -> Context[ChunkedDocument]:
    """A document with a chunk for each word."""
    chunks = tuple(Chunk(bytes(16), (), 0, len(word), word, text_hash=word.encode().ljust(16, b".")) for word in words)
    payload = ChunkedDocument(DocumentFacts(name, "text/plain", bytes(16)), chunks)
    return Context(
        Trace(f"r-{name}", "default", 1, NOW), Change(tenant, name, 1, Operation.UPSERT), payload, Metadata({})
    )


def batch_of(*contexts: Context[ChunkedDocument]) -> EmbeddingBatch:
    """A batch of them, prepared as they are."""
    return EmbeddingBatch([Document(context, Preparation().of(context.payload)) for context in contexts])


def test_each_document_pays_for_its_own_texts_and_the_sums_are_the_answers() -> None:
    """Broken: a tenant pays for another's texts, or the ledger's sum differs from what the provider charged."""
    part = [text("a", "one", "d1"), text("b", "one", "d1"), text("a", "two", "d2"), text("a", "three", "d1")]
    result = EmbedResult(np.zeros((4, 2), np.float32), tokens=16, text_tokens=(1, 3, 5, 7), calls=3)
    made = bills(part, result, Decimal("0.5"))
    assert made["a"].documents == {"d1": (2, 8), "d2": (1, 5)}
    assert made["b"].documents == {"d1": (1, 3)}
    assert sum(bill.calls for bill in made.values()) == 3
    assert sum(used.tokens for bill in made.values() for used in bill.documents.values()) == result.tokens


def test_a_provider_that_counts_no_tokens_by_text_is_a_fault_and_not_free() -> None:
    """Broken: a new provider forgets the tokens, and everything is written as free."""
    with pytest.raises(ValueError, match="zip"):
        bills([text("a", "one", "d")], EmbedResult(np.zeros((1, 2), np.float32), tokens=4), None)


def test_over_its_cap_a_tenants_records_wait_and_known_texts_and_other_tenants_go_on() -> None:
    """Broken: a capped tenant's free edits wait, or its cap stops its neighbour."""
    batch = batch_of(document("a", "new", "fresh"), document("a", "edit", "known"), document("b", "b", "fresh"))
    batch.cached({text("a", "known", "").key})
    assert batch.missing() == [text("a", "fresh", "new"), text("b", "fresh", "b")]
    why = HoldRecord("cap/a", "full")
    batch.hold({"a": why})
    assert [one.refusal for one in batch.documents] == [why, None, None]
    assert batch.missing() == [text("b", "fresh", "b")]


def test_a_text_is_paid_by_the_first_document_that_goes() -> None:
    """Broken: a document that stands back is charged for what another had embedded."""
    batch = batch_of(document("a", "first", "same"), document("a", "second", "same"))
    assert batch.missing() == [text("a", "same", "first")]
    fair = Mock(spec=FairShare)
    fair.choose.return_value = [False, True]
    assert batch.admit(fair, read_again=False) == 1
    assert batch.missing() == [text("a", "same", "second")]


def test_a_vector_travels_once_with_the_first_document_that_goes_on() -> None:
    """Broken: a vector is sent twice, or leaves with a document that is never written."""
    batch = batch_of(
        document("a", "held", "same", "mine"), document("a", "bad", "same", "refused"), document("a", "first", "same"),
        document("a", "second", "same", "shared"), document("b", "other", "same"),
    )  # fmt: skip
    batch.documents[0].refusal = why = HoldRecord("cap/a", "full")
    batch.share({text("a", "shared", "").key: b"s"})
    refused: dict[Key, HeadraceError] = {text("a", "refused", "").key: InvalidRecord("text", "is refused")}
    computed = Computed({text("a", "same", "").key: b"v", text("b", "same", "").key: b"w"}, refused)
    for _ in range(2):
        held, bad, *made = batch.results(computed, generation="g", model="m", dimensions=1)
        assert held is why
        assert isinstance(bad, InvalidRecord)
        vectors = [list(one.payload.vectors.values()) for one in made if isinstance(one, Context)]
        assert vectors == [[b"v"], [b"s"], [b"w"]]


def test_a_cap_in_dollars_on_a_model_without_a_price_is_refused(tmp_path: Path) -> None:
    """Broken: the cap never bites, because nobody knows what the tokens cost."""
    path = tmp_path / "costs.yaml"
    path.write_text("caps: {all: {usd_per_day: 1}}")
    settings = CostSettings(file=path)
    with pytest.raises(ConfigurationError, match="price of m is unknown") as caught:
        Spending("m", local=False, settings=settings)
    assert str(path) in caught.value.where
    Spending("m", local=True, settings=settings)
    path.write_text("caps: {all: {tokens_per_day: 1}}")
    Spending("m", local=False, settings=settings)


async def test_a_price_that_goes_while_a_cap_is_in_dollars_leaves_what_was_in_force(tmp_path: Path) -> None:
    """Broken: a slip in the file of prices stops the embedder, or has it spend at no known price."""
    path = tmp_path / "costs.yaml"
    path.write_text("models: {m: {usd_per_million_tokens: 2}}\n")
    spending = Spending("m", local=False, settings=CostSettings(file=path))
    path.write_text("caps: {all: {usd_per_day: 1}}\n")
    with capture_logs() as logs:
        assert await spending.over(Mock(), ()) == {}
    assert spending.price == 2
    (line,) = logs
    assert (line["log_level"], "price of m is unknown" in line["error"]) == ("error", True)


@pytest.mark.parametrize("scope", ["all", "tenant"])
async def test_a_batch_that_needs_no_model_is_not_shown_as_capped(scope: str) -> None:
    """Broken: an alert on caps stays red after they are raised, until a later batch needs the model."""
    metrics.CAPPED.labels(scope).set(1)
    assert await Spending("m", local=True).over(Mock(), ()) == {}
    (metric,) = metrics.CAPPED.collect()
    assert {sample.labels["scope"]: sample.value for sample in metric.samples}[scope] == 0


def test_the_embedder_does_not_start_with_a_cap_that_it_cannot_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken: the embedder is ready, and stands still with the first record."""
    path = tmp_path / "costs.yaml"
    path.write_text("caps: {tenants: {acme: {usd_per_month: 1}}}")
    monkeypatch.setattr("headrace.stage_process.main.PipelineFollower", Mock())
    served = {"PROVIDER": "openai-compatible", "BASE_URL": "http://127.0.0.1:9/v1", "MODEL": "m", "DIMENSIONS": "2",
              "SEND_DIMENSIONS": "true"}  # fmt: skip
    for name, value in served.items():
        monkeypatch.setenv(f"HEADRACE_EMBEDDER_{name}", value)
    monkeypatch.setenv("HEADRACE_COST_FILE", str(path))
    assert main.main() == EXIT_CONFIGURATION
    said = capsys.readouterr().err
    assert "embedder cannot start: cannot apply the cap in USD: the price of m@2 is unknown" in said
    assert str(path) in said


def provider(answer: Any) -> OpenAICompatibleProvider:
    """A provider whose server answers so."""
    settings = EmbedderSettings(
        provider="openai-compatible", base_url="http://127.0.0.1:9/v1", model="m", dimensions=2, request_texts=3
    )
    return OpenAICompatibleProvider(settings, httpx.MockTransport(answer))


def embeddings(count: int, **more: Any) -> httpx.Response:
    """An answer with so many vectors."""
    return httpx.Response(200, json={"data": [{"index": i, "embedding": [1.0, 2.0]} for i in range(count)], **more})


async def test_a_requests_tokens_are_shared_by_characters_and_calls_are_counted() -> None:
    """Broken: the documents of a request pay alike, however long they are."""

    def answer(request: httpx.Request) -> httpx.Response:
        return embeddings(len(json.loads(request.content)["input"]), usage={"prompt_tokens": 10})

    result = await provider(answer).embed(["x" * 10, "x" * 20, "x" * 70, "xx"], Kind.PASSAGE)
    assert list(result.text_tokens) == [1, 2, 7, 10]
    assert (result.tokens, result.calls) == (20, 2)


async def test_a_server_that_says_no_usage_is_estimated_and_never_free() -> None:
    """Broken: a server without `usage` costs nothing in the ledger, and no cap ever holds."""
    result = await provider(lambda _: embeddings(2)).embed(["x" * 30, "x" * 30], Kind.PASSAGE)
    assert list(result.text_tokens) == [10, 10]


async def test_tokens_of_an_answer_that_cannot_be_used_count() -> None:
    """Broken: a server that charges for answers with too few vectors is paid in secret."""

    def answer(request: httpx.Request) -> httpx.Response:
        wanted = len(json.loads(request.content)["input"])
        return embeddings(1, usage={"prompt_tokens": 10 * wanted})

    result = await provider(answer).embed(["one", "two"], Kind.PASSAGE)
    assert not result.errors
    assert (result.tokens, sum(result.text_tokens), result.calls) == (40, 40, 3)
