"""Deletes a tenant's cached vectors of a model."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.store.pool import StoreSettings, opened_pool
from headrace_operations.audit.store_view import generations
from headrace_operations.embeddings import forget
from headrace_operations.embeddings.models import model_identity


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """The vectors to delete, by tenant and model (name or identity); ``provider`` is None if unknown."""

    tenant: str
    model: str
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """The identity of the model, and the number of vectors that were or would be deleted."""

    model: str
    vectors: int


async def plan_reset(store: StoreSettings, request: ResetRequest) -> Reset:
    """Return what would be deleted; raises :class:`DependencyDown`."""
    async with opened_pool(store) as pool:
        known = {one.model for one in await generations(pool)}
        model = model_identity(request.model, known, request.provider)
        return Reset(model, await forget.cached(pool, request.tenant, model))


async def reset(store: StoreSettings, request: ResetRequest, planned: Reset, *, by: str) -> Reset:
    """Delete what was planned, and log who asked; raises :class:`DependencyDown`. Another call continues."""
    async with opened_pool(store) as pool:
        count = await forget.forget(pool, request.tenant, planned.model, asked_by=by)
    return Reset(planned.model, count)
