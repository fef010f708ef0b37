"""Estimates the cost of embedding files that have not been sent, or records in the log that the embedder would read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from headrace.embeddings.costs import CostBook
from headrace.embeddings.models import known_model
from headrace.embeddings.preparation import Preparation
from headrace.errors import ConfigurationError
from headrace.store.pool import StoreSettings, opened_pool
from headrace.store.rows import Generation
from headrace_operations.actions import Progress
from headrace_operations.audit.run import chosen
from headrace_operations.audit.store_view import generations
from headrace_operations.cluster import Cluster
from headrace_operations.embeddings.estimate import Estimate, Lengths, of_log, of_texts, priced
from headrace_operations.embeddings.models import is_local, model_identity
from headrace_operations.replay.plan import cached_in
from headrace_operations.replay.start import ReplayRequest, plan


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """``model`` is a name or identity, or None for the generation's; ``rate`` is in texts per second, or None.

    ``provider`` is the provider that embeds, or None if unknown.
    """

    book: CostBook
    model: str | None = None
    rate: float | None = None
    provider: str | None = None

    def identity(self, known: Iterable[str]) -> str:
        """Return the identity of the named model; a name is required."""
        assert self.model is not None
        return model_identity(self.model, {*known, *self.book.models}, self.provider)


@dataclass(frozen=True, slots=True)
class Estimated:
    """The identity of the model, and the estimate for the texts."""

    model: str
    estimate: Estimate


async def generation_of(store: StoreSettings, name: str | None) -> Generation:
    """Return the named generation, or the active one; raises :class:`ConfigurationError` naming all generations."""
    async with opened_pool(store) as pool:
        return chosen(await generations(pool), name)


async def estimate_texts(request: EstimateRequest, lengths: Lengths, kept: str | None = None) -> Estimated:
    """Return an approximate estimate of texts that are not split yet; ``kept`` is the generation's model."""
    name = kept if request.model is None and kept is not None else request.identity(())
    price = request.book.price(name, local=is_local(request.provider))
    return Estimated(name, await priced(lengths, None, price=price, rate=request.rate, exact=False))


async def estimate_log(
    cluster: Cluster, request: EstimateRequest, replay: ReplayRequest, progress: Progress = lambda _: None
) -> Estimated:
    """Return the exact cost of a replay of the embedder, without cached texts.

    Raises :class:`ConfigurationError`, :class:`RefusedReplay` and :class:`DependencyDown`.
    """
    store = cluster.known_store()
    kept = await generation_of(store, cluster.kafka.generation)
    name = kept.model if request.model is None else request.identity({kept.model})
    lengths = of_log(cluster.kafka, cluster.codec, plan(cluster, replay).run, _prepared(kept, name), progress)
    price = request.book.price(name, local=is_local(request.provider))
    async with opened_pool(store) as pool:
        found = await priced(lengths, cached_in(pool, name), price=price, rate=request.rate, exact=True)
    return Estimated(name, found)


def _prepared(kept: Generation, model: str) -> Preparation:
    """Return how texts are prepared; for another model, only the prompt differs."""
    if model == kept.model:
        return kept.preparation
    return replace(kept.preparation, passage_prompt=known_model(model).passage_prompt)


def lengths_of(tenant: str, texts: Iterable[str], progress: Progress = lambda _: None) -> Lengths:
    """Return the lengths of texts that are not split yet; raises :class:`ConfigurationError` if there are none."""
    found = of_texts(tenant, texts, progress)
    if not found.documents:
        raise ConfigurationError("no text found", remedy="Pass text files or change events.")
    return found
