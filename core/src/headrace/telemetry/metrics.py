"""The metrics, declared once; ``docs/reference/metrics.md`` is generated from here.

Each description says what to do when the figure moves. Where one has the label ``lane``, it is ``live`` or ``side``.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

RECORDS_DONE = Counter(
    "headrace_records_done",
    "Records whose batch was committed. Flat while lag grows: see headrace_waiting and the log of the stage.",
    ["stage", "lane"],
)
DEAD_LETTERS = Counter(
    "headrace_dead_letters",
    "Records given up. Any rise: read the dead letters of the stage, they name field, reason and remedy.",
    ["stage", "lane"],
)
RETRIES = Counter(
    "headrace_retries",
    "Records that failed for now and are tried again. A steady rise: something that the handlers need fails now and "
    "then; the log of the stage says what.",
    ["stage", "lane"],
)
HELD = Counter(
    "headrace_held",
    "Records that were set aside: paused, to be reviewed, or above a spending cap. `headrace held list` shows them.",
    ["stage", "lane"],
)
PASSED_OVER = Counter(
    "headrace_passed_over",
    "Records that tell of no document, such as the tombstones and heartbeats of a captured table.",
    ["stage", "lane"],
)
REFUSED_ENTRIES = Counter(
    "headrace_refused_entries",
    "Records of the topics pipelines and control that this process cannot use; what was in force before stays. Any "
    "rise: the log names offset and reason; another release or tool wrote them. Each start reads and counts them anew.",
    ["topic"],
)
OBJECTS_STORED = Counter(
    "headrace_objects_stored",
    "Payloads put into the object store because their records would have been too large. A sudden rise: upstream "
    "sends other documents than before; mind the store's space and run `headrace objects gc`.",
    ["stage"],
)
OBJECTS_FETCHED = Counter(
    "headrace_objects_fetched",
    "Payloads read from the object store. Far above headrace_objects_stored of the stage before: records are tried or "
    "replayed again and again.",
    ["stage"],
)
BATCH_RECORDS = Histogram(
    "headrace_batch_records",
    "Records in a committed batch. Small under load: the stage before is the slow one.",
    ["stage", "lane"],
    buckets=_COUNTS,
)
COMPUTE_SECONDS = Histogram(
    "headrace_compute_seconds",
    "Time in the handlers for one batch. High with high lag: add workers to the stage.",
    ["stage"],
    buckets=_SECONDS,
)
COMMIT_SECONDS = Histogram(
    "headrace_commit_seconds",
    "Time of one transaction. High: look at the brokers.",
    ["stage", "lane"],
    buckets=_SECONDS,
)
COMMITS_FAILED = Counter(
    "headrace_commits_failed",
    "Transactions that were refused or uncertain, by error; they are done again. A steady rise: rebalances never end, "
    "or two workers share a slot.",
    ["stage", "lane", "error"],
)
BATCHES_DOOMED = Counter(
    "headrace_batches_doomed",
    "Batches dropped while they computed because partitions moved; they are done again. A steady rise: workers come "
    "and go.",
    ["stage", "lane"],
)
REBALANCES = Counter(
    "headrace_rebalances",
    "Changes of this worker's partitions. Rising without a deployment: a worker is restarted again and again.",
    ["stage", "lane"],
)
WAITING = Gauge(
    "headrace_waiting",
    "1 while the stage waits for a dependency that is down; /readyz says which. Nothing is lost meanwhile.",
    ["stage", "lane"],
)
STOPPED = Gauge(
    "headrace_stopped",
    "1 while the stage has stopped itself, for it gave up too many records: repair the cause, then resume it.",
    ["stage", "lane"],
)
CIRCUIT = Gauge(
    "headrace_circuit",
    "A dependency's circuit as the stage sees it: 0 closed, 1 half open (one batch tries), 2 open (the stage waits).",
    ["stage", "lane", "dependency"],
)
