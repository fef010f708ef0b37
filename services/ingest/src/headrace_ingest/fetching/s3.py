"""Reads objects of allowed S3 buckets. The settings name the S3 service; a reference names bucket and key only."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError

from headrace.errors import ConfigurationError, TemporaryError, describe
from headrace.objects.s3 import bucket_store
from headrace_ingest.fetching.outcomes import (
    Fetched,
    ForbiddenReference,
    ReferenceGone,
    Unfetchable,
    check_encoding,
    media_type_of,
    too_large,
)
from headrace_ingest.fetching.references import Reference
from headrace_ingest.fetching.settings import FetchSettings

if TYPE_CHECKING:
    from obstore.store import S3Store

_CHUNK = 1024 * 1024
_NO_NAMES = frozenset({"", ".", ".."})


class Buckets:
    """Reads objects in the allowed buckets and bucket folders."""

    def __init__(self, settings: FetchSettings) -> None:
        self._limit = settings.max_bytes
        self._allowed: dict[str, list[str]] = {}
        for entry in (text.strip() for text in settings.buckets.split(",")):
            bucket, _, folder = entry.removeprefix("s3://").partition("/")
            if entry and not bucket:
                raise ConfigurationError(f"{entry!r} has no bucket name", where="HEADRACE_FETCH_BUCKETS")
            if bucket:
                self._allowed.setdefault(bucket, []).append(folder.strip("/"))
        self._stores = {name: bucket_store(name, settings, variables="HEADRACE_FETCH_") for name in self._allowed}

    async def fetch(self, reference: Reference) -> Fetched:
        """Return the object; raises the errors of :meth:`headrace_ingest.fetching.Fetcher.fetch`."""
        bucket, key = self._checked(reference)
        try:
            return await self._get(self._stores[bucket], key)
        except FileNotFoundError as error:
            raise ReferenceGone("the object or its bucket does not exist") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Unfetchable(
                "the S3 service rejected the access key",
                remedy="Check HEADRACE_FETCH_S3_… and the permissions on the bucket, then run `headrace dlq redrive`.",
            ) from error
        except InvalidPathError as error:
            raise ForbiddenReference("its key is not a valid S3 key") from error
        except (BaseError, OSError) as error:
            raise TemporaryError(
                f"cannot read from the S3 service: {' '.join(describe(error).split())[:300]}"
            ) from error

    def _checked(self, reference: Reference) -> tuple[str, str]:
        bucket, key = reference.authority, reference.path.removeprefix("/")
        if reference.query or reference.fragment:
            raise ForbiddenReference("its key must not contain ? or #")
        if not _NO_NAMES.isdisjoint(unquote(key).split("/")):
            raise ForbiddenReference("its key must not contain an empty part, '.' or '..'")
        folders = self._allowed.get(bucket, [])
        if not any(not folder or key.startswith(f"{folder}/") for folder in folders):
            raise ForbiddenReference("its bucket and key are not in HEADRACE_FETCH_BUCKETS")
        return bucket, key

    async def _get(self, store: S3Store, key: str) -> Fetched:
        limit = self._limit
        answer = await obstore.get_async(store, key)
        if answer.meta["size"] > limit:
            raise too_large(answer.meta["size"], limit)
        check_encoding(answer.attributes.get("Content-Encoding", ""))
        data = bytearray()
        async for part in answer.stream(min_chunk_size=_CHUNK):
            data += part
            if len(data) > limit:
                raise too_large(None, limit)
        return Fetched(bytes(data), *media_type_of(answer.attributes.get("Content-Type")))
