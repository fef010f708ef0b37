"""The handler ``sections``: a document into sections and chunks."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.preparation import text_hash
from headrace.envelope import Context
from headrace.errors import ConfigurationError, InvalidRecord
from headrace.handler import Handler
from headrace.payloads import Chunk, ChunkedDocument, SourceDocument
from headrace_chunker.identity import chunk_ids
from headrace_chunker.splitter import chunk


class ChunkerSettings(BaseSettings):
    """How the chunker splits."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_CHUNKER_", frozen=True)

    size: int = Field(500, ge=50, le=20_000, description="Most characters in a chunk.")
    overlap: int = Field(50, ge=0, description="Characters that a chunk shares with its predecessor, at most.")


class SectionsHandler(Handler):
    """Sections from headings first, then a recursive split; each chunk knows its section and its offsets."""

    name: ClassVar[str] = "sections"
    stage: ClassVar[str] = "chunker"
    consumes: ClassVar[type] = SourceDocument
    produces: ClassVar[type] = ChunkedDocument

    def __init__(self) -> None:
        self._settings = ChunkerSettings()
        if self._settings.overlap >= self._settings.size:
            raise ConfigurationError(
                f"an overlap of {self._settings.overlap} does not fit in chunks of {self._settings.size} characters",
                where="HEADRACE_CHUNKER_OVERLAP",
                remedy="Set it lower than HEADRACE_CHUNKER_SIZE.",
            )

    def validate(self, context: Context) -> None:
        """Refuse a record without a document."""
        if not isinstance(context.payload, SourceDocument):
            raise InvalidRecord("payload", "is missing; an upsert carries a document")

    async def process(self, context: Context) -> Context:
        """Return the document in chunks."""
        document: SourceDocument = context.payload
        change = context.change
        chunks = make_chunks(change.tenant, change.document_id, document, self._settings)
        payload = ChunkedDocument(
            document.title, document.media_type, document.content_hash, document.source, document.attributes,
            document.acl, chunks, document.language, document.pages,
        )  # fmt: skip
        return context.with_payload(payload).with_metadata("chunker", chunks=len(chunks))


def make_chunks(
    tenant: str, document_id: str, document: SourceDocument, settings: ChunkerSettings
) -> tuple[Chunk, ...]:
    """Return the document's chunks in the order of the text: a pure function of its arguments."""
    pieces = chunk(document.text, document.media_type, size=settings.size, overlap=settings.overlap)
    texts = [document.text[piece.start : piece.end] for piece in pieces]
    hashes = [text_hash(text) for text in texts]
    sections = [piece.section for piece in pieces]
    identities = chunk_ids(tenant, document_id, list(zip(sections, hashes, strict=True)))
    return tuple(
        Chunk(identity, piece.section, piece.start, piece.end, text, hashed)
        for identity, piece, text, hashed in zip(identities, pieces, texts, hashes, strict=True)
    )
