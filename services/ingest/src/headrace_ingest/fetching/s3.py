"""Objects of allowed S3 buckets. Where the service is, the settings say: a reference names bucket and key only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote

import obstore
from obstore.exceptions import BaseError, InvalidPathError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from headrace.errors import ConfigurationError, TemporaryError, describe
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
    from obstore.store import ClientConfig, S3Config, S3Credential

_CHUNK = 1024 * 1024
_NO_NAMES = frozenset({"", ".", ".."})


class Buckets:
    """Reads objects below the allowed buckets and folders of them."""

    def __init__(self, settings: FetchSettings) -> None:
        self._limit = settings.max_bytes
        self._allowed: dict[str, list[str]] = {}
        for entry in (text.strip() for text in settings.buckets.split(",")):
            bucket, _, folder = entry.removeprefix("s3://").partition("/")
            if entry and not bucket:
                raise ConfigurationError(f"{entry!r} names no bucket", where="HEADRACE_FETCH_BUCKETS")
            if bucket:
                self._allowed.setdefault(bucket, []).append(folder.strip("/"))
        self._stores = {bucket: _store(bucket, settings) for bucket in self._allowed}

    async def fetch(self, reference: Reference) -> Fetched:
        """Return the object; raises what :meth:`headrace_ingest.fetching.Fetcher.fetch` does."""
        bucket, key = self._checked(reference)
        try:
            return await self._get(self._stores[bucket], key)
        except FileNotFoundError as error:
            raise ReferenceGone("there is no such object, or no such bucket") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise Unfetchable(
                "the S3 service refuses the access key",
                remedy="Check HEADRACE_FETCH_S3_… and the rights on the bucket; then `headrace dlq redrive`.",
            ) from error
        except InvalidPathError as error:
            raise ForbiddenReference("its key is none that S3 can be asked for") from error
        except (BaseError, OSError) as error:
            raise TemporaryError(
                f"the S3 service cannot be read from: {' '.join(describe(error).split())[:300]}"
            ) from error

    def _checked(self, reference: Reference) -> tuple[str, str]:
        bucket, key = reference.authority, reference.path.removeprefix("/")
        if reference.query or reference.fragment:
            raise ForbiddenReference("a key with ? or # is not read")
        if not _NO_NAMES.isdisjoint(unquote(key).split("/")):
            raise ForbiddenReference("its key has an empty part, or . or .. as one")
        folders = self._allowed.get(bucket, [])
        if not any(not folder or key.startswith(f"{folder}/") for folder in folders):
            raise ForbiddenReference("bucket and key are not in HEADRACE_FETCH_BUCKETS")
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


def _credentials(settings: FetchSettings) -> Callable[[], S3Credential] | None:
    """Return what gives the access key, so that AWS's own variables add no token to it; None where none is set."""
    key_id, secret = settings.s3_access_key_id, settings.s3_secret_access_key
    if (key_id is None) != (secret is None):
        raise ConfigurationError(
            "an access key for S3 has an id and a secret; one of them is missing",
            where="HEADRACE_FETCH_S3_ACCESS_KEY_ID, HEADRACE_FETCH_S3_SECRET_ACCESS_KEY", remedy="Set both or none.",
        )  # fmt: skip
    if key_id is None or secret is None:
        return None
    credential: S3Credential = {
        "access_key_id": key_id.get_secret_value(), "secret_access_key": secret.get_secret_value(), "expires_at": None,
    }  # fmt: skip
    return lambda: credential


def _store(bucket: str, settings: FetchSettings) -> S3Store:
    """Return the store; raises :class:`ConfigurationError`. What is set here goes before AWS's own variables."""
    config: S3Config = {"bucket": bucket}
    if settings.s3_endpoint is not None:
        config["endpoint"] = config["aws_endpoint_url_s3"] = settings.s3_endpoint
    if settings.s3_region is not None:
        config["region"] = settings.s3_region
    client: ClientConfig = {
        "timeout": timedelta(seconds=settings.timeout_s),
        "connect_timeout": timedelta(seconds=settings.connect_timeout_s),
        "allow_http": settings.s3_allow_http,
    }
    try:
        if settings.ca_file is not None:
            client["root_certificate"] = settings.ca_file.read_bytes()
        return S3Store(
            config=config, client_options=client, retry_config={"max_retries": 0},
            credential_provider=_credentials(settings),
        )  # fmt: skip
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"the bucket {bucket!r} cannot be read with these settings: {describe(error)}",
            where="HEADRACE_FETCH_BUCKETS, HEADRACE_FETCH_S3_…", remedy="Check them.",
        ) from error  # fmt: skip
