"""What to do about the indexes of a generation, in plain words with the command; pure."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.store.dense_index import parameters
from headrace.store.generations import STORAGES
from headrace.store.index_health import Health
from headrace.store.rows import BYTES_PER_FLOAT

FEW_ROWS = 10_000
"""Below this many vectors, reading all of them takes milliseconds."""
DEAD_SHARE = 0.2
"""PostgreSQL's own threshold for a vacuum (``autovacuum_vacuum_scale_factor``)."""
LEAST_DEAD = 1_000
LEAST_RECALL = 0.95
_EF_SEARCH = 1000
_WORTH_MIB = 64
_OFF = 2.0
"""IVFFlat's lists may differ from those for the size by this factor."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One finding: what is, why it matters, and the command. ``urgent`` findings make searches slow or incomplete."""

    generation: str
    subject: str
    finding: str
    command: str
    urgent: bool = False


def advise(health: Health) -> list[Advice]:
    """Return the findings, urgent ones first."""
    found = [*_index(health), *_dead(health), *_recall(health), *_lists(health), *_storage(health)]
    return sorted(found, key=lambda one: not one.urgent)


def _index(health: Health) -> list[Advice]:
    name, rows = health.generation.name, health.vectors.rows
    found = []
    if (health.dense is None or not health.dense.valid) and rows >= FEW_ROWS:
        found.append(Advice(
            name, "index", f"{rows} vectors have no valid index, so each search reads all of the tenant's vectors",
            f"headrace index rebuild {name}", urgent=True,
        ))  # fmt: skip
    if health.left_over is not None:
        found.append(Advice(
            name, "index",
            f"{health.left_over.name} is being built, or was left behind by a build that was killed; a left one costs "
            "each write",
            f"headrace index rebuild {name}",
        ))  # fmt: skip
    return found


def _dead(health: Health) -> list[Advice]:
    found = []
    for table in health.tables:
        if table.dead < LEAST_DEAD or table.dead < DEAD_SHARE * max(1, table.rows):
            continue
        rebuilt = ""
        if table is health.vectors and health.dense is not None and health.dense.kind == "hnsw":
            rebuilt = f"headrace index rebuild {health.generation.name}; "
        found.append(Advice(
            health.generation.name, table.name,
            f"{table.dead} dead rows beside {table.rows}; searches pass through them"
            + ("; a vacuum of HNSW is faster after a rebuild" if rebuilt else ""),
            f"{rebuilt}psql -c 'VACUUM (ANALYZE) {table.name}'",
        ))  # fmt: skip
    return found


def _recall(health: Health) -> list[Advice]:
    low = [one for one in health.recalls if one.indexed and one.recall_10 < LEAST_RECALL]
    if not low or health.dense is None:
        return []
    one, generation = min(low, key=lambda found: found.recall_10), health.generation
    said = f"recall@10 is {one.recall_10:.3f} for tenant {one.tenant}, less than {LEAST_RECALL}"
    if health.dense.kind == "ivfflat":
        most = health.dense.options.get("lists", 1)
        command = f"headrace index tune {generation.name} --probes {min(most, 2 * generation.probes)}"
    elif generation.ef_search < _EF_SEARCH:
        command = f"headrace index tune {generation.name} --ef-search {min(_EF_SEARCH, 2 * generation.ef_search)}"
    else:
        command = f"headrace index rebuild {generation.name}"
    return [Advice(generation.name, health.dense.name, said, command, urgent=True)]


def _lists(health: Health) -> list[Advice]:
    if health.dense is None or health.dense.kind != "ivfflat":
        return []
    lists, wanted = health.dense.options.get("lists", 1), parameters("ivfflat", health.vectors.rows).options["lists"]
    if wanted / _OFF <= lists <= wanted * _OFF:
        return []
    return [Advice(
        health.generation.name, health.dense.name,
        f"IVFFlat has {lists} lists, but {wanted} are right for {health.vectors.rows} vectors",
        f"headrace index rebuild {health.generation.name} --kind ivfflat",
    )]  # fmt: skip


def _storage(health: Health) -> list[Advice]:
    one = health.generation
    if STORAGES[one.storage].type != "vector":
        return []
    rows = health.vectors.rows
    index = 0 if health.dense is None else rows * one.dimensions * BYTES_PER_FLOAT // 2
    saved = (rows * one.dimensions * BYTES_PER_FLOAT // 2 + index) / 2**20
    if saved < _WORTH_MIB:
        return []
    return [Advice(
        one.name, health.vectors.name, f"halfvec would save about {saved:.0f} MiB in table and index",
        "headrace reindex start --storage halfvec",
    )]  # fmt: skip
