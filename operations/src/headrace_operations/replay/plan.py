"""Plans a replay from a selection, and estimates its cost; it sends nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.embeddings.preparation import Preparation
from headrace.errors import PermanentError
from headrace.kafka.broker_contract import Record
from headrace.kafka.ranges import LogReader
from headrace.payloads import ChunkedDocument, ReplayRun
from headrace.store import cache
from headrace.store.transactions import tenant_transaction
from headrace.topology.stages import EMBEDDER, GENERATOR, INDEXER, STAGES
from headrace.topology.topics import replay_topic
from headrace_operations.replay.runs import RUNNING, spans
from headrace_operations.replay.selection import RefusedReplay, Selection, checked, cut_off, positions, wanted

if TYPE_CHECKING:
    from headrace.store.pool import Pool

Known = Callable[[str, set[bytes]], Awaitable[set[bytes]]]
"""Returns those of a tenant's keys that have a cached vector."""
_ASK_AT = 10_000


class Text(NamedTuple):
    """A text that the embedder would look up: its tenant, the key of its vector, and its length with the prompt."""

    tenant: str
    key: bytes
    characters: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a replay would send.

    ``model_calls`` is None if only the stage itself can know it (none for unchanged text). ``exact`` is False for an
    upper bound.
    """

    records: int
    documents: int
    model_calls: int | None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Planned:
    """A replay that can begin; ``cut_off`` maps partitions that lost old records to their first remaining offset."""

    run: ReplayRun
    cut_off: dict[int, int]


def plan(kafka: KafkaSettings, selection: Selection, *, rate: int | None, asked_by: str, now: datetime) -> Planned:
    """Return the replay for the selection, up to the current end of the log, in the lanes of Kafka's generation.

    Raises :class:`RefusedReplay` for something that does not exist or no longer exists, :class:`ConfigurationError` if
    the generation has no topics, and :class:`DependencyDown`.
    """
    selection = checked(selection, now)
    topic = STAGES[selection.stage].source
    ranges = LogReader(kafka, "replay")
    ranges.partitions([replay_topic(selection.stage)], needed=True)
    partitions = ranges.partitions([topic], needed=True)
    bounds = {number: span for (_, number), span in ranges.bounds(partitions, open_too=True).items()}
    since: dict[int, int] = {}
    if selection.since is not None:
        found = ranges.starts_at(partitions, int(selection.since.timestamp() * 1000))
        since = {place.partition: offset for place, offset in found.items()}
    where = positions(selection, topic, bounds, since)
    if selection.tenant is None and not any(at.end > at.start for at in where):
        raise RefusedReplay(f"no records to replay in {topic}", remedy="Select an earlier time, or another stage.")
    run = ReplayRun(
        f"r{now:%Y%m%d%H%M%S}-{uuid4().hex[:6]}", selection.stage, selection.kind, selection.tenant,
        selection.document_id, rate, where, 0, RUNNING, asked_by, now, now, topic,
        kafka.generation,
    )  # fmt: skip
    return Planned(run, cut_off(where, selection, bounds))


def require_match(kafka: KafkaSettings, run: ReplayRun) -> None:
    """Raise :class:`RefusedReplay` if the replay is of one tenant or document and no record matches."""
    if run.tenant is None:
        return
    found = False

    def take(record: Record) -> None:
        nonlocal found
        found = found or wanted(run.tenant, run.document_id, record.key)

    LogReader(kafka, "replay").read(spans(run), take)
    if not found:
        raise _no_match(run)


def _no_match(run: ReplayRun) -> RefusedReplay:
    what = f"document {run.document_id!r} of tenant {run.tenant!r}" if run.document_id else f"tenant {run.tenant!r}"
    return RefusedReplay(
        f"no record of {what} in {run.source}",
        remedy="Check the spelling, or run `headrace trace` to find the document.",
    )


async def estimate(
    kafka: KafkaSettings,
    codec: Codec,
    run: ReplayRun,
    known: Known | None,
    preparation: Preparation = Preparation(),  # noqa: B008  # frozen
) -> Estimate:
    """Read what the replay would send, and count.

    For the embedder, model calls are the texts, prepared for the generation, whose vector ``known`` does not return.
    This is exact at the time of the call. Without ``known``, all texts count, which is an upper bound. For ingest and
    chunker, the number is None. Raises :class:`RefusedReplay` if no record matches.
    """
    keys: set[bytes] = set()
    texts: dict[str, set[bytes]] = {}
    records = 0

    def take(record: Record) -> None:
        nonlocal records
        if record.key is None or not wanted(run.tenant, run.document_id, record.key):
            return
        records += 1
        keys.add(record.key)
        if run.stage == EMBEDDER.name:
            for text in texts_of(codec, record.value, preparation) or ():
                texts.setdefault(text.tenant, set()).add(text.key)

    LogReader(kafka, "replay").read(spans(run), take)
    if not records:
        raise _no_match(run)
    if run.stage != EMBEDDER.name:
        return Estimate(records, len(keys), {GENERATOR.name: records, INDEXER.name: 0}.get(run.stage))
    calls = sum(map(len, texts.values()))
    if known is not None:
        calls -= sum([len(await _cached(known, tenant, hashes)) for tenant, hashes in texts.items()])
    return Estimate(records, len(keys), calls, exact=known is not None)


async def _cached(known: Known, tenant: str, hashes: set[bytes]) -> set[bytes]:
    ordered = sorted(hashes)
    found: set[bytes] = set()
    for start in range(0, len(ordered), _ASK_AT):
        found |= await known(tenant, set(ordered[start : start + _ASK_AT]))
    return found


def texts_of(codec: Codec, value: bytes | None, preparation: Preparation) -> list[Text] | None:
    """Return every text to embed in a record of the topic ``chunks``, prepared for the generation.

    None for a record that cannot be read or whose payload is missing, because the stage dead-letters it.
    """
    try:
        context = codec.decode(value, ChunkedDocument)
    except PermanentError:
        return None
    prepared = preparation.of(context.payload) if context.payload is not None else ()
    prompt = len(preparation.passage_prompt)
    return [Text(context.change.tenant, one.key, prompt + len(one.text)) for one in prepared if one.key]


def cached_in(pool: Pool, model: str) -> Known:
    """Return the lookup of a tenant's keys that have a vector of the model; it raises :class:`DependencyDown`."""

    async def known(tenant: str, keys: set[bytes]) -> set[bytes]:
        async with tenant_transaction(pool, tenant, readonly=True) as connection:
            return await cache.known(connection, tenant, model, keys)

    return known
