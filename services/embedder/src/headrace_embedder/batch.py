"""A batch of documents, without side effects: its texts, the admitted documents, and the vectors to send with each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from headrace.embeddings.models import unread_language
from headrace.embeddings.preparation import NO_KEY, Prepared
from headrace.envelope import Context
from headrace.errors import Deferred, HeadraceError, HoldRecord, InvalidRecord
from headrace.payloads import ChunkedDocument, EmbeddedDocument
from headrace_embedder.fairness import Asked, FairShare

MOST_LISTED = 50
"""Maximum number of chunks that a document's metadata lists individually."""
EMPTY = "empty"
Key = tuple[str, bytes]
"""Tenant, and hash of the prepared text."""


UNREAD = "embedder.unread_language"
"""The metadata key of the language of a document that the model does not know."""


class Text(NamedTuple):
    """A text to embed: its tenant, its hash (16 bytes), the text, and the first document that contains it."""

    tenant: str
    text_hash: bytes
    text: str
    document_id: str

    @property
    def key(self) -> Key:
        """Its tenant and hash."""
        return (self.tenant, self.text_hash)


@dataclass(slots=True)
class Document:
    """A record with its prepared texts in the order of its chunks; it is active until it has a ``refusal``."""

    context: Context[ChunkedDocument]
    prepared: Sequence[Prepared]
    refusal: HeadraceError | None = None
    """Why it gets no vectors now: held (:class:`HoldRecord`), deferred (:class:`Deferred`) or dead-lettered."""

    @property
    def tenant(self) -> str:
        """The document's tenant."""
        return self.context.change.tenant

    @property
    def keys(self) -> list[Key]:
        """The key of each chunk; the hash is :data:`NO_KEY` for an empty text."""
        return [(self.tenant, prepared.key) for prepared in self.prepared]


@dataclass(slots=True)
class Computed:
    """The outcome of the texts that were not known, by tenant and hash; ``skipped`` has the reasons."""

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


class EmbeddingBatch:
    """The documents of a batch, and what is known about their texts.

    A text is *missing* until it is cached, shared or skipped, or until no active document contains it. The texts that
    are missing at the end are embedded. A document is active until it is held or deferred::

        cached -> share -> skip -> hold -> admit -> results
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self._texts = self._distinct()
        self._cached: set[Key] = set()
        self._shared_vectors: dict[Key, bytes] = {}
        self._skipped: dict[Key, str] = {}

    def missing(self) -> list[Text]:
        """Return the texts to embed, once per tenant, each with the first active document that contains it."""
        answered = self._cached | self._shared_vectors.keys() | self._skipped.keys()
        return [text for key, text in self._texts.items() if key not in answered]

    def cached(self, keys: Collection[Key]) -> None:
        """Note texts whose vectors are in their tenant's cache, where the indexer finds them."""
        self._cached.update(keys)

    def share(self, vectors: Mapping[Key, bytes]) -> None:
        """Note vectors that other tenants paid for; they are sent as if they were computed here."""
        self._shared_vectors.update(vectors)

    def skip(self, reasons: Mapping[Key, str]) -> None:
        """Note texts that get no vector by design, with the reason."""
        self._skipped.update(reasons)

    def hold(self, over: Mapping[str, HoldRecord]) -> None:
        """Hold the documents of tenants over their cap, except those that cost nothing."""
        if not over:
            return
        costly = {text.key for text in self.missing() if text.tenant in over}
        for document in self._going():
            if not costly.isdisjoint(document.keys):
                document.refusal = over[document.tenant]
        self._texts = self._distinct()

    def admit(self, fair: FairShare | None, *, read_again: bool) -> int:
        """Defer the documents that have to give way to others, and return their number.

        A document whose texts are all known is never deferred. A text that several documents share counts for each of
        them, because the others may be deferred.
        """
        if fair is None:
            return 0
        missing = {text.key: text.text for text in self.missing()}
        going = self._going()
        asked = []
        for document in going:
            own = [missing[key] for key in dict.fromkeys(document.keys) if key in missing]
            asked.append(Asked(document.tenant, fair.cost(own, len(missing))))
        admitted = fair.choose(asked, read_again=read_again)
        deferred = [document for document, goes_on in zip(going, admitted, strict=True) if not goes_on]
        for document in deferred:
            document.refusal = Deferred(
                f"tenant {document.tenant} has used its share of the provider's rate limit; record deferred"
            )
        if deferred:
            self._texts = self._distinct()
        return len(deferred)

    def results(
        self, computed: Computed, *, generation: str, model: str, dimensions: int
    ) -> list[Context[EmbeddedDocument] | HeadraceError]:
        """Return each document with its vectors, or the error for which it has none, in the order of the batch.

        Each vector is sent once, with the first active document that contains its text.
        """
        known = replace(
            computed,
            vectors={**computed.vectors, **self._shared_vectors},
            skipped={**computed.skipped, **self._skipped},
        )
        results: list[Context[EmbeddedDocument] | HeadraceError] = []
        travelled: set[Key] = set()
        for document in self.documents:
            refusal = document.refusal or _failed_chunk(document, known)
            if refusal is not None:
                results.append(refusal)
                continue
            own = {key: known.vectors[key] for key in document.keys if key in known.vectors and key not in travelled}
            travelled.update(own)
            results.append(embedded(document, own, known, generation=generation, model=model, dimensions=dimensions))
        return results

    def _going(self) -> list[Document]:
        return [document for document in self.documents if document.refusal is None]

    def _distinct(self) -> dict[Key, Text]:
        """Return every non-empty text of the active documents, once per tenant."""
        texts: dict[Key, Text] = {}
        for document in self._going():
            for prepared in document.prepared:
                key = (document.tenant, prepared.key)
                if prepared.key and key not in texts:
                    texts[key] = Text(*key, prepared.text, document.context.change.document_id)
        return texts


def _failed_chunk(document: Document, computed: Computed) -> InvalidRecord | None:
    """Return the error for which the document is dead-lettered: that of its first chunk that cannot be embedded."""
    for ordinal, key in enumerate(document.keys):
        failure = computed.errors.get(key)
        if failure is not None:
            return InvalidRecord(f"chunks[{ordinal}].vector", failure.message, remedy=failure.remedy)
    return None


def embedded(
    document: Document, own: Mapping[Key, bytes], computed: Computed, *, generation: str, model: str, dimensions: int
) -> Context[EmbeddedDocument]:
    """Return the document with the vectors to send with it.

    The metadata lists the chunks that were skipped, cut or split.
    """
    payload = document.context.payload
    keys = document.keys
    vector_keys = tuple(NO_KEY if key in computed.skipped else key[1] for key in keys)
    if vector_keys == tuple(chunk.text_hash for chunk in payload.chunks):
        vector_keys = ()
    vectors = {text_hash.hex(): vector for (_, text_hash), vector in own.items()}
    lists = listed(keys, computed)
    text = payload.chunks[0].text if payload.chunks else ""
    if (language := unread_language(model, payload.facts.language, text)) is not None:
        lists[UNREAD.removeprefix("embedder.")] = language
    return document.context.with_payload(
        EmbeddedDocument(
            payload.facts, payload.chunks, generation, model, dimensions, vectors=vectors, vector_keys=vector_keys
        )
    ).with_metadata("embedder", model=model, texts=len(payload.chunks), embedded=len(vectors), **lists)


def listed(keys: Sequence[Key], computed: Computed) -> dict[str, str]:
    """Return the numbers (from 0) of the chunks that were skipped (with reasons), cut and split; omit empty lists."""
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
