"""Settings of ingest."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class IngestSettings(BaseSettings):
    """Bounds of what upstream may send."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_INGEST_", frozen=True)

    max_event_bytes: int = Field(
        8 * 1024 * 1024, ge=1, description="Largest change event, in bytes as it was sent; larger ones are not read."
    )
    max_content_bytes: int = Field(4 * 1024 * 1024, ge=1, description="Largest text of a document, in bytes of UTF-8.")
    max_attributes: int = Field(64, ge=0, description="Most attributes of a document.")
    max_attribute_characters: int = Field(4096, ge=1, description="Longest value of an attribute, and longest title.")
    mask: str = Field(
        "email,resident-number,card,passport,address,phone",
        description="Kinds of personal data that are masked in title, text and attributes before anything is "
        "published, with commas between; empty masks nothing.",
    )
    mask_key: SecretStr | None = Field(
        None,
        description="Secret from which placeholders are made, so that nobody can try out which value one stands for; "
        "a change gives every masked document other placeholders.",
    )
    mask_patterns: Path | None = Field(
        None, description="YAML file of own patterns, name: pattern (RE2), masked besides; same on every worker."
    )
    tables: Path | None = Field(
        None,
        description="YAML file that says what becomes of the rows that Debezium captures; same on every worker.",
    )
    max_file_bytes: int = Field(64 * 1024 * 1024, ge=1, description="Largest file that is read for its text, in bytes.")
    file_timeout_s: float = Field(
        30.0, gt=0, le=600, description="Longest time that reading one file takes, in seconds."
    )
    file_memory_mib: int = Field(
        1024, ge=640, description="Most memory (address space, of which 512 MiB are taken at once) of reading a file."
    )
    file_max_pages: int = Field(2000, ge=1, description="Most pages of a PDF.")
    detect_language: bool = Field(
        False,
        description="Whether the language of a text that names none is told from its first 2,000 characters, where it "
        "is certain; needs the extra language and 120 MB of memory.",
    )
    default_pipeline: str = Field("default", description="Pipeline of change events that name none.")
