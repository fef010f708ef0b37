"""Records that kill the process: lives of workers, one after the other, until the partition is done."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.kafka.broker_contract import Mark, Polled, Record, TopicPartition
from headrace.runtime.loop import batching, suspicion
from headrace.runtime.loop.batch import Batch
from headrace.runtime.loop.limits import Limits
from headrace.runtime.loop.suspicion import DEATHS_IN_BATCH, Suspicion

pytestmark = pytest.mark.unit

PLACE, OTHER = TopicPartition("in", 0), TopicPartition("in", 1)


class Lives:
    """One partition, its committed offset and mark, and the records that kill whoever computes them."""

    def __init__(self, length: int, killers: set[int], deaths: int) -> None:
        self.records = [Record("in", 0, offset, b"k", b"x") for offset in range(length)]
        self.killers = killers
        self.limits = Limits(deaths_alone=deaths)
        self.committed = 0
        self.mark: Mark | None = None
        self.given_up: list[int] = []
        self.died = 0

    def live(self, data: st.DataObject) -> None:
        """Take the partition over and work until death or the end."""
        found = {} if self.mark is None else {PLACE: self.mark}
        state = suspicion.reassign(Suspicion(), Polled((), True, frozenset({PLACE}), found))
        while self.committed < len(self.records):
            polled = self.records[self.committed : self.committed + data.draw(st.integers(1, 5))]
            records = batching.cut(polled, 5, 100, partial(suspicion.alone, state))
            deadly = suspicion.deadly(state, records, self.limits)
            marks = suspicion.marks(state, records)
            if not deadly:
                self.mark = marks.get(PLACE, self.mark)
                if self.killers.intersection(record.offset for record in records):
                    self.died += 1
                    return
            else:
                self.given_up += [record.offset for record in records]
            batch = Batch(1, records, None, 0.0, marks=marks, deadly=deadly)
            state, self.mark = suspicion.committed(state, batch), None
            self.committed = records[-1].offset + 1


@given(st.data(), st.integers(1, 12), st.sets(st.integers(0, 11), max_size=3), st.integers(1, 4))
def test_killers_are_given_up_alone_after_a_few_deaths(
    data: st.DataObject, length: int, found: set[int], deaths: int
) -> None:
    """Broken: one record keeps a stage in a crash loop, or innocent ones go with it into the dead letters."""
    killers = {offset for offset in found if offset < length}
    lives = Lives(length, killers, deaths)
    # A batch that ends before the killer is committed, and the count begins again.
    most = 1 + (length + len(killers)) * (DEATHS_IN_BATCH + deaths + 1)
    for _ in range(most):
        lives.live(data)
    assert lives.committed == length, f"not done after {most} lives"
    assert lives.given_up == sorted(killers)
    assert lives.died >= deaths * bool(killers)


@given(st.dictionaries(st.sampled_from([PLACE, OTHER]), st.builds(Mark, *[st.integers(1, 9)] * 4)), st.data())
def test_a_rebalance_keeps_what_stays_and_suspects_what_comes(found: dict[TopicPartition, Mark], data: Any) -> None:
    """Broken: a harmless rebalance counts as a death, or a partition that moved is trusted."""
    places = st.frozensets(st.sampled_from([PLACE, OTHER]))
    first, second = data.draw(places), data.draw(places)
    before = suspicion.reassign(Suspicion(), Polled((), True, first, found))
    after = suspicion.reassign(before, Polled((), True, second, {}))
    assert after.assigned == second
    assert set(after.unproven) == second
    assert all(after.unproven[place] == (found.get(place) if place in first else None) for place in second)


@given(st.lists(st.sampled_from([PLACE, OTHER]), min_size=1, max_size=6))
def test_the_first_batch_of_a_partition_is_marked_and_no_other(places: list[TopicPartition]) -> None:
    """Broken: a record that kills the process is never found, or each batch costs a round trip more."""
    records = [Record(*place, offset, b"k", b"x") for offset, place in enumerate(places)]
    state = suspicion.reassign(Suspicion(), Polled((), True, frozenset({PLACE, OTHER})))
    marks = suspicion.marks(state, records)
    assert set(marks) == set(places)
    assert all(mark.begun == 1 and mark.records == len(records) for mark in marks.values())
    if len(set(places)) == 1:
        proven = suspicion.committed(state, Batch(1, tuple(records), None, 0.0, marks=marks))
        left = len(records) == 1 and marks[places[0]].until > 1
        assert suspicion.unproven(proven, records) == left
