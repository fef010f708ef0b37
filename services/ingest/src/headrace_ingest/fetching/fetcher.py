"""The entry point of fetching: passes a reference to its scheme's fetcher, limits the time, and logs refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from headrace.errors import HeadraceError, TemporaryError
from headrace_ingest.fetching.addresses import Resolve, resolve
from headrace_ingest.fetching.files import Files
from headrace_ingest.fetching.outcomes import Fetched, ForbiddenReference, shown
from headrace_ingest.fetching.references import PORTS, parse
from headrace_ingest.fetching.s3 import Buckets
from headrace_ingest.fetching.settings import FetchSettings
from headrace_ingest.fetching.web import Web

log = structlog.get_logger(__name__)


class Fetcher:
    """Fetches files by https and http, from S3 and from folders, if the settings allow it.

    The constructor raises :class:`headrace.errors.ConfigurationError` for invalid settings.
    """

    def __init__(
        self, settings: FetchSettings, *, resolver: Resolve = resolve, now: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._web = Web(settings, resolver, now)
        self._files = Files(settings)
        self._buckets = Buckets(settings)

    async def close(self) -> None:
        """Close the connections."""
        await self._web.close()

    async def fetch(self, reference: str) -> Fetched:
        """Return the referenced file.

        Raises :class:`ForbiddenReference` (logged) for a location that is not allowed, :class:`ReferenceGone` or
        :class:`Unfetchable` if a later attempt cannot succeed, and :class:`headrace.errors.TemporaryError` otherwise.
        """
        place = shown(reference)
        try:
            return await self._in_time(reference)
        except HeadraceError as error:
            error.where = error.where or place
            if isinstance(error, ForbiddenReference):
                log.warning("fetch refused", reference=place, reason=error.reason)
            raise

    async def _in_time(self, reference: str) -> Fetched:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._by_scheme(reference)
        except TimeoutError as error:
            raise TemporaryError(
                f"the file was not fetched within {self._settings.timeout_s:g} s",
                remedy="Check the server, or raise HEADRACE_FETCH_TIMEOUT_S; then run `headrace dlq redrive`.",
            ) from error

    async def _by_scheme(self, reference: str) -> Fetched:
        parts = parse(reference)
        if parts.scheme in PORTS:
            return await self._web.fetch(parts)
        if parts.scheme == "s3":
            return await self._buckets.fetch(parts)
        if parts.scheme == "file":
            return await self._files.fetch(parts)
        raise ForbiddenReference(f"unsupported scheme {parts.scheme!r:.50}; use https, http, s3 or file")
