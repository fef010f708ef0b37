"""The provider of this process, loaded once and shared by the handler and the query endpoint."""

from __future__ import annotations

import asyncio

from headrace_embedder.factory import build
from headrace_embedder.provider import Provider
from headrace_embedder.settings import EmbedderSettings

_provider: Provider | None = None
_loading = asyncio.Lock()


async def shared_provider() -> Provider:
    """Return the provider; the first call loads it in a thread."""
    global _provider
    async with _loading:
        if _provider is None:
            _provider = await asyncio.to_thread(build, EmbedderSettings())
        return _provider
