"""The handler ``change-event``: converts an upsert to the source document for the next stages."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from typing import ClassVar

from headrace.envelope import Context
from headrace.errors import InvalidRecord
from headrace.handler import Handler
from headrace.payloads import ChangeEvent, DocumentFacts, SourceDocument
from headrace_ingest.files.kinds import by_ending
from headrace_ingest.language import Detect, detector
from headrace_ingest.settings import IngestSettings


class ChangeEventHandler(Handler[ChangeEvent, SourceDocument]):
    """Takes the document from the event. The text stays as sent, so offsets match the source."""

    name: ClassVar[str] = "change-event"
    stage: ClassVar[str] = "ingest"

    def validate(self, context: Context[ChangeEvent]) -> None:
        """Reject an upsert without text."""
        if context.payload.content is None:
            raise InvalidRecord("content", "is missing", remedy="Send the document's whole text.")

    def __init__(self) -> None:
        self._wanted = IngestSettings().detect_language
        self._detect: Detect | None = None

    async def start(self) -> None:
        """Load the language detector if the setting is on; raises :class:`headrace.errors.ConfigurationError`."""
        if self._wanted:
            self._detect = await asyncio.to_thread(detector)

    async def process(self, context: Context[ChangeEvent]) -> Context[SourceDocument]:
        """Return the context with the source document."""
        document = source_document(context.change.document_id, context.payload)
        if self._detect is not None and not document.facts.language:
            # Not part of the hash: another release of the table must not change the content hash of the same version.
            language = self._detect(document.text)
            if language is not None:
                found = context.with_payload(replace(document, facts=replace(document.facts, language=language)))
                return found.with_metadata(self.stage, language="detected")
        return context.with_payload(document)


def source_document(document_id: str, event: ChangeEvent) -> SourceDocument:
    """Return the document of an upsert; pure."""
    text = event.content or ""
    facts = DocumentFacts(
        title=event.title or "",
        media_type=event.media_type or by_ending(document_id),
        content_hash=b"",
        source=event.source,
        attributes=dict(event.attributes),
        acl=event.acl,
        language=event.language,
        pages=event.pages,
    )
    return SourceDocument(replace(facts, content_hash=content_hash(facts, text)), text)


def content_hash(facts: DocumentFacts, text: str) -> bytes:
    """Return the BLAKE2b-128 hash of everything that a change can change, each part prefixed with its length.

    It does not include the ``content_hash`` in ``facts``.
    """
    hasher = hashlib.blake2b(digest_size=16, person=b"headrace.content")
    attributes, pages = facts.attributes, facts.pages
    pairs = [part for name in sorted(attributes) for part in (name, attributes[name])]
    more = (facts.language or "", str(len(pages)), *map(str, pages)) if facts.language or pages else ()
    stated = (facts.title, text, facts.media_type, facts.source or "")
    for part in (*stated, str(len(pairs)), *pairs, *more, *facts.acl):
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.digest()
