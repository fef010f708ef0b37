"""How far stages are behind, over offsets and records in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import pytest

from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka import lag
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.kafka.lag import LagReader, StageLag, progress
from headrace.kafka.offsets import LogOffsets, Range

pytestmark = pytest.mark.unit

KAFKA = KafkaSettings(bootstrap="127.0.0.1:1", topic_prefix="p-", generation="g1")


class Log(LogOffsets):
    """A log in memory: the range of each partition, and what groups have committed."""

    def __init__(self, ranges: Mapping[tuple[str, int], tuple[int, int]], committed: Mapping[str, int]) -> None:
        super().__init__(KAFKA)
        self._ranges = {TopicPartition(*place): Range(*span) for place, span in ranges.items()}
        self._committed = committed
        self.asked: list[str] = []

    def partitions(self, topics: Iterable[str], *, needed: bool = False) -> list[TopicPartition]:
        wanted = set(topics)
        return [place for place in self._ranges if place.topic in wanted]

    def bounds(self, places: Iterable[TopicPartition], *, open_too: bool = False) -> dict[TopicPartition, Range]:
        assert not open_too
        return {place: self._ranges[place] for place in places}

    def committed_of(self, groups: Mapping[str, Sequence[TopicPartition]]) -> dict[TopicPartition, int]:
        self.asked += [group for group, places in groups.items() if places]
        return {place: self._committed.get(group, 0) for group, places in groups.items() for place in places}


class Cursor:
    """Shows one record of each planted partition, or its end; others stay silent."""

    def __init__(self, records: Mapping[TopicPartition, int], ends: Sequence[TopicPartition]) -> None:
        self._records = dict(records)
        self._ends = ends
        self.at: dict[TopicPartition, int] = {}
        self.ended: set[TopicPartition] = set()
        self.fetches = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def assign(self, starts: Mapping[TopicPartition, int]) -> None:
        self.at = dict(starts)

    def drop(self, places: Iterable[TopicPartition]) -> None:
        for place in list(places):
            del self.at[place]

    def fetch(self, _most: int, _seconds: float) -> list[Record]:
        self.fetches += 1
        self.ended |= {place for place in self._ends if place in self.at}
        found = [Record(*place, offset, None, None) for place, offset in self._records.items() if place in self.at]
        self._records = {}
        return found


def reader(monkeypatch: pytest.MonkeyPatch, log: Log, cursor: Cursor) -> LagReader:
    """A reader of that log."""
    monkeypatch.setattr(lag, "LogCursor", lambda *_, **__: cursor)
    made = LagReader(KAFKA)
    made._offsets = log
    return made


def test_lag_runs_from_the_committed_offset_to_the_end_and_markers_in_front_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: an idle stage shows lag for ever, for a transaction's marker lies behind its last record."""
    places = [TopicPartition("documents", number) for number in range(4)]
    log = Log(
        {places[0]: (0, 11), places[1]: (4, 20), places[2]: (0, 10), places[3]: (12, 12)}, {"p-headrace-chunker": 10}
    )
    cursor = Cursor({places[1]: 13}, [places[0]])
    (found,) = reader(monkeypatch, log, cursor).stages()
    # one marker; three offsets without a record, then 7; nothing left; nothing there
    assert found == StageLag("chunker", "documents", 4, 0 + 7 + 0 + 0, 11 + 16 + 10 + 0)
    assert cursor.fetches == 1


def test_what_aged_out_before_it_was_read_is_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a stage that can never come to those records looks behind for ever."""
    place = TopicPartition("documents", 0)
    log = Log({place: (40, 50)}, {"p-headrace-chunker": 10})
    (found,) = reader(monkeypatch, log, Cursor({place: 40}, [])).stages()
    assert (found.behind, found.total) == (10, 10)


def test_a_stage_has_its_live_lane_and_what_it_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the embedder looks done while thousands of replayed records wait."""
    places = [TopicPartition(name, 0) for name in ("chunks", "retry.embedder", "replay.embedder")]
    live, side = KAFKA.group("embedder"), KAFKA.group("embedder", side=True)
    log = Log(dict.fromkeys(places, (0, 8)), {live: 6, side: 5})
    asked = dict(zip(places, (6, 5, 5), strict=True))
    made = reader(monkeypatch, log, Cursor(asked, []))
    found = progress(made, "embedder")
    assert (found.total, found.pending, found.percent) == (8 + 6, 2 + 6, 100 * 6 / 14)
    assert log.asked == [live, side]
    with pytest.raises(ConfigurationError, match="topic vectors does not exist"):
        progress(made, "indexer")


def test_a_kafka_that_stays_silent_gives_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an outage, or a missing permission, shows as a lag that is too high."""
    place = TopicPartition("documents", 0)
    cursor = Cursor({}, [])
    with pytest.raises(DependencyDown, match=r"no answer for documents\[0\] in 10 s"):
        reader(monkeypatch, Log({place: (0, 5)}, {}), cursor).stages()
    assert cursor.fetches == 100
