"""The handler ``change-event``: an upserted document as the stages after this one take it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from headrace.envelope import Context
from headrace.errors import InvalidRecord
from headrace.handler import Handler
from headrace.payloads import ChangeEvent, SourceDocument
from headrace_ingest.files.kinds import by_ending
from headrace_ingest.language import Detect, detector
from headrace_ingest.settings import IngestSettings


class ChangeEventHandler(Handler):
    """Takes the document out of the event; its text stays as it was sent, so that offsets fit the source."""

    name: ClassVar[str] = "change-event"
    stage: ClassVar[str] = "ingest"
    consumes: ClassVar[type] = ChangeEvent
    produces: ClassVar[type] = SourceDocument

    def validate(self, context: Context) -> None:
        """Refuse an upsert without text."""
        if not isinstance(context.payload, ChangeEvent) or context.payload.content is None:
            raise InvalidRecord("content", "is missing", remedy="An upsert carries the document's whole text.")

    def __init__(self) -> None:
        self._wanted = IngestSettings().detect_language
        self._detect: Detect | None = None

    async def start(self) -> None:
        """Load what tells languages, where that is wanted; raises :class:`headrace.errors.ConfigurationError`."""
        if self._wanted:
            self._detect = await asyncio.to_thread(detector)

    async def process(self, context: Context) -> Context:
        """Return the context with the source document."""
        document = source_document(context.change.document_id, context.payload)
        if self._detect is not None and not document.language:
            # Not part of the hash: another release of the table must not make another content of the same version.
            language = self._detect(document.text)
            if language is not None:
                found = context.with_payload(replace(document, language=language))
                return found.with_metadata(self.stage, language="detected")
        return context.with_payload(document)


def source_document(document_id: str, event: ChangeEvent) -> SourceDocument:
    """Return the document of an upsert: a pure function of the event."""
    media_type = event.media_type or by_ending(document_id)
    title, text = event.title or "", event.content or ""
    digest = content_hash(
        title, text, media_type, event.source, event.attributes, event.acl, event.language, event.pages
    )
    return SourceDocument(
        title, text, media_type, digest, event.source, dict(event.attributes), event.acl, event.language, event.pages
    )


def content_hash(
    title: str,
    text: str,
    media_type: str,
    source: str | None,
    attributes: Mapping[str, str],
    acl: tuple[str, ...],
    language: str | None = None,
    pages: tuple[int, ...] = (),
) -> bytes:
    """Return the BLAKE2b-128 of everything that a change can change, each part with its length before it."""
    hasher = hashlib.blake2b(digest_size=16, person=b"headrace.content")
    pairs = [part for name in sorted(attributes) for part in (name, attributes[name])]
    more = (language or "", str(len(pages)), *map(str, pages)) if language or pages else ()
    for part in (title, text, media_type, source or "", str(len(pairs)), *pairs, *more, *acl):
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.digest()
