"""Settings for ingest."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class IngestSettings(BaseSettings):
    """Limits of change events and files, masking, and defaults."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_INGEST_", frozen=True)

    max_event_bytes: int = Field(
        8 * 1024 * 1024,
        ge=1,
        description="Maximum size of a change event as sent, in bytes. Larger events are not read.",
    )
    max_content_bytes: int = Field(
        4 * 1024 * 1024, ge=1, description="Maximum size of a document's text, in bytes of UTF-8."
    )
    max_attributes: int = Field(64, ge=0, description="Maximum number of attributes per document.")
    max_attribute_characters: int = Field(
        4096, ge=1, description="Maximum characters in an attribute's value, title or source."
    )
    mask: str = Field(
        "email,resident-number,card,passport,address,phone",
        description="Kinds of personal data to mask in title, text and attributes before publishing, separated by "
        "commas. Empty: none.",
    )
    mask_key: SecretStr | None = Field(
        None,
        description="Secret for the placeholders, so that outsiders cannot guess masked values by trying candidates. "
        "Changing it changes the placeholders of every masked document.",
    )
    mask_patterns: Path | None = Field(
        None,
        description="YAML file of additional patterns to mask, as name: pattern (RE2). Must be the same on every "
        "worker.",
    )
    tables: Path | None = Field(
        None,
        description="YAML file that maps rows captured by Debezium to documents. Must be the same on every worker.",
    )
    max_file_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Maximum size of a file to read, in bytes.")
    file_timeout_s: float = Field(30.0, gt=0, le=600, description="Maximum time to read one file, in seconds.")
    file_memory_mib: int = Field(
        1024,
        ge=640,
        description="Maximum address space for reading a file, in MiB. Reading takes 512 MiB from the start.",
    )
    file_max_pages: int = Field(2000, ge=1, description="Maximum number of pages in a PDF.")
    detect_language: bool = Field(
        False,
        description="Detect the language of texts that state none, from the first 2,000 characters. An uncertain "
        "result is not used. Requires headrace-ingest[language] and 120 MB of memory.",
    )
    default_pipeline: str = Field("default", description="Pipeline for change events that name none.")
