"""Settings for fetching. They list everything that ingest may reach; by default, nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class FetchSettings(BaseSettings):
    """Locations that ingest may fetch from, and limits on each fetch."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_FETCH_", frozen=True)

    hosts: str = Field(
        "",
        description="Hosts to fetch from by https, separated by commas: `docs.example.org`, `*.example.org` for all "
        "subdomains, `docs.example.org:8443` for another port. Empty: none.",
    )
    plain_http: bool = Field(False, description="Allow http as well as https, for the same hosts.")
    internal: str = Field(
        "",
        description="Networks that ingest may reach although they are not public, separated by commas: `10.1.0.0/16`. "
        "Empty: none.",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of additional certificate authorities for https and S3. Public ones stay trusted."
    )
    buckets: str = Field(
        "",
        description="S3 buckets that ingest may read, separated by commas: `bucket` or `bucket/folder`. Empty: none.",
    )
    s3_endpoint: str | None = Field(None, description="URL of the S3 service. Unset: AWS in the region.")
    s3_region: str | None = Field(None, description="Region of the buckets. Unset: AWS_REGION, or us-east-1.")
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key for S3. Unset: AWS's own variables, or the role of the workload or machine.",
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret for the access key.")
    s3_allow_http: bool = Field(False, description="Allow access to the S3 service without TLS.")
    folders: str = Field(
        "", description="Folders whose files ingest may read by file://, separated by commas or colons. Empty: none."
    )
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Maximum size of a fetched file, in bytes.")
    timeout_s: float = Field(30.0, gt=0, description="Maximum time for one fetch with redirects and body, in seconds.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Maximum wait for one connection, in seconds.")
    max_redirects: int = Field(5, ge=0, description="Maximum redirects to follow for one reference.")
