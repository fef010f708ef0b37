"""The records that wait, kept in memory: nothing is missed, nothing stays, and refreshes are shared."""

from __future__ import annotations

import asyncio
import threading
from random import Random
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.documents.status import Waiting
from headrace.errors import DependencyDown
from headrace.kafka.broker_contract import TopicPartition
from headrace.kafka.offsets import Range
from headrace_gateway.pending import KafkaPending, PendingRecords

pytestmark = pytest.mark.unit

PLACE = TopicPartition("changes", 0)
HELD = TopicPartition("held.embedder", 0)


def record(offset: int) -> Waiting:
    """A waiting record at an offset."""
    return Waiting("ingest", offset, "UPSERT", None, 0, offset)


def test_what_waits_is_known_until_the_stage_has_taken_it() -> None:
    """Broken: a document looks fresh while its change waits, or changing when it was taken."""
    random = Random(9)
    for _ in range(50):
        records, log, committed, most = PendingRecords(), list[bytes](), 0, random.choice([3, 1000])
        for _ in range(30):
            log += random.choices([b"a", b"b", b"c"], k=random.randrange(4))
            committed = random.randint(committed, len(log))
            done, ends = {PLACE: committed}, {PLACE: len(log)}
            span = records.spans(ends, done, most)[PLACE]
            for offset in range(span.start, span.end):
                records.take(PLACE, log[offset], record(offset))
            records.advance({PLACE: span.end}, ends, done)
            for key in (b"a", b"b", b"c"):
                offsets = [offset for offset in range(committed, len(log)) if log[offset] == key]
                state = records.state(key, [PLACE])
                if state.complete:
                    assert [one.offset for one in state.waiting] == offsets[-1:]
                else:
                    assert most == 3
                    assert [one.offset for one in state.waiting] in ([], offsets[-1:])


def test_what_was_not_read_is_not_called_known() -> None:
    """Broken: a document is called fresh although its records were never read."""
    records = PendingRecords()
    assert not records.state(b"a", [PLACE]).complete
    records.advance({PLACE: 3}, {PLACE: 5}, {PLACE: 0})
    assert not records.state(b"a", [PLACE]).complete
    records.advance({PLACE: 5}, {PLACE: 5}, {PLACE: 0})
    assert records.state(b"a", [PLACE]).complete
    assert records.spans({PLACE: 9_000}, {PLACE: 10}, 5) == {PLACE: Range(8_995, 9_000)}
    records.advance({PLACE: 9_000}, {PLACE: 9_000}, {PLACE: 10})
    assert not records.state(b"a", [PLACE]).complete
    records.advance({}, {}, {PLACE: 8_995})
    assert records.state(b"a", [PLACE]).complete


def test_held_records_stay_until_the_log_drops_them() -> None:
    """Broken: a held document looks fresh, or memory grows with everything that was ever held."""
    records = PendingRecords()
    records.take(HELD, b"a", record(4))
    records.advance({HELD: 5}, {HELD: 5}, {})
    assert not records.changed({HELD: 5})
    assert records.changed({HELD: 6})
    assert [one.offset for one in records.state(b"a", [HELD]).waiting] == [4]
    records.forget({HELD: 5})
    assert records.state(b"a", [HELD]).waiting == ()


async def test_searches_share_a_refresh_and_none_gets_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a thousand searches ask Kafka a thousand times, or one takes what was read before it began."""
    go_on, running, runs = threading.Event(), threading.Event(), [0]

    def slow(_: Any) -> None:
        runs[0] += 1
        running.set()
        go_on.wait(10)

    monkeypatch.setattr(KafkaPending, "_refresh", slow)
    pending = KafkaPending(KafkaSettings(bootstrap="127.0.0.1:1"), Codec(FixedIds()))
    first = asyncio.create_task(pending.refresh())
    await asyncio.to_thread(running.wait, 10)
    others = [asyncio.create_task(pending.refresh()) for _ in range(100)]
    await asyncio.sleep(0.05)
    assert (runs[0], first.done()) == (1, False)
    go_on.set()
    await asyncio.gather(first, *others)
    assert runs[0] == 2
    others[0].cancel()
    await pending.refresh()
    assert runs[0] == 3
    await pending.close()


async def test_a_refresh_that_fails_fails_its_callers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an outage of Kafka makes hits of unknown freshness until the gateway restarts."""
    outcomes: list[Exception | None] = [DependencyDown("kafka", "gone"), None]

    def fail(_: Any) -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    monkeypatch.setattr(KafkaPending, "_refresh", fail)
    pending = KafkaPending(KafkaSettings(bootstrap="127.0.0.1:1"), Codec(FixedIds()))
    with pytest.raises(DependencyDown):
        await pending.refresh()
    await pending.refresh()
    assert not pending.state(b"alpha/a").complete
    await pending.close()
