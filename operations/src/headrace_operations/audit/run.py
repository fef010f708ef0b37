"""Runs the audit: first it compares everything by digests, then it compares row by row what differs.

The second comparison reads the groups' committed offsets first, then the log's newest records, then the store. Records
after those offsets are pending; records before them must be in the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.kafka.ranges import LogReader
from headrace.store.generations import kept_fresh
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.rows import Generation
from headrace_operations.audit import repairs
from headrace_operations.audit.compare import examine, in_order
from headrace_operations.audit.digests import NO_ROWS, with_row
from headrace_operations.audit.held_and_dead_lettered import open_dead_letters
from headrace_operations.audit.log_view import InFlight, LogView
from headrace_operations.audit.model import (
    Finding,
    Key,
    Kind,
    LogEntry,
    LoggedDetail,
    Pending,
    Report,
    Rows,
    StoredDetail,
    StoredVector,
    Target,
)
from headrace_operations.audit.store_view import ChunkPage, StoreView, generations
from headrace_operations.errors import NotThere

_DETAIL_BATCH = 500
_CHANGED = "another audit: it changed during this one"
_EXPLAINED = (Kind.MISSING, Kind.STALE)
_WHOLE = ("document", "log")
Progress = Callable[[str], None]


class UnknownDocument(NotThere):
    """Neither the log nor the store has the document."""

    code = "unknown-document"


@dataclass(frozen=True, slots=True)
class Scope:
    """The scope of an audit: everything, a tenant, or one document of a tenant; by default, the active generation.

    Raises :class:`ConfigurationError` for a document without its tenant.
    """

    tenant: str | None = None
    document_id: str | None = None
    generation: str | None = None
    deep: bool = False

    def __post_init__(self) -> None:
        if self.document_id is not None and self.tenant is None:
            raise ConfigurationError("--document requires --tenant", where="--document", remedy="Pass --tenant too.")


@dataclass(slots=True)
class _Tally:
    """Counts of a document's rows while they are read."""

    rows: Rows = NO_ROWS
    vectors: int = 0
    flagged: bool = False


@dataclass(slots=True)
class _Seen:
    """The result of the first comparison."""

    documents: int = 0
    chunks: int = 0
    vectors: int = 0
    suspects: set[Key] = field(default_factory=set)
    loose: dict[str, set[bytes]] = field(default_factory=dict)


async def audit(
    kafka: KafkaSettings, codec: Codec, store: StoreSettings, scope: Scope, progress: Progress = lambda _: None
) -> Report:
    """Compare log and store.

    Raises :class:`ConfigurationError` for a generation or topic that does not exist, :class:`UnknownDocument`, and
    :class:`headrace.errors.DependencyDown` if a system does not answer.
    """
    started = time.monotonic()
    async with opened_pool(store) as pool:
        known = await generations(pool)
        generation = chosen(known, scope.generation)
        target = Target(
            generation.name,
            generation.model,
            generation.dimensions,
            {one.name: one.model for one in known},
            kept_fresh(known, generation.name),
        )
        kafka = kafka.of(generation.name)
        ranges = LogReader(kafka, "audit")
        log = LogView(ranges, codec, tenant=scope.tenant, document_id=scope.document_id, progress=progress)
        run = _Audit(log, ranges, StoreView(pool, generation, deep=scope.deep), target, scope, progress)
        report = await run.run()
    return replace(report, seconds=round(time.monotonic() - started, 2))


def chosen(known: Iterable[Generation], wanted: str | None) -> Generation:
    """Return the named generation or the active one; raises :class:`ConfigurationError` naming all generations."""
    found = list(known)
    for one in found:
        if one.name == wanted or (wanted is None and one.state == "active"):
            return one
    names = ", ".join(f"{one.name} ({one.state})" for one in found) or "none"
    raise ConfigurationError(
        f"unknown generation {wanted}" if wanted else "no generation is active",
        where="--generation",
        remedy=f"Existing generations: {names}.",
    )


class _Audit:
    def __init__(
        self, log: LogView, ranges: LogReader, store: StoreView, target: Target, scope: Scope, progress: Progress
    ) -> None:
        self._log = log
        self._ranges = ranges
        self._store = store
        self._target = target
        self._scope = scope
        self._progress = progress
        self._seen = _Seen()
        self._findings: list[Finding] = []
        self._pending: list[Pending] = []

    async def run(self) -> Report:
        self._progress("log: reading the topics documents and chunks")
        self._log.advance()
        tenants, complete = await self._tenants()
        for tenant in tenants:
            await self._first_look(tenant)
        await self._second_look()
        return Report(
            generation=self._target.generation, tenants=tuple(tenants), all_tenants=complete,
            documents_in_log=sum(map(len, self._log.entries.values())), documents=self._seen.documents,
            chunks=self._seen.chunks, vectors=self._seen.vectors, findings=self._explained(),
            pending=tuple(self._pending), unreadable=tuple(self._log.unreadable), deep=self._scope.deep, seconds=0.0,
        )  # fmt: skip

    async def _tenants(self) -> tuple[list[str], bool]:
        if self._scope.tenant is not None:
            return [self._scope.tenant], True
        stored = await self._store.tenants()
        return sorted(self._log.entries.keys() | (stored or set())), stored is not None

    async def _first_look(self, tenant: str) -> None:
        if self._scope.document_id is not None:
            self._seen.suspects.add(Key(tenant, self._scope.document_id))
            return
        tallies: dict[str, _Tally] = {}
        async for page in self._store.chunk_pages(tenant):
            self._count(tenant, page, tallies)
            self._progress(f"store: {self._seen.chunks} chunks read")
        logged = self._log.entries.get(tenant, {})
        unseen = set(logged)
        async for document_id, document in self._store.documents(tenant):
            self._seen.documents += 1
            unseen.discard(document_id)
            tally = tallies.pop(document_id, _Tally())
            entry = logged.get(document_id, LogEntry())
            if not in_order(entry, document, tally.rows, tally.vectors, self._target, flagged=tally.flagged):
                self._seen.suspects.add(Key(tenant, document_id))
        self._seen.suspects.update(Key(tenant, document_id) for document_id in unseen | tallies.keys())
        for text_hash, dimensions in await self._store.alien_cache(tenant):
            self._findings.append(self._alien_cache(tenant, text_hash.hex(), dimensions))

    def _count(self, tenant: str, page: ChunkPage, tallies: dict[str, _Tally]) -> None:
        for row in page.chunks:
            tally = tallies.setdefault(row.document_id, _Tally())
            tally.rows = with_row(tally.rows, row.chunk_id, row.chunk.text_hash)
            tally.vectors += len(row.vectors)
            tally.flagged |= row.chunk.text_fits is False or any(map(self._odd, row.vectors)) or len(row.vectors) > 1
            self._seen.vectors += len(row.vectors)
        self._seen.chunks += len(page.chunks)
        if page.loose:
            self._seen.loose.setdefault(tenant, set()).update(page.loose)

    def _odd(self, vector: StoredVector) -> bool:
        return vector.dimensions != self._target.dimensions or not vector.finite or vector.as_cached is False

    async def _second_look(self) -> None:
        if not self._seen.suspects and not self._seen.loose:
            return
        self._progress(f"comparing {len(self._seen.suspects)} documents row by row")
        in_flight = self._log.in_flight()
        self._log.advance()
        in_flight.scan({key.record_key for key in self._seen.suspects})
        since = await self._store.now()
        for tenant in sorted({key.tenant for key in self._seen.suspects}):
            keys = sorted((key for key in self._seen.suspects if key.tenant == tenant), key=self._place)
            for start in range(0, len(keys), _DETAIL_BATCH):
                await self._examine(tenant, keys[start : start + _DETAIL_BATCH], in_flight, since)
        for tenant, chunk_ids in sorted(self._seen.loose.items()):
            for chunk_id in await self._store.still_loose(tenant, chunk_ids):
                self._findings.append(self._loose(tenant, str(UUID(bytes=chunk_id))))

    def _place(self, key: Key) -> tuple[int, int]:
        """Return the offset of its chunks, so that documents in this order are read together."""
        entry = self._log.entries.get(key.tenant, {}).get(key.document_id)
        return entry.chunks.place if entry is not None and entry.chunks is not None else (-1, 0)

    async def _examine(self, tenant: str, keys: list[Key], in_flight: InFlight, since: datetime) -> None:
        lists = self._log.chunk_lists(keys)
        details = await self._store.details(tenant, [key.document_id for key in keys], since)
        for key in keys:
            self._judge(key, lists.get(key), details[key], in_flight)

    def _judge(self, key: Key, logged: LoggedDetail | None, stored: StoredDetail, in_flight: InFlight) -> None:
        """Store the document's problems as findings, or as pending if a stage still has a record of it."""
        if logged is None:
            self._pending.append(Pending(key.tenant, key.document_id, _CHANGED))
            return
        self._seen.loose.get(key.tenant, set()).difference_update(logged.hashes)
        waits_for = in_flight.waits_for(key, logged.entry)
        if self._scope.document_id is not None:
            self._take_one(key, logged.entry, stored, known=waits_for is not None)
        found = examine(key, logged, stored, self._target)
        if found and (waits_for is not None or stored.changed):
            self._pending.append(Pending(key.tenant, key.document_id, waits_for or _CHANGED))
        else:
            self._findings += found

    def _take_one(self, key: Key, entry: LogEntry, stored: StoredDetail, *, known: bool) -> None:
        """Count the named document; raises :class:`UnknownDocument` if neither log nor store has it."""
        if not known and entry == LogEntry() and stored.document is None and not stored.chunks:
            raise UnknownDocument(
                f"no document {key.document_id} of tenant {key.tenant} in the log or the store",
                remedy="Check the ID: `headrace search` shows IDs.",
            )
        self._seen.documents = int(stored.document is not None)
        self._seen.chunks = len(stored.chunks)
        self._seen.vectors = sum(map(len, stored.vectors.values()))

    def _explained(self) -> tuple[Finding, ...]:
        """Return the findings in order, with the IDs of dead letters that may explain them."""
        wanted = {
            Key(one.tenant, one.document_id).record_key
            for one in self._findings
            if one.kind in _EXPLAINED and one.document_id is not None
        }
        letters = open_dead_letters(self._ranges, wanted) if wanted else {}
        found = [explained(one, letters) for one in self._findings]
        return tuple(sorted(found, key=lambda one: (one.tenant, one.document_id or "", one.kind, one.subject)))

    def _loose(self, tenant: str, chunk_id: str) -> Finding:
        return Finding(
            Kind.ORPHAN, "vector", tenant, None, "a chunk for each vector", f"a vector of {chunk_id} without a chunk",
            (repairs.delete_vectors(tenant, self._target.generation, chunk_id),), examples=(chunk_id,),
        )  # fmt: skip

    def _alien_cache(self, tenant: str, text_hash: str, dimensions: int) -> Finding:
        return Finding(
            Kind.MIXED_MODEL, "cache", tenant, None,
            f"cached vectors of {self._target.model} that are finite and have {self._target.dimensions} dimensions",
            f"one with {dimensions} for the text hash {text_hash}",
            (repairs.delete_cached(tenant, self._target.model, text_hash),), examples=(text_hash,),
        )  # fmt: skip


def explained(finding: Finding, letters: dict[bytes, list[str]]) -> Finding:
    """Return a missing or stale finding with its document's open dead letters, given by record key.

    For a finding about a whole version, redriving them is the first repair.
    """
    if finding.kind not in _EXPLAINED or finding.document_id is None:
        return finding
    key = Key(finding.tenant, finding.document_id)
    ids = tuple(letters.get(key.record_key, ()))
    stages = dict.fromkeys(one.partition("/")[0] for one in ids)
    first = tuple(repairs.redrive(stage, key) for stage in stages) if finding.subject in _WHOLE else ()
    return replace(finding, dead_letters=ids, repair=(*first, *finding.repair))
