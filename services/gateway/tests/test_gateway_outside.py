"""The gateway's clients: the embedder over HTTP, answers remembered, dead letters as they are remembered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from headrace.access.readers import EVERY_DOCUMENT, UNNAMED, Reader
from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import EXIT_CONFIGURATION, KafkaSettings
from headrace.documents.status import entry_of
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.offsets import Range
from headrace.kafka.unavailable import unavailable
from headrace.payloads import DeadLetter, HeaderPart
from headrace.store.rows import Generation
from headrace_gateway.dead_letters import DeadLetterFollower
from headrace_gateway.flow import KafkaFlowReader
from headrace_gateway.idempotency import AnswerCache, request_id
from headrace_gateway.main import main
from headrace_gateway.problems import Problem

pytestmark = pytest.mark.unit


KAFKA = KafkaSettings(bootstrap="127.0.0.1:1")
GENERATION = Generation("g1", "model", 2)


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_GATEWAY_DRAIN_S", "soon"), ("HEADRACE_STORE_SCHEMA_NAME", "no schema")]
)
def test_a_wrong_setting_is_named_by_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, an operator would get a stack of calls instead of the variable to repair."""
    monkeypatch.setattr("headrace.telemetry.logs.configure", lambda *_, **__: None)
    monkeypatch.setenv("HEADRACE_GATEWAY_PORT", "0")
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")
    monkeypatch.setenv(variable, value)
    assert main() == EXIT_CONFIGURATION
    assert f"gateway cannot start: {variable}: " in capsys.readouterr().err


@pytest.mark.parametrize("question", ["counts", "bounds", "committed_of"])
async def test_a_kafka_that_stays_silent_is_a_dependency_that_is_down(
    monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """If it failed, asking where a document is would be answered 500 while Kafka hangs."""

    def silent(*_: object) -> NoReturn:
        raise unavailable(KAFKA, TimeoutError())

    reader = KafkaFlowReader(KAFKA, Codec(FixedIds()))
    monkeypatch.setattr(reader._offsets, "counts", lambda topics: dict.fromkeys(topics, 8))
    monkeypatch.setattr(reader._offsets, "bounds", lambda places: dict.fromkeys(places, Range(0, 0)))
    monkeypatch.setattr(reader._offsets, question, silent)
    with pytest.raises(DependencyDown, match=r"Kafka at 127.0.0.1:1 does not answer: TimeoutError"):
        await reader.waiting(b"alpha/a")
    reader.close()


@pytest.mark.parametrize(
    ("committed", "most", "start", "complete"), [(10, 10, 10, True), (3, 10, 4, True), (3, 5, 9, False)]
)
async def test_the_newest_record_of_the_key_is_what_waits(
    monkeypatch: pytest.MonkeyPatch, committed: int, most: int, start: int, complete: bool
) -> None:
    """If it failed, a document that waits would look indexed, or one that was taken would look waiting."""
    reader = KafkaFlowReader(KAFKA, Codec(FixedIds()))
    asked: list[dict[TopicPartition, Range]] = []

    def read(spans: dict[TopicPartition, Range], take: Any, *, seconds: float) -> bool:
        assert seconds == 1.0
        asked.append(spans)
        for place in spans:
            if place.topic in ("changes", "held.chunker"):
                for offset, key in ((11, b"alpha/a"), (12, b"alpha/a"), (13, b"alpha/b")):
                    take(Record(*place, offset, key, b"", (("version", b"7"), ("request-id", b"r"))))
        return True

    monkeypatch.setattr("headrace_gateway.flow.MAX_RECORDS", most)
    monkeypatch.setattr(reader._offsets, "counts", lambda topics: dict.fromkeys(topics, 1))
    monkeypatch.setattr(reader._offsets, "bounds", lambda places: dict.fromkeys(places, Range(4, 14)))
    monkeypatch.setattr(
        reader._offsets, "committed_of",
        lambda groups: {place: committed for places in groups.values() for place in places},
    )  # fmt: skip
    monkeypatch.setattr(reader._reader, "read", read)
    state = await reader.waiting(b"alpha/a")
    reader.close()
    assert [(one.stage, one.version, one.offset, one.hold is not None) for one in state.waiting] == [
        ("ingest", 7, 12, False), ("chunker", 7, 12, True),
    ]  # fmt: skip
    held, sources = asked
    assert set(held.values()) == {Range(max(4, 14 - most), 14)}
    assert set(sources.values()) == {Range(start, 14)}
    assert state.complete is complete


def test_dead_letters_are_remembered_by_the_key_of_what_failed() -> None:
    """If it failed, where a document is would be answered without the reason for which it was dead-lettered."""
    codec = Codec(FixedIds())
    follower = DeadLetterFollower(KAFKA, codec)
    letter = make_dead_letter(stage="chunker", message="too long")
    follower.deliver(Record("dead-letters.chunker", 2, 5, b"alpha/a", codec.encode_plain(letter)))
    follower.deliver(Record("dead-letters.chunker", 2, 6, b"alpha/a", b"stray"))
    follower.deliver(Record("dead-letters.chunker", 2, 7, None, codec.encode_plain(letter)))
    assert [(one.message, one.partition, one.offset) for one in follower.book.of(b"alpha/a")] == [("too long", 2, 5)]


async def test_the_same_request_under_way_is_409() -> None:
    """If it failed, a client's impatient repeat would be published beside the first."""
    answers = AnswerCache(10, 60)
    codes: list[int] = []

    async def work() -> dict[str, Any]:
        with pytest.raises(Problem) as caught:
            await answers.once("r", b"body", work)
        codes.append(caught.value.status_code)
        return {"done": True}

    assert await answers.once("r", b"body", work) == {"done": True}
    assert codes == [409]


def test_request_ids_depend_on_tenant_reader_kind_and_key() -> None:
    """If it failed, two tenants', readers' or routes' requests with one key would be the same request."""
    readers = (UNNAMED, Reader.named("ann"), Reader.named("ann", ["staff"]), EVERY_DOCUMENT)
    ids = {
        request_id(tenant, reader, kind, key)
        for tenant in "ab" for reader in readers for kind in "cd" for key in ("e", "f", None)
    }  # fmt: skip
    assert len(ids) == 48
    assert request_id("a", UNNAMED, "c", "e") == request_id("a", UNNAMED, "c", "e")


def make_dead_letter(**changes: Any) -> DeadLetter:
    """A dead letter as a stage writes it."""
    values: dict[str, Any] = {
        "stage": "ingest",
        "reason": "undecodable",
        "message": "m" * 5000,
        "remedy": "r",
        "stack": None,
        "handler": None,
        "attempt": 1,
        "topic": "changes",
        "partition": 1,
        "offset": 33,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "key": b"alpha/a",
        "value": b"",
        "headers": (HeaderPart("request-id", b"r-1"), HeaderPart("version", b"8")),
        "failed_at": datetime(2026, 1, 1, tzinfo=UTC),
        "worker": "w",
    }
    return DeadLetter(**{**values, **changes})


def test_a_dead_letters_version_comes_from_its_record_its_headers_or_its_offset() -> None:
    """If it failed, the dead letter of a change that never decoded could not be matched with its request."""
    entry = entry_of(make_dead_letter(), 0, 5)
    assert (entry.version, entry.request_id, entry.offset, len(entry.message)) == (8, "r-1", 5, 1000)
    assert entry_of(make_dead_letter(version=9), 0, 5).version == 9
    without = make_dead_letter(headers=(HeaderPart("request-id", b"r-1"),))
    assert entry_of(without, 0, 5).version == 33
    foreign = make_dead_letter(headers=(HeaderPart("version", b"-1"), HeaderPart("x", None)))
    assert entry_of(foreign, 0, 5).version is None
