"""A folder or a bucket for payloads, with the same calls for both through obstore."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore

from headrace.config.settings import KafkaSettings, ObjectSettings
from headrace.envelope import Reference
from headrace.errors import ConfigurationError, DependencyDown, describe
from headrace.objects.places import ObjectDamaged, ObjectGone, Place, check_content, checked, parse
from headrace.objects.s3 import bucket_store

if TYPE_CHECKING:
    from obstore.store import S3Store

DEPENDENCY = "object-store"
MARKER = "_headrace-objects.json"
"""The object that names the store's owner and shows that this is the store, not an empty mount point.

Tenant folders never have this name (:func:`headrace.objects.places.folder_of`).
"""
_VARIABLES = "HEADRACE_OBJECTS_"
_RETRIES = 3
_PAGE = 1000
_MARKER_BYTES = 10_000
_CALL_S = 10.0
T = TypeVar("T")
Owner = Callable[[], dict[str, str]]
"""Returns Kafka's cluster and the topic prefix. It asks Kafka, so it may be slow."""


class ObjectStore:
    """One store.

    Every method raises :class:`DependencyDown` if the store does not answer, and :class:`ConfigurationError` if it
    rejects the access key.
    """

    def __init__(self, settings: ObjectSettings, owner: Owner) -> None:
        if settings.url is None:
            raise ConfigurationError(
                "no object store is configured",
                where=f"{_VARIABLES}URL",
                remedy="Set it to the URL of the object store.",
            )
        self.url = settings.url
        self._settings = settings
        self._owner = owner
        self._store: LocalStore | S3Store | None = None
        self._owned = False
        self._thread = ThreadPoolExecutor(1, "object-store")
        self._folder: Path | None = None
        parts = urlsplit(settings.url)
        if parts.scheme == "file":
            self._folder = Path(unquote(parts.path))
        else:
            self._store = bucket_store(
                parts.netloc, settings, variables=_VARIABLES, folder=parts.path.strip("/"), retries=_RETRIES
            )

    def read(self, reference: Reference, tenant: str, record: str) -> bytes:
        """Return the bytes for a reference in a record of the tenant.

        In addition to the errors of every method, raises :class:`ObjectGone`, :class:`ObjectDamaged`, and what
        :func:`headrace.objects.places.checked` does for a reference that may not be followed.
        """
        place = checked(reference, tenant, record, self._settings.max_bytes)
        with self._told():
            try:
                answer = obstore.get(self._opened(), place.key)
                self._check_size(answer.meta["size"], reference)
                data = bytes(answer.bytes())
            except (FileNotFoundError, GenericError) as error:
                if not _is_missing(error):
                    raise
                self._require_marker()
                raise ObjectGone(where=reference.uri) from error
        return check_content(reference, data)

    async def read_async(self, reference: Reference, tenant: str, record: str) -> bytes:
        """Do what :meth:`read` does, concurrently with other tasks of the loop."""
        place = checked(reference, tenant, record, self._settings.max_bytes)
        with self._told():
            async with asyncio.timeout(self._settings.timeout_s):
                store = await self._beside(self._opened)
                try:
                    answer = await obstore.get_async(store, place.key)
                    self._check_size(answer.meta["size"], reference)
                    data = bytes(await answer.bytes_async())
                except (FileNotFoundError, GenericError) as error:
                    if not _is_missing(error):
                        raise
                    await self._beside(self._require_marker)
                    raise ObjectGone(where=reference.uri) from error
        return check_content(reference, data)

    async def write_async(self, place: Place, data: bytes) -> None:
        """Write the object atomically; writing the same bytes again changes nothing.

        Raises what :meth:`require_owner` does, before anything is written.
        """
        owner = None if self._owned else await asyncio.to_thread(self._owner)
        with self._told():
            async with asyncio.timeout(self._settings.timeout_s):
                if owner is not None:
                    await self._beside(partial(self._require, owner))
                    self._owned = True
                elif self._folder is not None:
                    # obstore would create the folders again below a mount point that lost its mount
                    await self._beside(self._require_marker)
                store = await self._beside(self._opened)
                await obstore.put_async(store, place.key, data)

    def begin(self) -> bool:
        """Mark the store as the owner's if it has no owner; return whether it had none.

        Only for the migration step: a stage that did this would accept an empty mount point as a store. If several
        processes do it at once, one wins. Raises :class:`ConfigurationError` if it has another owner.
        """
        owner = self._owner()
        with self._told():
            began = self._marker() is None and self._mark(owner)
        self.require_owner()
        return began

    def require_owner(self) -> None:
        """Raise :class:`ConfigurationError` if the store has another owner, :class:`DependencyDown` if unmarked."""
        self._require(self._owner())

    def _require(self, owner: dict[str, str]) -> None:
        found = self._require_marker()
        if found != owner:
            raise ConfigurationError(
                f"the object store belongs to another deployment: {json.dumps(found)}; this one is "
                f"{json.dumps(owner)}", where=self.url,
                remedy=f"Give each deployment its own location ({_VARIABLES}URL). If this deployment took over the "
                f"log of the other one, delete {MARKER} there and run `headrace bootstrap`.",
            )  # fmt: skip

    def _mark(self, owner: dict[str, str]) -> bool:
        """Write the marker; return False if another process wrote it first."""
        try:
            obstore.put(self._opened(), MARKER, json.dumps(owner, indent=1).encode(), mode="create")
        except AlreadyExistsError:
            return False
        return True

    def objects(self) -> Iterator[tuple[Place, int]]:
        """Yield each object's place and size in bytes, unordered; objects of other programs are skipped."""
        with self._told():
            for page in obstore.list(self._opened(), chunk_size=_PAGE):
                for meta in page:
                    place = parse(meta["path"])
                    if place is not None:
                        yield place, meta["size"]

    def delete(self, places: list[Place]) -> None:
        """Delete the objects; a missing object is not an error."""
        with self._told():
            try:
                obstore.delete(self._opened(), [place.key for place in places])
            except FileNotFoundError:
                for place in places:  # another process deleted some of them
                    self._delete_one(place)

    def _delete_one(self, place: Place) -> None:
        try:
            obstore.delete(self._opened(), place.key)
        except FileNotFoundError:
            return

    def unfinished(self, before: datetime) -> dict[Path, int]:
        """Return the unfinished files, with their sizes, that killed processes left in a folder before that time.

        A bucket has none.
        """
        found = {}
        for path in self._folder.glob("*/*/*#*") if self._folder is not None else ():
            ours = parse("/".join(path.parts[-3:]).partition("#")[0]) is not None
            with suppress(FileNotFoundError):  # finished meanwhile
                state = path.stat()
                if ours and state.st_mtime < before.timestamp():
                    found[path] = state.st_size
        return found

    async def _beside(self, work: Callable[[], T]) -> T:
        """Run work that may hang with the folder in the store's own thread, so that it blocks no other thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _opened(self) -> LocalStore | S3Store:
        if self._store is None:
            assert self._folder is not None
            if not self._folder.is_dir():
                raise DependencyDown(
                    DEPENDENCY, f"folder {self._folder} does not exist",
                    remedy=f"Create or mount it for every stage, or set {_VARIABLES}URL to another folder.",
                )  # fmt: skip
            self._store = LocalStore(self._folder, automatic_cleanup=True)
        return self._store

    def _check_size(self, size: int, reference: Reference) -> None:
        """Raise before reading if the object does not have the expected size."""
        if size != reference.size:
            raise ObjectDamaged(
                f"the object has {size} bytes, but the reference says {reference.size}", where=reference.uri
            )

    def _marker(self) -> Any:
        """Return the content of the marker, or None if there is none."""
        try:
            answer = obstore.get(self._opened(), MARKER)
        except FileNotFoundError:
            return None
        if answer.meta["size"] > _MARKER_BYTES:
            return "too long to read"
        try:
            return json.loads(bytes(answer.bytes()))
        except ValueError:
            return "unreadable"

    def _require_marker(self) -> Any:
        """Return the content of the marker; raises :class:`DependencyDown` if there is none."""
        with self._told():
            found = self._marker()
        if found is None:
            raise DependencyDown(
                DEPENDENCY, f"{self.url} does not contain {MARKER}, so it is not the object store of this deployment",
                remedy=f"Mount the folder, or set {_VARIABLES}URL to the right store. For a new store, run `headrace "
                f"bootstrap` once with {_VARIABLES}URL set.",
            )  # fmt: skip
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Convert obstore's exceptions into Headrace's."""
        try:
            yield
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise ConfigurationError(
                "the object store rejects the access key", where=self.url,
                remedy=f"Check {_VARIABLES}S3_… and the permissions on the bucket: list, read, write and delete.",
            ) from error  # fmt: skip
        except TimeoutError as error:
            raise DependencyDown(
                DEPENDENCY, f"the object store did not answer within {self._settings.timeout_s:g} s"
            ) from error
        except (BaseError, OSError) as error:
            said = " ".join(describe(error).partition("Debug source:")[0].split())[:300]
            raise DependencyDown(DEPENDENCY, f"cannot use the object store at {self.url}: {said}") from error


def _is_missing(error: Exception) -> bool:
    """Whether the object does not exist: nothing has its name, or a file has the name of its folder."""
    return isinstance(error, FileNotFoundError) or f"(os error {errno.ENOTDIR})" in str(error)


def store_of(settings: ObjectSettings, kafka: KafkaSettings) -> ObjectStore | None:
    """Return the configured store, which belongs to Kafka's cluster and the topic prefix; None if none is configured.

    Raises :class:`ConfigurationError`.
    """
    if settings.url is None:
        return None
    if settings.limit_bytes > kafka.max_message_bytes:
        raise ConfigurationError(
            f"{settings.limit_bytes} bytes exceed the maximum size of a record ({kafka.max_message_bytes})",
            where=f"{_VARIABLES}LIMIT_BYTES", remedy="Set it below HEADRACE_KAFKA_MAX_MESSAGE_BYTES.",
        )  # fmt: skip

    def owner() -> dict[str, str]:
        try:
            found = AdminClient({**kafka.client(), "log_level": 0}).list_topics(timeout=_CALL_S)
        except KafkaException as error:
            raise DependencyDown("kafka", f"Kafka at {kafka.bootstrap} does not answer: {error}") from error
        return {"kafka_cluster": str(found.cluster_id), "topic_prefix": kafka.topic_prefix}

    return ObjectStore(settings, owner)
