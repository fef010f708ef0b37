"""The status of embedding: progress, failures, and spending compared with the caps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.embeddings.costs import CostBook, CostSettings
from headrace.kafka.lag import Progress
from headrace.topology.stages import EMBEDDER
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.model import Entry, Selection
from headrace_operations.embeddings.estimating import generation_of
from headrace_operations.embeddings.models import cap_without_price
from headrace_operations.embeddings.progress import measured, waiting_for_caps
from headrace_operations.embeddings.spending import Spending, spending


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """A tenant or all, and the seconds over which to measure the rate; ``provider`` embeds, or is None if unknown."""

    tenant: str | None = None
    sample_s: float = 2.0
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingStatus:
    """The status; ``rate`` is in records per second, ``held`` has counts by cap.

    ``refused`` is why the embedder refuses the caps, or None.
    """

    generation: str
    progress: Progress
    rate: float
    errors: Sequence[Entry]
    held: Mapping[str, int]
    spending: Spending
    refused: str | None


async def status(cluster: Cluster, request: StatusRequest, book: CostBook, settings: CostSettings) -> EmbeddingStatus:
    """Return the status for the generation of the cluster's lanes; raises :class:`DependencyDown`."""
    progress, rate = measured(cluster.kafka, request.sample_s, time.sleep)
    errors = cluster.dead_letters().select(Selection(stage=EMBEDDER.name, tenant=request.tenant))
    held = waiting_for_caps(cluster.held(), request.tenant)
    store, name = cluster.known_store(), cluster.kafka.generation
    spent = await spending(store, book, request.tenant, held)
    refused = None
    if book.caps.in_usd:  # only then does the model's price matter, and the store must be asked for the model
        model = (await generation_of(store, name)).model
        refused = cap_without_price(book, model, settings, request.provider)
    return EmbeddingStatus(name, progress, rate, errors, held, spent, refused)
