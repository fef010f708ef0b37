"""Opens an S3 bucket from settings, in one place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from obstore.exceptions import BaseError
from obstore.store import S3Store
from pydantic import SecretStr

from headrace.errors import ConfigurationError, describe

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential


class S3Access(Protocol):
    """Settings of an S3 service; for None, AWS's own variables or the role of workload or machine apply."""

    @property
    def s3_endpoint(self) -> str | None:
        """URL of the service."""

    @property
    def s3_region(self) -> str | None:
        """Region of the buckets."""

    @property
    def s3_access_key_id(self) -> SecretStr | None:
        """Access key."""

    @property
    def s3_secret_access_key(self) -> SecretStr | None:
        """Its secret."""

    @property
    def s3_allow_http(self) -> bool:
        """Whether to allow connections without TLS."""

    @property
    def ca_file(self) -> Path | None:
        """PEM file with additional CA certificates."""

    @property
    def timeout_s(self) -> float:
        """Maximum seconds of a request."""

    @property
    def connect_timeout_s(self) -> float:
        """Maximum seconds to open a connection."""


def bucket_store(bucket: str, access: S3Access, *, variables: str, folder: str = "", retries: int = 0) -> S3Store:
    """Return the bucket, or the folder in it; settings override AWS's own variables.

    ``variables`` is the prefix of the settings, for errors. Raises :class:`ConfigurationError`.
    """
    config: S3Config = {"bucket": bucket}
    if access.s3_endpoint is not None:
        config["endpoint"] = config["aws_endpoint_url_s3"] = access.s3_endpoint
    if access.s3_region is not None:
        config["region"] = access.s3_region
    client: ClientConfig = {
        "timeout": timedelta(seconds=access.timeout_s),
        "connect_timeout": timedelta(seconds=access.connect_timeout_s),
        "allow_http": access.s3_allow_http,
    }
    try:
        if access.ca_file is not None:
            client["root_certificate"] = access.ca_file.read_bytes()
        return S3Store(
            config=config, prefix=folder or None, client_options=client, retry_config={"max_retries": retries},
            credential_provider=_credentials(access, variables),
        )  # fmt: skip
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot use the bucket {bucket!r} with these settings: {describe(error)}",
            where=f"{variables}S3_…", remedy="Check them.",
        ) from error  # fmt: skip


def _credentials(access: S3Access, variables: str) -> Callable[[], S3Credential] | None:
    """Return a provider of the access key, so that AWS's own variables add no token; None if no key is set."""
    key_id, secret = access.s3_access_key_id, access.s3_secret_access_key
    if (key_id is None) != (secret is None):
        raise ConfigurationError(
            "an access key for S3 needs an ID and a secret, but only one of them is set",
            where=f"{variables}S3_ACCESS_KEY_ID, {variables}S3_SECRET_ACCESS_KEY", remedy="Set both or neither.",
        )  # fmt: skip
    if key_id is None or secret is None:
        return None
    credential: S3Credential = {
        "access_key_id": key_id.get_secret_value(), "secret_access_key": secret.get_secret_value(), "expires_at": None,
    }  # fmt: skip
    return lambda: credential
