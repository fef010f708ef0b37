"""The metrics, declared once; ``docs/reference/metrics.md`` is generated from here.

Each description says what to do when the value changes. The label ``lane`` is ``live`` or ``side``.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)

RECORDS_DONE = Counter(
    "headrace_records_done",
    "Records in committed batches. Flat while lag grows: see headrace_waiting and the stage's log.",
    ["stage", "lane"],
)
DEAD_LETTERS = Counter(
    "headrace_dead_letters",
    "Dead-lettered records. Any rise: read the stage's dead letters, which give field, reason and remedy.",
    ["stage", "lane"],
)
RETRIES = Counter(
    "headrace_retries",
    "Records that failed temporarily and are retried. A steady rise: something that the handlers need fails from time "
    "to time; the stage's log says what.",
    ["stage", "lane"],
)
HELD = Counter(
    "headrace_held",
    "Records that were held: paused, waiting for review, or above a spending cap. See `headrace held list`.",
    ["stage", "lane"],
)
PASSED_OVER = Counter(
    "headrace_passed_over",
    "Records that change no document, such as tombstones and heartbeats of a captured table.",
    ["stage", "lane"],
)
REFUSED_ENTRIES = Counter(
    "headrace_refused_entries",
    "Records in the topics pipelines, control and dead-letters.* that this process cannot use. Earlier records stay in "
    "force. Any rise: another release or tool wrote them; the log gives offset and reason. Each start reads and counts "
    "them again.",
    ["topic"],
)
OBJECTS_STORED = Counter(
    "headrace_objects_stored",
    "Payloads written to the object store because their records would be too large. A sudden rise: the sources send "
    "larger documents; watch the object store's space and run `headrace objects gc`.",
    ["stage"],
)
OBJECTS_FETCHED = Counter(
    "headrace_objects_fetched",
    "Payloads read from the object store. Far above headrace_objects_stored of the previous stage: records are "
    "retried or replayed repeatedly.",
    ["stage"],
)
BATCH_RECORDS = Histogram(
    "headrace_batch_records",
    "Records in a committed batch. Small under load: the previous stage is the bottleneck.",
    ["stage", "lane"],
    buckets=_COUNTS,
)
COMPUTE_SECONDS = Histogram(
    "headrace_compute_seconds",
    "Time that the handlers take for one batch. High while lag is high: add workers to the stage.",
    ["stage"],
    buckets=_SECONDS,
)
COMMIT_SECONDS = Histogram(
    "headrace_commit_seconds",
    "Time of one transaction. High: check the brokers.",
    ["stage", "lane"],
    buckets=_SECONDS,
)
COMMITS_FAILED = Counter(
    "headrace_commits_failed",
    "Transactions that failed or whose result is unknown, by error; their batches are processed again. A steady rise: "
    "rebalances do not end, or two workers share a slot.",
    ["stage", "lane", "error"],
)
BATCHES_DOOMED = Counter(
    "headrace_batches_doomed",
    "Running batches dropped because partitions moved; they are processed again. A steady rise: workers join and leave "
    "all the time.",
    ["stage", "lane"],
)
REBALANCES = Counter(
    "headrace_rebalances",
    "Changes of this worker's partitions. Rising without a deployment: a worker keeps restarting.",
    ["stage", "lane"],
)
WAITING = Gauge(
    "headrace_waiting",
    "1 while the stage waits for a dependency that is down; /readyz names it. No record is lost.",
    ["stage", "lane"],
)
STOPPED = Gauge(
    "headrace_stopped",
    "1 while the stage is stopped because it dead-lettered too many records. Fix the cause, then resume it.",
    ["stage", "lane"],
)
CIRCUIT = Gauge(
    "headrace_circuit",
    "Circuit breaker of a dependency: 0 closed, 1 half open (one batch tests it), 2 open (the stage waits).",
    ["stage", "lane", "dependency"],
)
