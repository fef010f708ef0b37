"""Deletes a tenant's cached vectors of a model."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.store.pool import StoreSettings
from headrace_operations.audit.store_view import generations, opened_pool
from headrace_operations.embeddings import forget
from headrace_operations.embeddings.models import model_identity


@dataclass(frozen=True, slots=True)
class ResetRequest:
    """Whose vectors of which model (name or identity); ``provider`` is what embeds, None where that is not known."""

    tenant: str
    model: str
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Reset:
    """The identity of the model, and how many vectors were forgotten, or would be."""

    model: str
    vectors: int


async def plan_reset(store: StoreSettings, request: ResetRequest) -> Reset:
    """Return what would be forgotten; raises :class:`DependencyDown`."""
    async with opened_pool(store) as pool:
        known = {one.model for one in await generations(pool)}
        model = model_identity(request.model, known, request.provider)
        return Reset(model, await forget.cached(pool, request.tenant, model))


async def reset(store: StoreSettings, request: ResetRequest, planned: Reset, *, by: str) -> Reset:
    """Forget what was planned, and log who asked; raises :class:`DependencyDown`, and goes on when it runs again."""
    async with opened_pool(store) as pool:
        count = await forget.forget(pool, request.tenant, planned.model, asked_by=by)
    return Reset(planned.model, count)
