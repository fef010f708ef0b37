"""Requests and answers of search, ask, artifacts and documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace_gateway.texts import Few, Text, few

_MAX_QUERY = 10_000
_MAX_FILTER = 1000


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str | None = Field(None, description="Only accepted where it is the API key's tenant.")

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        return few(value)


class _Retrieval(_Request):
    top_k: int = Field(5, ge=1, le=100, description="How many passages at most.")
    document_ids: list[Text] | None = Field(
        None, min_length=1, max_length=_MAX_FILTER, description="Only these documents; absent, all."
    )
    attributes: Annotated[dict[Text, Text], Few] | None = Field(
        None, description="Only documents with all of these attributes."
    )


class SearchRequest(_Retrieval):
    """A query over the tenant's passages."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "how are generators suspended", "top_k": 3, "mode": "hybrid"}]}
    )

    query: Text = Field(min_length=1, max_length=_MAX_QUERY, description="What is looked for, in plain words.")
    mode: Literal["vector", "hybrid"] = Field("vector", description="By meaning, or by meaning and words together.")


class AskRequest(_Retrieval):
    """A question that is answered from the tenant's documents."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "What does a with statement guarantee?", "wait_s": 30}]}
    )

    question: Text = Field(min_length=1, max_length=_MAX_QUERY, description="What is asked.")
    wait_s: float = Field(30.0, ge=0, le=120, description="How long to wait for the answer, in seconds.")


class LookupItem(BaseModel):
    """A document to look up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text = Field(min_length=1, description="The document.")
    version: int | None = Field(None, ge=0, lt=2**63, description="The version that is waited for.")


class LookupRequest(_Request):
    """Which documents have arrived in the index."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [{"id": "guide.md", "version": 7}]}]})

    documents: list[LookupItem] = Field(min_length=1, max_length=1000, description="The documents.")
    request_id: Text | None = Field(None, description="The request that changed them, where a version is not known.")


class DocumentsRequest(_Request):
    """Which documents have these attributes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"attributes": {"team": "core"}, "limit": 100}]})

    attributes: dict[Text, Text] = Field(
        default_factory=dict, description="Only documents with all of these attributes; empty, all documents."
    )
    after: Text | None = Field(None, description="Only documents whose id comes after this one: `next` of an answer.")
    limit: int = Field(100, ge=1, le=1000, description="How many at most.")


class AcceptedDocument(BaseModel):
    """A change that was taken; ``version`` is the change's, or the one that its place in the log gave it."""

    id: str
    version: int
    status_url: str


class ItemErrorDocument(BaseModel):
    """What is wrong with one item of a batch."""

    index: int
    id: str | None
    field: str
    reason: str


class Accepted(BaseModel):
    """The changes stand durably in the log, in the order in which they were sent."""

    request_id: str
    accepted: int
    documents: list[AcceptedDocument]
    errors: list[ItemErrorDocument] = Field(default_factory=list)


class SearchHit(BaseModel):
    """A passage; ``start`` and ``end`` count characters of the document's text."""

    document_id: str
    title: str
    version: int
    section: list[str]
    start: int
    end: int
    text: str
    score: float
    source: str
    attributes: dict[str, str]
    page: int | None = Field(None, description="Page on which the passage begins, from 1; null where there are none.")
    language: str = Field("", description="Language as a BCP 47 tag; empty where it is not known.")


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    embed_ms: float
    search_ms: float


class SearchAnswer(BaseModel):
    """The best passages first."""

    hits: list[SearchHit]
    timings: Timings


class ArtifactDocument(BaseModel):
    """A generated text with the passages that it refers to by ``[marker]``."""

    id: UUID
    version: int
    kind: str
    title: str
    mime_type: str
    text: str
    citations: list[dict[str, Any]]
    provider: str
    model: str
    request_id: str
    created_at: datetime | None


class Pending(BaseModel):
    """The answer is not ready; ``artifact_url`` has it as soon as it is."""

    request_id: str
    artifact_id: UUID
    artifact_url: str


class DeadLetterDocument(BaseModel):
    """Why a record was given up, and what can be done."""

    stage: str
    reason: str
    message: str
    remedy: str
    version: int | None
    request_id: str | None
    partition: int
    offset: int


class StageRunDocument(BaseModel):
    """One stage's run over the document."""

    model_config = ConfigDict(extra="ignore")

    stage: str
    handlers: list[str] = Field(default_factory=list)
    worker: str = ""
    attempt: int = 1
    started_at: datetime | None = None
    duration_us: int = 0


class WaitingDocument(BaseModel):
    """A record of the document that a stage has not taken yet."""

    stage: str
    version: int | None
    operation: str | None
    request_id: str | None
    partition: int
    offset: int


class StoredDocument(BaseModel):
    """What the index holds."""

    version: int
    deleted: bool
    title: str
    source: str
    media_type: str
    attributes: dict[str, str]
    chunks: int
    model: str
    generations: list[str]
    pipeline: str
    request_id: str
    indexed_at: datetime


class HeldDocument(BaseModel):
    """Why a document waits: ``waits_for`` is pause, cap or review, ``scope`` whose; ``ends`` is for operators."""

    stage: str
    waits_for: str
    scope: str
    why: str
    since: datetime
    ends: str


class DocumentStatus(BaseModel):
    """Where a document is now; ``state`` and ``version`` speak of the newest version that is known.

    ``held`` says why it waits where the state is held, and is null otherwise.
    ``notes`` say what could not be looked at, if anything.
    """

    id: str
    state: Literal["indexed", "deleted", "in_flight", "held", "dead_lettered", "unknown"]
    version: int | None
    waiting_for: str | None
    held: HeldDocument | None
    stages: list[StageRunDocument]
    dead_letter: DeadLetterDocument | None
    stored: StoredDocument | None
    in_flight: list[WaitingDocument]
    notes: list[str]


class ListedDocument(BaseModel):
    """A document in the index."""

    id: str
    version: int
    title: str
    source: str
    attributes: dict[str, str]
    request_id: str
    indexed_at: datetime


class DocumentsAnswer(BaseModel):
    """The documents by id; ``next`` is the ``after`` of the request for more, null where there are none."""

    documents: list[ListedDocument]
    next: str | None


class LookupResult(BaseModel):
    """Whether a document has arrived."""

    id: str
    version: int | None
    indexed: bool
    deleted: bool
    dead_letter: DeadLetterDocument | None


class LookupAnswer(BaseModel):
    """One result for each document, in the order of the request."""

    documents: list[LookupResult]
