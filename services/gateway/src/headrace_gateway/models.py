"""Requests and responses of search, ask, artifacts and documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from headrace.retrieval.mode import Mode
from headrace_gateway.texts import Few, Text, few

_MAX_QUERY = 10_000
_MAX_FILTER = 1000


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str | None = Field(None, description="If given, must be the API key's tenant.")

    @model_validator(mode="before")
    @classmethod
    def _few_members(cls, value: Any) -> Any:
        return few(value)


class _Retrieval(_Request):
    top_k: int = Field(5, ge=1, le=100, description="Maximum number of passages.")
    document_ids: list[Text] | None = Field(
        None, min_length=1, max_length=_MAX_FILTER, description="Search only these documents. If absent, all documents."
    )
    attributes: Annotated[dict[Text, Text], Few] | None = Field(
        None, description="Search only documents with all of these attributes."
    )


class SearchRequest(_Retrieval):
    """A search for passages in the tenant's documents."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "how are generators suspended", "top_k": 3, "mode": "hybrid"}]}
    )

    query: Text = Field(min_length=1, max_length=_MAX_QUERY, description="What to search for, in plain words.")
    mode: Mode = Field(
        Mode.HYBRID,
        description="`hybrid` searches by meaning and words together, `vector` by meaning alone, `lexical` by words "
        "alone.",
    )
    explain: bool = Field(False, description="Whether each hit says how it was found.")
    rerank: bool = Field(
        False,
        description="Whether a reranker ranks the best hits again; needs HEADRACE_RERANK_URL. What it does not rank in "
        "time keeps its place.",
    )
    minimum_fit: float | None = Field(
        None, ge=0, le=1,
        description="Return no hits below this fit. If absent, hits are returned in any case, and `fits` compares "
        "`fit` with HEADRACE_SEARCH_FIT_THRESHOLD.",
    )  # fmt: skip


class AskRequest(_Retrieval):
    """A question to answer from the tenant's documents."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"question": "What does a with statement guarantee?", "wait_s": 30}]}
    )

    question: Text = Field(min_length=1, max_length=_MAX_QUERY, description="The question.")
    minimum_fit: float | None = Field(
        None, ge=0, le=1,
        description="Below this fit of the passages, the answer says that the documents do not answer the question, "
        "and no language model is asked. If absent, HEADRACE_SEARCH_FIT_THRESHOLD; 0 turns it off.",
    )  # fmt: skip
    wait_s: float = Field(30.0, ge=0, le=120, description="Maximum time to wait for the answer, in seconds.")


class LookupItem(BaseModel):
    """A document to look up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text = Field(min_length=1, description="Document ID.")
    version: int | None = Field(
        None, ge=0, lt=2**63, description="Version to look for. If absent, the newest version that the index knows."
    )


class LookupRequest(_Request):
    """Documents to look up in the index."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"documents": [{"id": "guide.md", "version": 7}]}]})

    documents: list[LookupItem] = Field(min_length=1, max_length=1000, description="Documents to look up.")
    request_id: Text | None = Field(
        None, description="Request that changed the documents, for those without a version."
    )


class DocumentsRequest(_Request):
    """Attributes of the documents to list."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"attributes": {"team": "core"}, "limit": 100}]})

    attributes: dict[Text, Text] = Field(
        default_factory=dict, description="List only documents with all of these attributes. Empty: all documents."
    )
    after: Text | None = Field(
        None, description="List only documents whose ID comes after this one: `next` of the previous answer."
    )
    limit: int = Field(100, ge=1, le=1000, description="Maximum number of documents.")


class AcceptedDocument(BaseModel):
    """An accepted change; ``version`` is the change's own, or its offset if the change has none."""

    id: str
    version: int
    status_url: str


class ItemErrorDocument(BaseModel):
    """An error in one item of a batch."""

    index: int
    id: str | None
    field: str
    reason: str


class Accepted(BaseModel):
    """The changes are stored durably in the log, in the order of the request."""

    request_id: str
    accepted: int
    documents: list[AcceptedDocument]
    errors: list[ItemErrorDocument] = Field(default_factory=list)


class MatchedTerm(BaseModel):
    """A term of the query in a passage: its rarity among the tenant's passages, times its weight in this one."""

    term: str
    score: float


class Explanation(BaseModel):
    """How each leg scored a passage; null if the leg was not asked or has nothing of it."""

    dense: float | None = Field(description="Cosine similarity, or the negated distance of another measure.")
    lexical: float | None = Field(description="BM25's score: the sum of the matched terms' scores.")
    terms: list[MatchedTerm] = Field(description="The query's terms in the passage, the highest score first.")
    phrases: float | None = Field(
        None,
        description="The sum of the rarities of neighbouring terms of the query that are neighbours in the passage; "
        "null if they were not compared.",
    )


class SearchHit(BaseModel):
    """A passage; ``start`` and ``end`` are character offsets in the document's text."""

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
    page: int | None = Field(
        None, description="Page on which the passage begins, from 1; null for documents without pages."
    )
    language: str = Field("", description="Language as a BCP 47 tag; empty if unknown.")
    explanation: Explanation | None = Field(None, description="How the hit was found; only with `explain`.")
    relevance: float | None = Field(None, description="The reranker's score; null for a hit that it did not rank.")


class Timings(BaseModel):
    """Time spent, in milliseconds."""

    embed_ms: float
    search_ms: float
    rerank_ms: float = 0.0


class Reranking(BaseModel):
    """What the reranker did: it ranked ``ranked`` of the ``wanted`` best hits; ``missing`` says why not all of them."""

    ranked: int
    wanted: int
    missing: str


class SearchAnswer(BaseModel):
    """The passages, best first, and whether they fit the query at all."""

    hits: list[SearchHit]
    fits: bool = Field(description="Whether the best passages fit the query. If false, the documents do not answer it.")
    fit: float | None = Field(
        description="How well the best passages fit, from 0 (no better than for random queries) to 1; null if the "
        "generation cannot tell."
    )
    reranking: Reranking | None = Field(None, description="What the reranker did; null if it was not asked.")
    timings: Timings


class ArtifactDocument(BaseModel):
    """A generated answer and the passages that it cites by ``[marker]``."""

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
    """The answer is not ready yet; get it later from ``artifact_url``."""

    request_id: str
    artifact_id: UUID
    artifact_url: str


class DeadLetterDocument(BaseModel):
    """Why a record was dead-lettered, and what to do about it."""

    stage: str
    reason: str
    message: str
    remedy: str
    version: int | None
    request_id: str | None
    partition: int
    offset: int


class StageRunDocument(BaseModel):
    """One stage's processing of the document."""

    model_config = ConfigDict(extra="ignore")

    stage: str
    handlers: list[str] = Field(default_factory=list)
    worker: str = ""
    attempt: int = 1
    started_at: datetime | None = None
    duration_us: int = 0


class WaitingDocument(BaseModel):
    """A record of the document that a stage has not processed yet."""

    stage: str
    version: int | None
    operation: str | None
    request_id: str | None
    partition: int
    offset: int


class StoredDocument(BaseModel):
    """The document in the index."""

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
    """Why a document is held.

    ``waits_for`` is pause, cap or review, and ``scope`` says of what; ``ends`` tells operators how to release it.
    """

    stage: str
    waits_for: str
    scope: str
    why: str
    since: datetime
    ends: str


class DocumentStatus(BaseModel):
    """Where a document is now; ``state`` and ``version`` describe its newest known version.

    ``held`` says why the document is held, and is null in any other state.
    ``notes`` list what the gateway could not check.
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
    """Documents ordered by ID; ``next`` is the ``after`` of the next request, null on the last page."""

    documents: list[ListedDocument]
    next: str | None


class LookupResult(BaseModel):
    """Whether a document has reached the index."""

    id: str
    version: int | None
    indexed: bool
    deleted: bool
    dead_letter: DeadLetterDocument | None


class LookupAnswer(BaseModel):
    """One result for each document, in the order of the request."""

    documents: list[LookupResult]
