"""The claim check: moves large payloads out of the records that a stage writes, and back when it reads them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from headrace.codec.codec import ENVELOPES, Codec
from headrace.config import failpoints
from headrace.config.settings import ObjectSettings
from headrace.envelope import Context, Reference
from headrace.errors import ConfigurationError, DependencyDown, InvalidRecord
from headrace.objects.places import Place, folder_of, reference_to

if TYPE_CHECKING:
    from headrace.objects.store import ObjectStore  # with the library behind it

T = TypeVar("T")
_AT_ONCE = 8
"""Concurrent reads or writes for a batch."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A record whose payload is in the object store; ``context`` has no payload."""

    context: Context
    reference: Reference


@dataclass(frozen=True, slots=True)
class Parcel:
    """Bytes that must be stored before the record that refers to them is written."""

    place: Place
    data: bytes


class Claims:
    """Stores and fetches payloads."""

    def __init__(
        self,
        codec: Codec,
        store: ObjectStore,
        settings: ObjectSettings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.limit_bytes = settings.limit_bytes
        self.batch_bytes = settings.batch_bytes
        self._codec = codec
        self._store = store
        self._max_bytes = settings.max_bytes
        self._now = now

    def check_in(self, context: Context, payload_type: type) -> tuple[bytes, Parcel]:
        """Return the record with a reference instead of its payload, and what to store before it is written.

        Raises :class:`InvalidRecord` for a payload that exceeds the store's own limit.
        """
        data = self._codec.encode_payload(context.payload)
        if len(data) > self._max_bytes:
            raise InvalidRecord(
                "payload", f"has {len(data)} bytes; the limit for the object store is {self._max_bytes}",
                remedy="Split the document, or raise HEADRACE_OBJECTS_MAX_BYTES for all services.",
            )  # fmt: skip
        day = self._now().astimezone(UTC).date()
        place = Place(folder_of(context.change.tenant), day, hashlib.sha256(data).digest())
        reference = reference_to(place, len(data), ENVELOPES[payload_type])
        value = self._codec.encode(context.with_payload(None), payload_type, reference)
        return value, Parcel(place, data)

    async def store(self, parcels: Sequence[Parcel]) -> None:
        """Store all of them; raises what :meth:`ObjectStore.write_async` does."""
        if not parcels:
            return
        for written in await _together(self._store.write_async(parcel.place, parcel.data) for parcel in parcels):
            if isinstance(written, BaseException):
                raise written
        failpoints.reach("objects.stored")

    async def check_out(self, claims: Sequence[Claim], payload_type: type) -> list[Context | BaseException]:
        """Return each record's context with its payload, or the error, in order.

        Raises :class:`DependencyDown` and :class:`ConfigurationError`, for which no record is at fault.
        """
        found = await _together(self._whole(claim, payload_type) for claim in claims)
        for outcome in found:
            if isinstance(outcome, (DependencyDown, ConfigurationError)):
                raise outcome
        return found

    async def _whole(self, claim: Claim, payload_type: type) -> Context:
        record = ENVELOPES[payload_type]
        data = await self._store.read_async(claim.reference, claim.context.change.tenant, record)
        return claim.context.with_payload(self._codec.decode_payload(data, payload_type))


async def _together(work: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    """Await all, a limited number at a time, and return their results or errors in order."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Awaitable[T]) -> T:
        async with free:
            return await each

    return await asyncio.gather(*map(one, work), return_exceptions=True)


def portions(sizes: Sequence[int], most: int) -> list[slice]:
    """Return consecutive slices of items of these sizes, each at most ``most`` bytes or a single item; pure."""
    found: list[slice] = []
    first, held = 0, 0
    for index, size in enumerate(sizes):
        if index > first and size and held + size > most:
            found.append(slice(first, index))
            first, held = index, 0
        held += size
    return [*found, slice(first, len(sizes))]
