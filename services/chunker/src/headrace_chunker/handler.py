"""The handler ``sections``: splits a document into sections and chunks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.preparation import text_hash
from headrace.envelope import Context
from headrace.errors import ConfigurationError
from headrace.handler import Handler
from headrace.payloads import Chunk, ChunkedDocument, SourceDocument
from headrace_chunker.identity import chunk_ids
from headrace_chunker.splitter import chunk


class ChunkerSettings(BaseSettings):
    """Chunk size and overlap."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_CHUNKER_", frozen=True)

    size: int = Field(500, ge=50, le=20_000, description="Maximum characters in a chunk.")
    overlap: int = Field(50, ge=0, description="Maximum characters that a chunk shares with the previous one.")


class SectionsHandler(Handler[SourceDocument, ChunkedDocument]):
    """Finds sections by their headings, then splits each recursively. Each chunk records its section and offsets."""

    name: ClassVar[str] = "sections"
    stage: ClassVar[str] = "chunker"

    def __init__(self) -> None:
        self._settings = ChunkerSettings()
        if self._settings.overlap >= self._settings.size:
            raise ConfigurationError(
                f"invalid overlap {self._settings.overlap}: it must be less than the chunk size {self._settings.size}",
                where="HEADRACE_CHUNKER_OVERLAP",
                remedy="Lower it, or raise HEADRACE_CHUNKER_SIZE.",
            )

    async def process(self, context: Context[SourceDocument]) -> Context[ChunkedDocument]:
        """Return the document split into chunks."""
        document, change = context.payload, context.change
        chunks = make_chunks(change.tenant, change.document_id, document, self._settings)
        payload = ChunkedDocument(document.facts, chunks)
        return context.with_payload(payload).with_metadata("chunker", chunks=len(chunks))


def make_chunks(
    tenant: str, document_id: str, document: SourceDocument, settings: ChunkerSettings
) -> tuple[Chunk, ...]:
    """Return the document's chunks in text order; pure."""
    pieces = chunk(document.text, document.facts.media_type, size=settings.size, overlap=settings.overlap)
    texts = [document.text[piece.start : piece.end] for piece in pieces]
    hashes = [text_hash(text) for text in texts]
    sections = [piece.section for piece in pieces]
    identities = chunk_ids(tenant, document_id, list(zip(sections, hashes, strict=True)))
    return tuple(
        Chunk(identity, piece.section, piece.start, piece.end, text, hashed)
        for identity, piece, text, hashed in zip(identities, pieces, texts, hashes, strict=True)
    )
