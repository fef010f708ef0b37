"""A batch of records apart from effects: its texts, which of them go on, and what becomes of each record."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.embeddings.preparation import NO_KEY, Prepared
from headrace.envelope import Context
from headrace.errors import HeadraceError, InvalidRecord, SetAside
from headrace.payloads import ChunkedDocument, EmbeddedDocument
from headrace_embedder.fairness import Asked, FairShare

MOST_LISTED = 50
"""Chunks that the metadata of a document name one by one."""
EMPTY = "empty"
Key = tuple[str, bytes]
"""Tenant, and hash of what is embedded."""


class Text(NamedTuple):
    """A text to embed: whose it is, its hash (16 bytes), the text, and the document that wanted it first."""

    tenant: str
    text_hash: bytes
    text: str
    document_id: str


class Ready(NamedTuple):
    """A record with its chunks as they are embedded, in their order."""

    context: Context
    prepared: Sequence[Prepared]

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.context.change.tenant


@dataclass(slots=True)
class Computed:
    """What became of the texts that were not known, by tenant and hash; ``skipped`` has reasons."""

    vectors: dict[Key, bytes] = field(default_factory=dict)
    errors: dict[Key, HeadraceError] = field(default_factory=dict)
    skipped: dict[Key, str] = field(default_factory=dict)
    cut: set[Key] = field(default_factory=set)
    split: set[Key] = field(default_factory=set)


def by_tenant(texts: Sequence[Text]) -> dict[str, set[bytes]]:
    """Return the hashes of the texts by tenant."""
    hashes: dict[str, set[bytes]] = {}
    for text in texts:
        hashes.setdefault(text.tenant, set()).add(text.text_hash)
    return hashes


def distinct_texts(batch: Sequence[Ready]) -> list[Text]:
    """Return every text of the batch that is to be embedded once for each tenant."""
    texts: dict[Key, Text] = {}
    for one in batch:
        for prepared in one.prepared:
            key = (one.tenant, prepared.key)
            if prepared.key and key not in texts:
                texts[key] = Text(*key, prepared.text, one.context.change.document_id)
    return list(texts.values())


def still_missing(batch: Sequence[Ready], missing: Sequence[Text], goes: Sequence[bool]) -> list[Text]:
    """Return what is missing for the records that go, each text with the first of them that wants it."""
    if all(goes):
        return list(missing)
    keys = {text[:2] for text in missing}
    return [text for text in distinct_texts(list(itertools.compress(batch, goes))) if text[:2] in keys]


def set_aside(batch: Sequence[Ready], missing: Sequence[Text], over: Mapping[str, SetAside]) -> list[SetAside | None]:
    """Return for each record why it waits for its tenant's cap; None where it goes on, as what costs nothing does."""
    keys = {text[:2] for text in missing if text.tenant in over}
    return [
        over[one.tenant] if any((one.tenant, prepared.key) in keys for prepared in one.prepared) else None
        for one in batch
    ]


def chosen(batch: Sequence[Ready], missing: Sequence[Text], fair: FairShare | None, *, read_again: bool) -> list[bool]:
    """Return for each record whether it goes now or is deferred; one whose texts are all known goes in any case.

    A text that several records share is counted with each, for the others may be told to stand back.
    """
    if fair is None:
        return [True] * len(batch)
    lacking = {text[:2]: text.text for text in missing}
    asked = []
    for one in batch:
        keys = dict.fromkeys((one.tenant, prepared.key) for prepared in one.prepared)
        own = [lacking[key] for key in keys if key in lacking]
        asked.append(Asked(one.tenant, fair.cost(own, len(missing))))
    return fair.choose(asked, read_again=read_again)


def embedded(
    one: Ready, computed: Computed, *, generation: str, model: str, dimensions: int
) -> Context | HeadraceError:
    """Return the document with its vectors, taken out of ``computed``: each travels once, with the first that has it.

    What has no vector by decision, or one of less than its text, is listed in the metadata.
    """
    document: ChunkedDocument = one.context.payload
    keys = [(one.tenant, prepared.key) for prepared in one.prepared]
    for ordinal, key in enumerate(keys):
        failure = computed.errors.get(key)
        if failure is not None:
            return InvalidRecord(f"chunks[{ordinal}].vector", failure.message, remedy=failure.remedy)
    own = {}
    for key in keys:
        vector = computed.vectors.pop(key, None)
        if vector is not None:
            own[key[1].hex()] = vector
    vector_keys = tuple(NO_KEY if key in computed.skipped else key[1] for key in keys)
    if vector_keys == tuple(chunk.text_hash for chunk in document.chunks):
        vector_keys = ()
    lists = listed(keys, computed)
    return one.context.with_payload(
        EmbeddedDocument(
            document.title, document.media_type, document.content_hash, document.source, document.attributes,
            document.acl, document.chunks, generation, model, dimensions, own,
            document.language, document.pages, vector_keys,
        )
    ).with_metadata("embedder", model=model, texts=len(document.chunks), embedded=len(own), **lists)  # fmt: skip


def listed(keys: Sequence[Key], computed: Computed) -> dict[str, str]:
    """Return, where there are any, the chunks that were skipped, cut and split: their numbers from 0, with reasons."""
    skipped = [
        f"{ordinal} ({computed.skipped.get(key, EMPTY)})"
        for ordinal, key in enumerate(keys)
        if key[1] == NO_KEY or key in computed.skipped
    ]
    cut = [str(ordinal) for ordinal, key in enumerate(keys) if key in computed.cut]
    split = [str(ordinal) for ordinal, key in enumerate(keys) if key in computed.split]
    return {name: _shown(ones) for name, ones in (("skipped", skipped), ("cut", cut), ("split", split)) if ones}


def _shown(ones: Sequence[str]) -> str:
    more = f", and {len(ones) - MOST_LISTED} more" if len(ones) > MOST_LISTED else ""
    return ", ".join(ones[:MOST_LISTED]) + more
