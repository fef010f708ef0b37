"""Sums of the ledger, whose cap has room, and what an estimate counts; no store and no log."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.config.settings import KafkaSettings
from headrace.embeddings.costs import CostSettings, Spent, parse_book
from headrace.embeddings.models import SERVED
from headrace.embeddings.preparation import Preparation, text_hash
from headrace.envelope import Change, Context, Metadata, Operation, Trace
from headrace.kafka.broker_contract import Record
from headrace.kafka.ranges import LogReader
from headrace.objects.places import ObjectGone
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts, ReplayRun
from headrace.store.usage import DayUsage, DocumentUsage
from headrace_operations.audit import repairs
from headrace_operations.audit.model import Finding, Key, Kind, Report, Target
from headrace_operations.audit.run import explained
from headrace_operations.embeddings import estimate, ledger
from headrace_operations.embeddings.incremental import lacking_vectors
from headrace_operations.embeddings.models import cap_without_price

pytestmark = pytest.mark.unit
NOW = datetime(2026, 5, 4, tzinfo=UTC)
BOOK = parse_book("caps: {each_tenant: {usd_per_day: 1}, all: {usd_per_month: 10}}", "costs.yaml")


def day(tenant: str, number: int, model: str, tokens: int, usd: str, unpriced: int = 0) -> DayUsage:
    """A row of the ledger."""
    return DayUsage(tenant, date(2026, 5, number), "embedder", model, 1, tokens, 1, Decimal(usd), unpriced)


def test_sums_are_by_what_is_asked_for_and_exact() -> None:
    """Broken: a report by model mixes tenants' money wrongly, or loses the tokens that nobody priced."""
    rows = [day("a", 1, "m", 10, "0.1"), day("b", 1, "m", 20, "0.2"), day("a", 2, "n", 5, "0", 5)]
    by_model = ledger.summed(rows, "model")
    assert [(line.names, line.tokens, line.usd) for line in by_model] == [
        (("m",), 30, Decimal("0.3")), (("n",), 5, Decimal(0)),
    ]  # fmt: skip
    assert [line.names for line in ledger.summed(rows, "day")] == [("2026-05-01",), ("2026-05-02",)]
    for by in ("tenant", "stage", "model", "day"):
        everything = ledger.total(ledger.summed(rows, by))
        assert (everything.texts, everything.tokens, everything.usd, everything.unpriced_tokens) == (
            3, 35, Decimal("0.3"), 5,
        )  # fmt: skip


def test_documents_are_summed_over_models_the_dearest_first() -> None:
    """Broken: a document embedded by two models stands there twice, each half looking cheap."""

    def row(name: str, model: str, usd: str) -> DocumentUsage:
        return DocumentUsage("a", name, "embedder", model, 1, 1, Decimal(usd), 0, date(2026, 5, 1), date(2026, 5, 1))

    lines = ledger.of_documents([row("d1", "m", "0.2"), row("d2", "m", "0.3"), row("d1", "n", "0.2")])
    assert [(line.names, line.usd) for line in lines] == [
        (("a", "d1"), Decimal("0.4")), (("a", "d2"), Decimal("0.3")),
    ]  # fmt: skip


def test_only_tenants_with_room_are_released_and_none_while_all_is_capped() -> None:
    """Broken: a release sends a full tenant's records in a circle, or spends beyond the cap on all."""
    spent = {"full": Spent(Decimal(1), Decimal(1)), "free": Spent(Decimal("0.5"), Decimal(5))}
    assert ledger.with_room(BOOK, Spent(Decimal(1), Decimal(6)), spent, NOW) == {"cap/free"}
    assert ledger.with_room(BOOK, Spent(Decimal(1), Decimal(10)), spent, NOW) == frozenset()
    found = ledger.all_reached(BOOK, Spent(Decimal(1), Decimal(10)), spent, NOW)
    assert [one.whose for one in found] == ["all tenants", "tenant full"]


@given(st.integers(0, 20_000))
def test_pieces_cover_a_text_once_with_what_they_share(characters: int) -> None:
    """Broken: the estimate counts a long text short, or a piece has no characters."""
    lengths = estimate.pieces(characters)
    assert all(0 < length <= 500 for length in lengths)
    assert sum(lengths) == characters + 50 * max(0, len(lengths) - 1)


async def test_an_estimate_counts_distinct_texts_without_a_vector() -> None:
    """Broken: repeats and cached texts are charged, or another tenant's cache is taken for this one's."""
    lengths = estimate.of_texts("a", ["x" * 300, "x" * 300, "y" * 600])
    one = estimate.Lengths()
    one.add("a", b"known", 30)
    one.add("b", b"known", 30)

    async def known(tenant: str, hashes: set[bytes]) -> set[bytes]:
        return hashes if tenant == "a" else set()

    exact = await estimate.priced(one, known, price=Decimal(2), rate=0.5, exact=True)
    assert (exact.texts, exact.to_embed, exact.tokens, exact.usd, exact.seconds) == (2, 1, 10, Decimal("0.00002"), 2.0)
    about = await estimate.priced(lengths, None, price=None, rate=None, exact=False)
    assert (about.documents, about.texts, about.to_embed, about.tokens) == (3, 3, 3, 100 + 167 + 50)
    assert (about.usd, about.seconds) == (None, None)


class _Decoded:
    """Stands in for the codec: a record's value is its text, or names a payload that is lost."""

    def decode(self, value: bytes | None, _: object) -> Context:
        """Return a document of one chunk."""
        if value == b"lost":
            raise ObjectGone("the payload is gone")
        text = (value or b"").decode()
        chunk = Chunk(bytes(16), ("Terms",), 0, len(text), text, text_hash(text))
        change = Change("acme", "d", 1, Operation.UPSERT)
        document = ChunkedDocument(DocumentFacts("Guide", "text/plain", bytes(16)), (chunk,))
        return Context(Trace("r", "default", 1, NOW), change, document, Metadata({}))


def test_texts_of_the_log_are_counted_as_the_generation_embeds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: with a template or a prompt every cached text counts as new, or one lost payload ends the estimate."""
    records = [Record("chunks", 0, 0, b"acme/d", value) for value in (b"lost", b"one", b"one")]
    monkeypatch.setattr(LogReader, "read", lambda _, __, take: [take(record) for record in records])
    run = ReplayRun("r1", "embedder", "all", None, None, None, (), 0, "RUNNING", "olga", NOW, NOW, "chunks")
    codec: Any = _Decoded()
    prepared = Preparation("{title}: {body}", "passage: ")
    found = estimate.of_log(KafkaSettings(), codec, run, prepared)
    whole = "passage: Guide: one"
    assert found.documents == 2
    assert found.texts == {"acme": {text_hash(whole): len(whole)}}
    plain = estimate.of_log(KafkaSettings(), codec, run, Preparation())
    assert plain.texts == {"acme": {text_hash("one"): len("one")}}


def test_only_tenants_that_a_replay_repairs_are_replayed() -> None:
    """Broken: incremental replays tenants for what no replay repairs, or leaves out one that lacks vectors."""

    def finding(tenant: str, kind: Kind, *repair: str, replay: str | None = None) -> Finding:
        return Finding(kind, "document", tenant, "d", "", "", repair, replay=replay)

    key = Key("a", "d")
    embed = repairs.embed(key, "g1")
    target = Target("g1", "m", 3, {"g1": "m"}, ("g1",))
    lost = finding("c", Kind.MISSING, embed, replay="embedder")
    letters = {Key("c", "d").record_key: ["embedder/0/7"]}
    found = (
        finding("a", Kind.MISSING, embed, replay="embedder"),
        finding("a", Kind.STALE, embed, replay="embedder"),
        finding("b", Kind.ORPHAN, repairs.delete(key)),
        explained(lost, letters),
        finding("d", Kind.STALE, *repairs.rewrite(key, target)),
        finding("e", Kind.MISSING, repairs.replay("chunker", key), replay="chunker"),
    )
    assert [command.split()[1] for command in found[3].repair] == ["dlq", "replay"]
    report = Report("g1", (), True, 0, 0, 0, 0, found, (), (), False, 0.0)
    assert lacking_vectors(report) == (["a", "c"], 3)


def test_a_cap_in_dollars_on_a_servers_model_without_a_price_is_told(tmp_path: Path) -> None:
    """Broken: `embeddings status` says nothing of a cap that keeps the embedder from starting."""
    settings = CostSettings(file=tmp_path / "costs.yaml")
    book = parse_book("models: {small: {usd_per_million_tokens: 0.02}}\ncaps: {all: {usd_per_day: 1}}\n", "costs.yaml")
    told = cap_without_price(book, "large", settings, SERVED)
    assert "price of large is unknown" in str(told)
    assert str(settings.file) in str(told)
    assert cap_without_price(book, "small", settings, SERVED) is None
    assert cap_without_price(book, "large", settings, "sentence-transformers") is None
