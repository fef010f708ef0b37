"""Settings of ingest."""

from __future__ import annotations

from pydantic import Field
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
    default_pipeline: str = Field("default", description="Pipeline of change events that name none.")
