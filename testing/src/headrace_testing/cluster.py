"""A cluster in memory for tests of operations: dead letters, held records, orders, pipelines, and a log of actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from headrace.config.settings import KafkaSettings
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.orders.control import Action, OrderBook, Scope
from headrace.payloads import Control, DeadLetterAction
from headrace_operations.actions import ActionRequest
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import Entry, Id, NoSuchDeadLetter, Selection, State
from headrace_operations.held.act import Done
from headrace_operations.held.log import FoundHeld
from headrace_operations.held.model import HeldEntry, HeldId, HeldSelection, NoSuchHeldRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Progress = Callable[[int], None]


@dataclass
class Contents:
    """The contents of a fake cluster; ``events`` has the actions in order, each with its name.

    Another command acts on the ``overtaken`` dead letters as soon as this one acts.
    """

    letters: list[Entry] = field(default_factory=list)
    overtaken: set[Id] = field(default_factory=set)
    held: dict[str, list[HeldEntry]] = field(default_factory=lambda: {"g1": []})
    """Held records by generation."""
    pipelines: PipelineCatalogue = field(default_factory=PipelineCatalogue)
    orders: OrderBook = field(default_factory=OrderBook)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    down: Exception | None = None
    """If set, every action raises this exception instead of acting."""

    def happened(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of the actions with this name."""
        return [event[1:] for event in self.events if event[0] == name]


class _Letters:
    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def select(self, selection: Selection) -> list[Entry]:
        found = [one for one in self._contents.letters if selection.holds(one)]
        missing = selection.ids - {one.id for one in self._contents.letters}
        if missing:
            raise NoSuchDeadLetter(f"no dead letter with ID {', '.join(map(str, sorted(missing)))}")
        return found

    def show(self, identity: Id) -> list[Found]:
        self.select(Selection(ids=frozenset({identity}), states=frozenset(State)))
        raise NoSuchDeadLetter(f"the record of {identity} does not exist")

    def carry_out(
        self, chosen: Sequence[Entry], request: ActionRequest, progress: Progress = lambda _: None
    ) -> list[Id]:
        if self._contents.down is not None:
            raise self._contents.down
        taken = [one.id for one in chosen if one.id not in self._contents.overtaken]
        self._contents.events.append((request.action, tuple(map(str, taken)), request.why))
        self._contents.letters[:] = [
            replace(one, action=_noted(one.id, request)) if one.id in taken else one for one in self._contents.letters
        ]
        progress(len(taken))
        return taken


class _Held:
    def __init__(self, contents: Contents, generation: str) -> None:
        self._contents = contents
        self._waiting = contents.held.setdefault(generation, [])
        self._generation = generation

    def select(self, selection: HeldSelection) -> list[HeldEntry]:
        return [one for one in self._waiting if selection.holds(one)]

    def one(self, identity: HeldId) -> FoundHeld:
        raise NoSuchHeldRecord(f"no held record with ID {identity}")

    def release(self, scopes: frozenset[str], request: ActionRequest, progress: Progress = lambda _: None) -> Done:
        if self._contents.down is not None:
            raise self._contents.down
        taken = self.select(HeldSelection(kind="pause", scopes=scopes))
        self._contents.events.append((request.action, self._generation, scopes, request.why))
        self._waiting[:] = [one for one in self._waiting if one not in taken]
        progress(len(taken))
        return Done(taken)

    def plan(self, ids: frozenset[HeldId], _request: ActionRequest) -> Done:
        missing = ids - {one.id for one in self._waiting}
        if missing:
            raise NoSuchHeldRecord(f"no held record with ID {', '.join(map(str, sorted(missing)))}")
        return Done([one for one in self._waiting if one.id in ids])

    def decide(self, ids: frozenset[HeldId], request: ActionRequest, progress: Progress = lambda _: None) -> Done:
        done = self.plan(ids, request)
        self._contents.events.append((request.action, tuple(sorted(map(str, ids))), request.why))
        self._waiting[:] = [one for one in self._waiting if one not in done.taken]
        progress(len(done.taken))
        return done


@dataclass(frozen=True, slots=True)
class FakeCluster(Cluster):
    """A cluster that consists of its contents alone; operations cannot reach anything else."""

    kafka: KafkaSettings = field(default_factory=KafkaSettings)
    codec: Any = None
    by: str = "olga"
    contents: Contents = field(default_factory=Contents)

    def generations(self) -> list[str]:
        """Return the generations of the held records."""
        return sorted(self.contents.held)

    def dead_letters(self) -> Any:
        """Return the dead letters."""
        return _Letters(self.contents)

    dead_letter_actor = dead_letters

    def held(self) -> Any:
        """Return the held records of the generation."""
        return _Held(self.contents, self.kafka.generation)

    held_actor = held

    def orders(self) -> OrderBook:
        """Return the orders."""
        return self.contents.orders

    def give(self, action: Action, scope: Scope, target: str, reason: str) -> Control:
        """Store an order and return it."""
        if self.contents.down is not None:
            raise self.contents.down
        order = Control(action, scope, target, reason, self.by, NOW)
        self.contents.orders.take(order)
        self.contents.events.append(("order", str(action), str(scope), target, reason))
        return order

    def pipelines(self) -> PipelineCatalogue:
        """Return the pipelines."""
        return self.contents.pipelines


def dead_letter(offset: int, **other: Any) -> Entry:
    """Return an open dead letter of stage ingest, with the fields in ``other`` instead."""
    made = Entry(
        Id("ingest", 0, offset), "invalid-record", None, f"title: is '{offset}'", "", "acme", f"{offset}.md", None,
        None, 1, NOW, "changes/0/1", None, 2, None, None,
    )  # fmt: skip
    return replace(made, **other)


def _noted(identity: Id, request: ActionRequest) -> DeadLetterAction:
    return DeadLetterAction(
        request.action, identity.stage, identity.partition, identity.offset, request.batch, request.acted_by, NOW,
        request.why,
    )  # fmt: skip
