"""Settings of fetching: all that may be reached is named here, and by default that is nothing."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class FetchSettings(BaseSettings):
    """Places that a reference may name, and bounds of what is fetched."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_FETCH_", frozen=True)

    hosts: str = Field(
        "",
        description="Hosts that may be fetched from by https, with commas between: `docs.example.org`, "
        "`*.example.org` for all below it, `docs.example.org:8443` for another port. Empty: none.",
    )
    plain_http: bool = Field(False, description="Whether http is allowed besides https, for the same hosts.")
    internal: str = Field(
        "",
        description="Networks that may be reached though they are not public, with commas between: `10.1.0.0/16`. "
        "Empty: none.",
    )
    ca_file: Path | None = Field(
        None, description="PEM file of further certificate authorities, for https and S3; the public ones stay trusted."
    )
    buckets: str = Field(
        "", description="S3 buckets that may be read, with commas between: `bucket` or `bucket/folder`. Empty: none."
    )
    s3_endpoint: str | None = Field(None, description="URL of the S3 service; unset: that of AWS in the region.")
    s3_region: str | None = Field(None, description="Region of the buckets; unset: AWS_REGION, or us-east-1.")
    s3_access_key_id: SecretStr | None = Field(
        None,
        description="Access key for S3; unset: what AWS's own variables, the workload's or the machine's role give.",
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret of the access key.")
    s3_allow_http: bool = Field(False, description="Whether the S3 service may be reached without TLS.")
    folders: str = Field(
        "", description="Folders below which file:// may be read, with commas or colons between. Empty: none."
    )
    max_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Largest file; reading stops behind it.")
    timeout_s: float = Field(30.0, gt=0, description="Longest fetch, redirects and body included, in seconds.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for one connection, in seconds.")
    max_redirects: int = Field(5, ge=0, description="Most redirects that one reference may take.")
