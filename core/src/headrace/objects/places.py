"""Where a payload is in the object store, and which references may be followed; pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from headrace.envelope import Reference
from headrace.errors import InvalidRecord, PermanentError

SCHEME = "claim:"
"""Prefix of the location in a reference's ``uri``. Only the settings say which store it is."""
_TENANT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_PLACE = rf"({_TENANT}|_[0-9a-f]{{64}})/([0-9]{{8}})/([0-9a-f]{{64}})"
_REFERRED = re.compile(rf"{SCHEME}({_PLACE})".encode())
_DIGEST_BYTES = 32


class ObjectGone(PermanentError):
    """The payload is no longer in the object store."""

    code = "object-gone"
    default_remedy = (
        "Restore the object from a backup, then run `headrace dlq redrive`. Or send the document's change event again, "
        "or replay the stage that wrote the payload."
    )


class ObjectDamaged(PermanentError):
    """The object's content does not match the reference."""

    code = "object-damaged"
    default_remedy = ObjectGone.default_remedy


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of the tenant (:func:`folder_of`), the UTC day on which the object was written, and its SHA-256."""

    folder: str
    day: date
    digest: bytes

    @property
    def key(self) -> str:
        """The object's key in the store."""
        return f"{self.folder}/{self.day:%Y%m%d}/{self.digest.hex()}"

    @property
    def over_at(self) -> datetime:
        """The end of its day; after that, the object is not written again."""
        return datetime(self.day.year, self.day.month, self.day.day, tzinfo=UTC) + timedelta(days=1)


def folder_of(tenant: str) -> str:
    """Return the folder of the tenant's objects: its name, or a digest if the name is not a valid folder name."""
    return tenant if re.fullmatch(_TENANT, tenant) else f"_{hashlib.sha256(tenant.encode()).hexdigest()}"


def parse(key: str) -> Place | None:
    """Return the place with that key, or None for a key that Headrace does not write."""
    found = re.fullmatch(_PLACE, key)
    if found is None:
        return None
    try:
        day = date(int(found[2][:4]), int(found[2][4:6]), int(found[2][6:]))
    except ValueError:
        return None
    return Place(found[1], day, bytes.fromhex(found[3]))


def reference_to(place: Place, size: int, record: str) -> Reference:
    """Return the reference to ``size`` bytes at the place, which contain the Avro record of that name."""
    return Reference(f"{SCHEME}{place.key}", place.digest, size, record)


def checked(reference: Reference, tenant: str, record: str, max_bytes: int) -> Place:
    """Return the reference's place if it has the record's own tenant, digest and kind.

    Raises :class:`InvalidRecord` for any other, and :class:`PermanentError` for more than ``max_bytes``.
    """
    place = parse(reference.uri.removeprefix(SCHEME)) if reference.uri.startswith(SCHEME) else None
    if place is None:
        raise InvalidRecord(
            "reference.uri", f"{reference.uri!r:.200} is not a location in the object store",
            remedy="Stages read payloads only from the store of HEADRACE_OBJECTS_URL. Find out what wrote the record.",
        )  # fmt: skip
    if place.folder != folder_of(tenant):
        raise InvalidRecord("reference.uri", f"{reference.uri!r:.300} belongs to a tenant other than the record's")
    if len(reference.sha256) != _DIGEST_BYTES or place.digest != reference.sha256:
        raise InvalidRecord("reference.sha256", "differs from the digest in the location", where=reference.uri)
    if reference.record != record:
        raise InvalidRecord("reference.record", f"is {reference.record!r:.200}, but this topic carries {record}")
    if not 0 <= reference.size <= max_bytes:
        raise PermanentError(
            f"the payload in the object store has {reference.size} bytes; the limit is {max_bytes}",
            where=reference.uri, remedy="Raise HEADRACE_OBJECTS_MAX_BYTES for all services, then run `headrace "
                "dlq redrive`.",
        )  # fmt: skip
    return place


def check_content(reference: Reference, data: bytes) -> bytes:
    """Return the bytes; raises :class:`ObjectDamaged` if they are not those of the reference."""
    if len(data) != reference.size:
        raise ObjectDamaged(
            f"the object has {len(data)} bytes, but the reference says {reference.size}", where=reference.uri
        )
    if hashlib.sha256(data).digest() != reference.sha256:
        raise ObjectDamaged("the digest of the object's bytes differs from the reference", where=reference.uri)
    return data


def named_in(data: bytes) -> set[str]:
    """Return all object keys in the bytes, also in nested records."""
    return {found[1].decode() for found in _REFERRED.finditer(data)}
