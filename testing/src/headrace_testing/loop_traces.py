"""Recorded runs of the loop's decision: its answers to random but possible events, step by step.

A refactoring of the decision must give the same answers. :class:`World` makes the events from a seed and executes the
commands as a broker, handlers and operators could. Events, commands and answers are plain JSON values here, so a
recording does not depend on the classes:

=====================  ==========================================================================================
event                  fields after the kind and the time
=====================  ==========================================================================================
``poll``               records (topic, partition, offset, bytes, due on the wall clock), snapshot, wall clock ahead
``rebalance``          assigned partitions, their marks (topic, partition and the four fields of a mark)
``poll_failed``        error, jitter
``computed``           number of the batch, outcome, jitter
``committed``          number of the batch, error or null, jitter
``recovered``          step, error or null, jitter
``orders``             why the stage is paused, how often it was resumed
``live``               whether the live lane is busy
``stop``, ``tick``
=====================  ==========================================================================================
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol

Json = Any
Partition = tuple[str, int]

WALL_AHEAD = 1_000_000.0
_SCALE = 64
"""Times are multiples of 1/64 s, so that sums and differences are exact in any order."""
_ENDS = {"poll_failed": ["OffsetsLost", "ProducerFenced"], "recovered": ["OffsetsLost", "ProducerFenced"]}


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision's answer to one event: commands, the next wait, and the visible state."""

    commands: list[Json]
    wait: Json
    shown: Json


class Decider(Protocol):
    """A decision under test, which keeps its state between events."""

    def take(self, event: Json) -> Answer:
        """Return the answer to the event."""


@dataclass(slots=True)
class Episode:
    """One worker's life: its limits, and each event with its answer."""

    limits: dict[str, Any]
    steps: list[tuple[Json, Answer]] = field(default_factory=list)


def random_limits(chance: Random) -> dict[str, Any]:
    """Return limits that are small enough to be reached within a short life."""
    side = chance.random() < 0.5
    return {
        "batch_records": chance.choice([1, 3, 3, 8]),
        "batch_bytes": chance.choice([10, 60, 4096]),
        "linger_s": chance.choice([0.0, 0.0, 0.5]),
        "backoff_s": 0.5,
        "backoff_max_s": chance.choice([2.0, 8.0]),
        "drain_s": chance.choice([1.0, 10.0]),
        "retry_topic": "retry" if side else None,
        "replay_topic": "replay" if side else None,
        "replay_share": chance.choice([0.25, 0.5]),
        "replay_batch_records": chance.choice([1, 2]),
        "replay_batch_bytes": chance.choice([20, 200]),
        "parked_records": chance.choice([4, 1000]),
        "parked_bytes": chance.choice([80, 100_000]),
        "deaths": chance.choice([2, 3]),
        "dead_letter_window": chance.choice([4, 9]),
        "dead_letter_share": chance.choice([0.25, 0.6, 1.0]),
    }


class World:
    """The environment of a worker: it executes commands and makes possible events."""

    def __init__(self, seed: int, decider: Callable[[dict[str, Any]], Decider]) -> None:
        self.chance = Random(seed)
        self.episode = Episode(random_limits(self.chance))
        self.decider = decider(self.episode.limits)
        topics = ("retry", "replay") if self.episode.limits["retry_topic"] else ("in",)
        self.places: list[Partition] = [(topic, number) for topic in topics for number in range(2)]
        self.now = 0.0
        self.epoch = 0
        self.assigned: list[Partition] = []
        self.positions: dict[Partition, int] = dict.fromkeys(self.places, 0)
        self.committed: dict[Partition, int] = dict.fromkeys(self.places, 0)
        self.ends: dict[Partition, dict[Partition, int]] = {}
        self.computing: list[int] = []
        self.cancelled: list[int] = []
        self.batches: dict[int, list[Json]] = {}
        self.fetching = True
        self.resumes = 0
        self.troubled = self.chance.random() < 0.5
        """Whether failures are frequent."""
        self.ended = False

    def run(self, steps: int) -> Episode:
        """Return a life of at most this number of steps."""
        self.take(self.rebalance())
        while len(self.episode.steps) < steps and not self.ended:
            self.now += self.chance.choice([0, 1, 4, 4, 20, 70, 70, 200, 900]) / _SCALE
            self.take(self.event())
        return self.episode

    def take(self, event: Json) -> None:
        """Pass the event to the decision, then all events that follow from it at once, in order."""
        events = [event]
        while events and not self.ended:
            event = events.pop(0)
            answer = self.decider.take(event)
            self.episode.steps.append((event, answer))
            self.ended = answer.shown["exit"] is not None
            for command in answer.commands:
                following = self.execute(command)
                if following is not None:
                    events.append(following)

    def event(self) -> Json:
        """Return the next event."""
        kinds = {
            self.poll: 40, self.tick: 12, self.computed: 40, self.rebalance: 1.5, self.poll_failed: 1, self.orders: 2,
            self.live: 4, self.stale: 0.5, self.stop: 0.3,
        }  # fmt: skip
        return self.chance.choices(list(kinds), list(kinds.values()))[0]()

    def execute(self, command: Json) -> Json | None:
        """Execute a command; return its immediate event, if any."""
        match command:
            case ["compute", number, records, *_]:
                self.batches[number] = records
                self.computing = [number]
            case ["cancel", number]:
                self.computing, self.cancelled = [], [number]
            case ["pause_fetching"]:
                self.fetching = False
            case ["resume_fetching"]:
                self.fetching = True
            case ["commit", number, _]:
                return self.commit(number)
            case ["recover", step]:
                error = self.error("recovered", "BrokerUnavailable", 0.25)
                if error is None and step == "rewind":
                    self.positions = dict(self.committed)
                return ["recovered", self.now, step, error, self.jitter()]
        return None

    def commit(self, number: int) -> Json:
        """End the transaction with a random result."""
        self.now += self.chance.choice([0, 2, 9]) / _SCALE
        share = 0.3 if self.troubled else 0.03
        error = None
        if self.chance.random() < share:
            error = self.chance.choices(["TransactionAborted", "TransactionUncertain", "ProducerFenced"], [8, 8, 1])[0]
        if error is None or (error == "TransactionUncertain" and self.chance.random() < 0.5):
            for topic, partition, offset in self.batches[number]:
                self.committed[topic, partition] = offset + 1
        return ["committed", self.now, number, error, 1.0]

    def poll(self) -> Json:
        """Return a poll with records from the current position."""
        records: list[Json] = []
        if self.assigned and (self.fetching or self.chance.random() < 0.02):
            for _ in range(self.chance.choice([0, 1, 1, 2, 4])):
                place = self.chance.choice(self.assigned)
                due = self.now + WALL_AHEAD + self.chance.choice([-64, 0, 16, 64, 400]) / _SCALE
                size = self.chance.choice([1, 1, 1, 8, 30, 90])
                records.append([*place, self.positions[place], size, int(due * 1000) if place[0] == "retry" else None])
                self.positions[place] += 1
        return ["poll", self.now, records, self.epoch, WALL_AHEAD]

    def tick(self) -> Json:
        """Advance the time only."""
        return ["tick", self.now]

    def computed(self) -> Json:
        """Finish the computation, if there is one."""
        if not self.computing:
            return self.poll()
        if self.chance.random() < 0.3:
            return self.poll()
        number = self.computing.pop()
        trouble = 0.4 if self.troubled else 0.05
        outcome: Json = ["result", self.chance.choice([0, 0, 0, 0, 1, len(self.batches[number])])]
        if self.chance.random() < trouble:
            outcome = self.chance.choice([["down", "pg", None], ["down", "llm", 3.0], ["configuration"]])
        elif self.chance.random() < 0.005:
            outcome = ["bug"]
        return ["computed", self.now, number, outcome, self.jitter()]

    def stale(self) -> Json:
        """Finish a batch although it was cancelled."""
        if not self.cancelled:
            return self.tick()
        return ["computed", self.now, self.cancelled.pop(), ["result", 0], self.jitter()]

    def rebalance(self) -> Json:
        """Move partitions; some of them have the mark of a worker that died."""
        self.epoch += 1
        before = set(self.assigned)
        self.assigned = [place for place in self.places if self.chance.random() < 0.75]
        marks = []
        for place in self.assigned:
            if place not in before and self.chance.random() < 0.6:
                at = self.committed[place]
                records = self.chance.choice([1, 3])
                marks.append([*place, self.chance.choice([1, 1, 2, 3]), records, at + self.chance.choice([1, 3]), at])
        return ["rebalance", self.now, [list(place) for place in self.assigned], marks]

    def poll_failed(self) -> Json:
        """Make a poll fail."""
        error = self.error("poll_failed", "BrokerUnavailable", 1.0)
        return ["poll_failed", self.now, error, self.jitter()]

    def orders(self) -> Json:
        """Let an operator pause or resume the stage."""
        if self.chance.random() < 0.6:
            self.resumes += 1
            return ["orders", self.now, None, self.resumes]
        return ["orders", self.now, self.chance.choice(["by ann", "by bob: audit"]), self.resumes]

    def live(self) -> Json:
        """Make the live lane busy or idle."""
        return ["live", self.now, self.chance.random() < 0.6]

    def stop(self) -> Json:
        """Request a graceful stop."""
        return ["stop", self.now]

    def error(self, of: str, often: str, share: float) -> str | None:
        """Return the name of an error or None; the error rarely ends the worker."""
        if self.chance.random() >= share * (1.0 if self.troubled or share == 1.0 else 0.3):
            return None
        return self.chance.choice(_ENDS[of]) if self.chance.random() < 0.05 else often

    def jitter(self) -> float:
        """Return a jitter whose products are exact."""
        return self.chance.choice([0.0, 0.25, 0.5, 1.0])


def record(path: Path, decider: Callable[[dict[str, Any]], Decider], seeds: range, steps: int) -> int:
    """Write a life of at most ``steps`` steps for each seed; return the number of steps."""
    count = 0
    with lzma.open(path, "wt", encoding="utf-8", preset=9) as file:
        for seed in seeds:
            episode = World(seed, decider).run(steps)
            count += len(episode.steps)
            file.write(json.dumps(_packed(episode), separators=(",", ":")) + "\n")
    return count


def read(path: Path) -> Iterator[Episode]:
    """Yield the recorded lives."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            limits, steps = json.loads(line)
            episode, shown = Episode(limits), None
            for event, commands, wait, *changed in steps:
                shown = changed[0] if changed else shown
                episode.steps.append((event, Answer(commands, wait, shown)))
            yield episode


def _packed(episode: Episode) -> Json:
    """Return the episode with the visible state only where it changed."""
    steps: list[Json] = []
    before: Json = None
    for event, answer in episode.steps:
        steps.append([event, answer.commands, answer.wait, *([] if answer.shown == before else [answer.shown])])
        before = answer.shown
    return [episode.limits, steps]
