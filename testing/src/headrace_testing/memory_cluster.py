"""A Kafka cluster in memory, as far as the runtime sees one: logs, transactions, groups, producer epochs.

It is deterministic, without threads and sleeps; time comes from the caller. It imitates Kafka 4:

* A reader of committed records stops at the first record of an open transaction (the last stable offset). Control
  markers and aborted records take offsets but are never visible.
* A group fences commits by member and generation, not by the owner of a partition (KIP-447).
* Partitions move cooperatively: the old owner keeps a partition until it polls, leaves or expires.
* Committed offsets of an open transaction are pending, and no worker can start at them until it ends.
* A producer fences the older one with its transactional ID and aborts that one's open transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count

from confluent_kafka import murmur2

from headrace.errors import ConfigurationError
from headrace.kafka.broker_contract import (
    BrokerUnavailable,
    Mark,
    Message,
    OffsetsLost,
    Record,
    TopicPartition,
    TransactionAborted,
)

SESSION_TIMEOUT_S = 10.0
TRANSACTION_TIMEOUT_S = 30.0


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction; ``committed`` is None while it is open."""

    transactional_id: str
    started_at: float
    committed: bool | None = None
    places: set[TopicPartition] = field(default_factory=set)
    offsets: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)
    """Offsets to commit, by group and partition; pending while the transaction is open."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One offset of a log: a message, or None for a control marker."""

    message: Message | None
    transaction: Transaction | None
    timestamp_ms: int

    @property
    def visible(self) -> bool:
        return self.message is not None and (self.transaction is None or self.transaction.committed is True)


@dataclass(slots=True)
class _Log:
    """One partition; ``start`` is the first offset that retention has not deleted."""

    entries: list[_Entry] = field(default_factory=list)
    start: int = 0
    open: dict[Transaction, int] = field(default_factory=dict)
    """First offset of each open transaction."""

    @property
    def stable_end(self) -> int:
        return min(self.open.values(), default=len(self.entries))


@dataclass(slots=True, eq=False)
class Member:
    """A member of a group: its partitions, the time of its last call, and the generation that it knows."""

    identity: str
    topics: frozenset[str]
    last_seen: float
    told: int = -1


@dataclass(slots=True)
class Group:
    """Members, the current and the target assignment, and committed offsets."""

    generation: int = 0
    members: dict[str, Member] = field(default_factory=dict)
    owners: dict[TopicPartition, str] = field(default_factory=dict)
    target: dict[TopicPartition, str] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    marks: dict[TopicPartition, Mark] = field(default_factory=dict)

    def owned(self, member: str) -> list[TopicPartition]:
        """Return the member's partitions, sorted."""
        return sorted(place for place, owner in self.owners.items() if owner == member)


class MemoryCluster:
    """Topics, groups and producers for all :class:`headrace_testing.memory_broker.MemoryBroker` of a test.

    ``clock`` returns seconds. ``wait`` is called with the seconds that an empty poll would have waited, so that a fake
    clock can advance.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        wait: Callable[[float], None] = lambda _: None,
        session_timeout_s: float = SESSION_TIMEOUT_S,
        transaction_timeout_s: float = TRANSACTION_TIMEOUT_S,
    ) -> None:
        self.clock = clock
        self.wait = wait
        self.available = True
        """If False, every call of a broker fails as if Kafka were unreachable."""
        self._session_timeout_s = session_timeout_s
        self._transaction_timeout_s = transaction_timeout_s
        self._topics: dict[str, list[_Log]] = {}
        self._groups: dict[str, Group] = {}
        self._epochs: dict[str, int] = {}
        self._open: dict[str, Transaction] = {}
        self._numbers = count(1)

    # Topics

    def create_topic(self, name: str, partitions: int) -> None:
        """Create an empty topic."""
        if name in self._topics:
            raise ConfigurationError(f"topic {name!r} already exists")
        self._topics[name] = [_Log() for _ in range(partitions)]

    def places(self, topics: Iterable[str]) -> list[TopicPartition]:
        """Return every partition of the topics, sorted."""
        return [
            TopicPartition(name, number) for name in sorted(topics) for number in range(len(self._topics.get(name, ())))
        ]

    def append(self, message: Message) -> TopicPartition:
        """Write outside any transaction, as upstream systems do; return the partition of the key."""
        place = self._place_of(message)
        self._log(place).entries.append(_Entry(message, None, self._now_ms()))
        return place

    def read_committed(self, topic: str) -> list[Record]:
        """Return every record that a reader of committed records sees now, by partition and offset."""
        return [record for place in self.places([topic]) for record in self.records(place, 0, 1 << 62)[0]]

    def delete_before(self, place: TopicPartition, offset: int) -> None:
        """Move the start of the partition's log, as retention does."""
        log = self._log(place)
        log.start = max(log.start, offset)

    def records(self, place: TopicPartition, position: int, most: int) -> tuple[list[Record], int]:
        """Return at most ``most`` committed records from ``position`` on, and the position after them."""
        log = self._log(place)
        found: list[Record] = []
        position = max(position, log.start)
        while position < log.stable_end and len(found) < most:
            entry = log.entries[position]
            if entry.visible:
                message = entry.message
                assert message is not None
                found.append(Record(*place, position, message.key, message.value, message.headers, entry.timestamp_ms))
            position += 1
        return found, position

    def bounds(self, place: TopicPartition) -> tuple[int, int]:
        """Return the log's first offset and the offset after its last."""
        log = self._log(place)
        return log.start, len(log.entries)

    # Groups

    def group(self, name: str) -> Group:
        """Return the group after dropping expired members and transactions."""
        self._expire()
        return self._groups.setdefault(name, Group())

    def committed(self, group: str) -> Mapping[TopicPartition, int]:
        """Return the group's committed offsets."""
        return dict(self.group(group).committed)

    def join(self, name: str, topics: Iterable[str]) -> Member:
        """Add a member; it gets partitions when it polls."""
        group = self.group(name)
        member = Member(f"member-{next(self._numbers)}", frozenset(topics), self.clock())
        group.members[member.identity] = member
        self._rebalance(group)
        return member

    def leave(self, name: str, member: str) -> None:
        """Remove a member, as a session timeout does; tests use it to make a zombie."""
        group = self._groups[name]
        if group.members.pop(member, None) is not None:
            group.owners = {place: owner for place, owner in group.owners.items() if owner != member}
            self._rebalance(group)

    def settle(self, name: str, member: Member) -> bool:
        """Adapt the member's partitions to the target assignment; return whether they may have changed."""
        group = self.group(name)
        identity = member.identity
        given_up = [place for place in group.owned(identity) if group.target.get(place) != identity]
        for place in given_up:
            del group.owners[place]
        taken = [place for place, owner in group.target.items() if owner == identity and place not in group.owners]
        group.owners.update(dict.fromkeys(taken, identity))
        group.generation += bool(given_up)
        changed = bool(taken) or member.told != group.generation
        member.told = group.generation
        return changed

    def start_position(self, name: str, place: TopicPartition) -> int:
        """Return where the group starts to read: its committed offset, or the beginning if there is none.

        Raises :class:`BrokerUnavailable` while the offset is pending in an open transaction, and :class:`OffsetsLost`
        if it is outside the log.
        """
        group = self.group(name)
        if any((name, place) in transaction.offsets for transaction in self._open.values()):
            raise BrokerUnavailable("the committed offset is not stable yet", where=str(place))
        first, end = self.bounds(place)
        position = group.committed.get(place, first)
        self.check_position(place, position, first, end)
        return position

    def check_position(self, place: TopicPartition, position: int, first: int, end: int) -> None:
        """Raise :class:`OffsetsLost` if the position is outside the log."""
        if not first <= position <= end:
            raise OffsetsLost(
                f"the committed offset {position} of {place} lies outside the log, which runs from {first} to {end}",
                where=str(place),
            )

    # Producers

    def init_producer(self, transactional_id: str) -> int:
        """Return a new epoch for the ID; fence older producers and abort their open transaction."""
        self.end_open_transaction(transactional_id, commit=False)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def epoch(self, transactional_id: str) -> int:
        """Return the newest epoch of the ID, after aborting expired transactions."""
        self._expire()
        return self._epochs[transactional_id]

    def write(
        self, transactional_id: str, messages: Iterable[Message], offsets: Mapping[tuple[str, TopicPartition], int]
    ) -> Transaction:
        """Write messages and pending offsets, and leave the transaction open."""
        placed = [(self._place_of(message), message) for message in messages]
        transaction = Transaction(transactional_id, self.clock())
        self._open[transactional_id] = transaction
        transaction.offsets.update(offsets)
        for place, message in placed:
            log = self._log(place)
            log.open.setdefault(transaction, len(log.entries))
            log.entries.append(_Entry(message, transaction, self._now_ms()))
            transaction.places.add(place)
        return transaction

    def has_open_transaction(self, transactional_id: str) -> bool:
        """Whether the ID has an open transaction."""
        return transactional_id in self._open

    def end_open_transaction(self, transactional_id: str, *, commit: bool) -> None:
        """Commit or abort the ID's open transaction, if any; tests use it to deliver a delayed end."""
        transaction = self._open.pop(transactional_id, None)
        if transaction is None:
            return
        transaction.committed = commit
        for place in sorted(transaction.places):
            log = self._log(place)
            del log.open[transaction]
            log.entries.append(_Entry(None, None, self._now_ms()))
        if commit:
            for (group, place), offset in transaction.offsets.items():
                self._groups[group].committed[place] = offset
                self._groups[group].marks.pop(place, None)

    # Internals

    def _log(self, place: TopicPartition) -> _Log:
        return self._topics[place.topic][place.partition]

    def _place_of(self, message: Message) -> TopicPartition:
        if message.topic not in self._topics:
            raise TransactionAborted(f"topic {message.topic!r} does not exist")
        return TopicPartition(message.topic, murmur2(message.key, len(self._topics[message.topic])))

    def _now_ms(self) -> int:
        return int(self.clock() * 1000)

    def _expire(self) -> None:
        now = self.clock()
        for transactional_id, transaction in list(self._open.items()):
            if now - transaction.started_at > self._transaction_timeout_s:
                self.end_open_transaction(transactional_id, commit=False)
                self._epochs[transactional_id] += 1
        for name, group in self._groups.items():
            for member in list(group.members.values()):
                if now - member.last_seen > self._session_timeout_s:
                    self.leave(name, member.identity)

    def _rebalance(self, group: Group) -> None:
        """Start a generation with a balanced target that moves as few partitions as possible."""
        group.generation += 1
        group.target = {}
        topics = sorted({topic for member in group.members.values() for topic in member.topics})
        load = dict.fromkeys(group.members, 0)
        places = self.places(topics)
        most = -(-len(places) // len(group.members)) if group.members else 0
        for place in places:
            owner = group.owners.get(place)
            if owner in load and load[owner] < most:
                group.target[place] = owner
                load[owner] += 1
        for place in places:
            if place not in group.target:
                eligible = [name for name, member in group.members.items() if place.topic in member.topics]
                chosen = min(eligible, key=lambda name: load[name])
                group.target[place] = chosen
                load[chosen] += 1
