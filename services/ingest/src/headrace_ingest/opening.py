"""The handler that runs before every pipeline's handlers: replaces a change event's file by its masked text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import ClassVar

import structlog

from headrace.envelope import Context, MetadataValue
from headrace.errors import Deferred, DependencyDown, HeadraceError, InvalidRecord, PermanentError
from headrace.handler import BatchHandler
from headrace.payloads import ChangeEvent
from headrace_ingest.fetching import Fetcher, FetchSettings
from headrace_ingest.fetching.outcomes import shown
from headrace_ingest.files import kinds
from headrace_ingest.files.blocks import Parsed
from headrace_ingest.files.reader import Limits, Reader
from headrace_ingest.masking import make_masker
from headrace_ingest.settings import IngestSettings

log = structlog.get_logger(__name__)

_AT_ONCE = 4
"""Files to fetch and keep in memory at the same time; limits the memory."""
_BATCH_S = 30.0
_BATCH_CHARACTERS = 16 * 1024 * 1024
"""A batch with this many characters opens no more files; a later batch opens them."""
_WIDEST = 4
"""Maximum bytes per character in any encoding, for a character that has one byte in UTF-8."""


@dataclass(frozen=True, slots=True)
class File:
    """A document's file: its bytes, the stated media type and charset, and the location it was fetched from."""

    data: bytes
    media_type: str | None
    charset: str | None
    place: str | None = None


@dataclass(slots=True)
class _Batch:
    """Limits one batch in characters of text and in time, because its records wait for each other."""

    until: float
    characters: int = 0
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    def is_full(self) -> bool:
        return self.characters > _BATCH_CHARACTERS or time.monotonic() > self.until


class OpenFile(BatchHandler[ChangeEvent, ChangeEvent]):
    """Puts the text of a file in the event's content. Events that carry their text pass unchanged.

    Pipeline templates neither name this handler nor leave it out, so the handlers after it see masked text only. The
    constructor raises :class:`headrace.errors.ConfigurationError` for invalid settings.
    """

    name: ClassVar[str] = "open-file"
    stage: ClassVar[str] = "ingest"

    def __init__(self) -> None:
        self._settings = IngestSettings()
        self._masker = make_masker(self._settings)
        self._fetcher = Fetcher(FetchSettings())
        self._reader = Reader(
            Limits(
                self._settings.file_memory_mib, self._settings.file_timeout_s, self._settings.file_max_pages,
                self._settings.max_content_bytes,
            )
        )  # fmt: skip

    async def close(self) -> None:
        """End the file reader and close the connections."""
        await self._reader.close()
        await self._fetcher.close()

    async def process_batch(
        self, contexts: Sequence[Context[ChangeEvent]]
    ) -> Sequence[Context[ChangeEvent] | HeadraceError]:
        """Return each context with its text, or the error."""
        batch = _Batch(time.monotonic() + _BATCH_S)
        outcomes = await asyncio.gather(*(self._outcome(context, batch) for context in contexts))
        for outcome in outcomes:
            if isinstance(outcome, DependencyDown):
                raise outcome
        return outcomes

    async def _outcome(self, context: Context[ChangeEvent], batch: _Batch) -> Context[ChangeEvent] | HeadraceError:
        event = context.payload
        if event.data is None and event.reference is None and event.media_type not in kinds.PARSED:
            return context
        try:
            async with batch.turn:
                if batch.is_full():
                    return Deferred("the batch reached its limit of text or time; a later batch opens this file")
                opened = await self._opened(context, await self._file(event))
                batch.characters += len(opened.payload.content or "")
                return opened
        except HeadraceError as error:
            return error
        except Exception as error:  # raising it would split the batch and read all files again
            log.exception("cannot open file", document=event.document_id)
            failure = PermanentError(f"cannot open the file: {type(error).__name__}: {error}")
            failure.__cause__ = error
            return failure

    async def _file(self, event: ChangeEvent) -> File:
        """Return the event's file."""
        stated, charset = kinds.canonical(event.media_type)
        if event.data is not None:
            return File(event.data, stated, charset)
        if event.reference is None:
            return File((event.content or "").encode(), stated, "utf-8")
        fetched = await self._fetcher.fetch(event.reference)
        served, _ = kinds.canonical(fetched.media_type)
        if served == kinds.PLAIN:  # servers send this type for every unknown text
            served = None
        return File(fetched.data, stated or served, charset or fetched.charset, shown(event.reference))

    async def _opened(self, context: Context[ChangeEvent], file: File) -> Context[ChangeEvent]:
        event = context.payload
        if len(file.data) > self._settings.max_file_bytes:
            raise InvalidRecord(
                "data", f"has {len(file.data)} bytes; the limit is {self._settings.max_file_bytes}",
                remedy="Split the document, or raise HEADRACE_INGEST_MAX_FILE_BYTES.",
            )  # fmt: skip
        name = context.change.document_id
        kind, parsed = await self._parsed(file, name if PurePosixPath(name).suffix else file.place or name)
        self._check_text(len(parsed.text.encode()))
        title = None if event.title else parsed.title[: self._settings.max_attribute_characters]
        found = ChangeEvent(
            event.tenant, event.document_id, event.operation, title=title, content=parsed.text, pages=parsed.pages
        )
        masked, counts = self._masker.event(found)
        opened = replace(
            event, title=event.title or masked.title, content=masked.content, media_type=kind, data=None,
            reference=None, language=event.language or parsed.language, pages=masked.pages,
            source=event.source or file.place,
        )  # fmt: skip
        facts: dict[str, MetadataValue] = {"file.kind": kind, "file.bytes": len(file.data)}
        if file.place is not None:
            facts["file.reference"] = file.place
        masked_counts = {f"file.masked.{name}": count for name, count in counts.items()}
        return context.with_payload(opened).with_metadata(self.stage, **facts, **masked_counts)

    async def _parsed(self, file: File, name: str) -> tuple[str, Parsed]:
        """Return the file's kind and contents; plain text stays unchanged."""
        kind = kinds.kind_of(file.data, file.media_type, name, file.charset)
        if kind not in kinds.TEXTS:
            return kind, _storable(await self._reader.read(file.data, kind, file.charset))
        self._check_text(len(file.data) // _WIDEST)
        text = kinds.decode(file.data, file.charset)
        if "\x00" in text:
            raise InvalidRecord("data", f"contains a NUL character at position {text.index(chr(0))}; remove it")
        return kind, Parsed("", text)

    def _check_text(self, size: int) -> None:
        """Reject a text above the limit. ``size`` is its length in bytes of UTF-8, or a lower bound."""
        if size > self._settings.max_content_bytes:
            raise InvalidRecord(
                "content", f"the file's text has {size} bytes; the limit is {self._settings.max_content_bytes}",
                remedy="Split the document, or raise HEADRACE_INGEST_MAX_CONTENT_BYTES.",
            )  # fmt: skip


def _storable(parsed: Parsed) -> Parsed:
    """Return the contents without NUL characters, which some PDFs contain in place of unnamed letters."""
    return replace(parsed, title=parsed.title.replace("\x00", "\ufffd"), text=parsed.text.replace("\x00", "\ufffd"))
