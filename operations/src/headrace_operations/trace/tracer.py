"""Traces documents, from the store's rows and the partitions of their keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from headrace.access.readers import EVERY_DOCUMENT
from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.envelope import Change, Operation, check_change
from headrace.errors import UndecodableRecord
from headrace.kafka import headers
from headrace.kafka.broker_contract import Record, TopicPartition
from headrace.orders.control import TOPIC as CONTROL
from headrace.orders.control import Action, Scope
from headrace.payloads import DeadLetter, DeadLetterAction, IndexedDocument
from headrace.store import documents
from headrace.topology.generation_names import own_id
from headrace.topology.stages import DOCUMENT_STAGES, INDEXER, INGEST, STAGES
from headrace.topology.topics import (
    DEAD_LETTER_ACTIONS,
    HELD_ACTIONS,
    dead_letter_topic,
    held_topic,
    replay_topic,
    retry_topic,
)
from headrace_operations.log_scan import decoded
from headrace_operations.orders.log import read_orders
from headrace_operations.trace.assembly import Material, Seen, SeenLetter, assemble
from headrace_operations.trace.log import Cost, Limits, LogScanner, place_of
from headrace_operations.trace.model import Lane, Traces

if TYPE_CHECKING:
    from headrace.store.pool import Pool

_ACTED_ON = (DEAD_LETTER_ACTIONS, HELD_ACTIONS)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a document's records: its lane, and the stage that reads it (None at the end of the flow)."""

    name: str
    lane: Lane
    stage: str | None
    carries: type


def document_topics() -> tuple[Topic, ...]:
    """Return the topics of a document's records, in the order of the flow."""
    found = [Topic(flow.source, "live", flow.name, flow.consumes) for flow in DOCUMENT_STAGES]
    found.append(Topic(INDEXER.target, "live", None, IndexedDocument))
    found += [Topic(retry_topic(flow.name), "retry", flow.name, flow.consumes) for flow in DOCUMENT_STAGES]
    found += [Topic(replay_topic(flow.name), "replay", flow.name, flow.consumes) for flow in DOCUMENT_STAGES]
    found += [Topic(held_topic(flow.name), "held", flow.name, flow.consumes) for flow in DOCUMENT_STAGES]
    return tuple(found)


@dataclass(slots=True)
class _Found:
    """What the scan found for one document."""

    seen: list[Seen] = field(default_factory=list)
    letters: list[SeenLetter] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Tracer:
    """Traces documents; ``pool`` is None if no store is configured, which the traces then note."""

    def __init__(self, kafka: KafkaSettings, codec: Codec, pool: Pool | None, limits: Limits) -> None:
        self._kafka = kafka
        self._codec = codec
        self._pool = pool
        self._limits = limits
        self._topics = {topic.name: topic for topic in document_topics()}
        self._letters = {dead_letter_topic(flow.name): flow.name for flow in DOCUMENT_STAGES}
        self._scanner = LogScanner(kafka)

    async def documents(self, tenant: str, document_ids: Sequence[str]) -> Traces:
        """Return the traces in the order asked for; of a document that nothing is known of, one without versions.

        The partition of each key is read in every topic of the flow, the newest records first, within the limits.
        Raises :class:`headrace.errors.InvalidRecord` for an id that cannot be, and :class:`DependencyDown`.
        """
        keys = {check_change(Change(tenant, name, 0, Operation.UPSERT)).key: name for name in document_ids}
        records, committed, cost = await asyncio.to_thread(self._read, list(keys))
        paused = await asyncio.to_thread(self._paused)
        found = self._sorted(records, committed, set(keys))
        traces = []
        for key, name in keys.items():
            one = found[key]
            row = None if self._pool is None else await documents.get(self._pool, tenant, EVERY_DOCUMENT, name)
            notes = list(one.notes)
            if self._pool is None:
                notes.append("No PostgreSQL is configured, so the index was not checked.")
            if not cost.complete:
                notes.append(
                    "The log was not read completely; older versions may be missing. Raise --records or --seconds."
                )
            material = Material(tenant, name, row, one.seen, one.letters, paused, tuple(notes), self._kafka.generation)
            traces.append(assemble(material))
        return Traces(traces, cost)

    def _read(self, keys: Sequence[bytes]) -> tuple[list[Record], Mapping[TopicPartition, int], Cost]:
        counts = self._scanner.counts([*self._topics, *self._letters, *_ACTED_ON])
        places = {
            place
            for key in keys
            for topic in (*self._topics, *self._letters)
            if (place := place_of(key, topic, counts))
        }
        places |= {TopicPartition(topic, 0) for topic in _ACTED_ON if topic in counts}
        committed = self._committed(places)
        wanted = set(keys)
        records, cost = self._scanner.newest_first(
            sorted(places), lambda record: record.key in wanted or record.topic in _ACTED_ON, self._limits
        )
        return records, committed, cost

    def _committed(self, places: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the committed offsets of the stages; read them before the records, so that no record is missed."""
        found: dict[TopicPartition, int] = {}
        for flow in DOCUMENT_STAGES:
            for side, lanes in ((False, ("live",)), (True, ("retry", "replay"))):
                own = [
                    place
                    for place in places
                    if (topic := self._topics.get(place.topic)) and topic.stage == flow.name and topic.lane in lanes
                ]
                found |= self._scanner.committed(flow.name, own, side=side)
        return found

    def _paused(self) -> dict[str, str]:
        """Return who paused which stage, and why."""
        if not self._scanner.counts([CONTROL]):
            return {}
        orders = read_orders(self._kafka, self._codec)
        paused = {}
        for flow in DOCUMENT_STAGES:
            order = orders.newest(Scope.STAGE, flow.name)
            if order is not None and order.action == Action.PAUSE:
                paused[flow.name] = f"paused by {order.issued_by}{f': {order.reason}' if order.reason else ''}"
        return paused

    def _sorted(
        self, records: Sequence[Record], committed: Mapping[TopicPartition, int], keys: set[bytes]
    ) -> dict[bytes, _Found]:
        found: dict[bytes, _Found] = defaultdict(_Found)
        actions = self._actions(records)
        generation = self._kafka.generation
        settled = {own_id(record.key, generation) for record in records if record.topic == HELD_ACTIONS}
        for record in records:
            if record.key not in keys:
                continue
            one = found[record.key]
            stage = self._letters.get(record.topic)
            try:
                if stage is None:
                    one.seen.append(self._seen(record, committed, settled))
                else:
                    letter = self._codec.decode_plain(record.value, DeadLetter)
                    action = actions.get(f"{stage}/{record.partition}/{record.offset}")
                    one.letters.append(SeenLetter(letter, record.partition, record.offset, action))
            except UndecodableRecord as error:
                one.notes.append(f"{record.topic}/{record.partition}/{record.offset} does not decode: {error.message}")
        return found

    def _actions(self, records: Sequence[Record]) -> dict[str, DeadLetterAction]:
        """Return the newest action of each dead letter; one that does not decode is skipped with a warning."""
        return {
            identity: action
            for record in records
            if record.topic == DEAD_LETTER_ACTIONS
            and record.value is not None
            and (identity := own_id(record.key, self._kafka.generation)) is not None
            and (action := decoded(self._codec, record, DeadLetterAction)) is not None
        }

    def _seen(self, record: Record, committed: Mapping[TopicPartition, int], settled: set[str | None]) -> Seen:
        topic = self._topics[record.topic]
        stands_at = committed.get(record.place, 0)
        behind = record.offset - stands_at if topic.stage is not None and record.offset >= stands_at else None
        if topic.lane == "held":
            behind = None if f"{topic.stage}/{record.partition}/{record.offset}" in settled else 0
        seen = Seen(record, topic.lane, topic.stage, behind)
        reviewed = headers.text(record, headers.HELD_KIND) == "review"
        if topic.stage == INGEST.name and not reviewed:
            return seen  # its body has one of many formats, which only ingest reads
        carries = STAGES[topic.stage or INDEXER.name].produces if reviewed else topic.carries
        context, _ = self._codec.envelope(record.value, carries)
        history = tuple(replace(run, topic=self._kafka.bare(run.topic)) for run in context.trace.history)
        outcome = context.payload.outcome if isinstance(context.payload, IndexedDocument) else None
        return replace(seen, version=context.change.version, history=history, outcome=outcome)
