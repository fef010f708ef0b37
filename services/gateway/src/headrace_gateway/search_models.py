"""Requests and responses of search and ask."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator

from headrace.filters.model import ATTRIBUTE, FIELDS, Filter, Operator
from headrace.filters.parsing import parse
from headrace.retrieval.mode import Mode
from headrace.store.neighbours import MAXIMUM_NEIGHBOURS
from headrace.store.search import MAXIMUM_HITS, MAXIMUM_PER_DOCUMENT
from headrace_gateway.cursors import MAX_CURSOR
from headrace_gateway.models import TenantRequest
from headrace_gateway.texts import Text

_MAX_QUERY = 10_000


_FILTER_SCHEMA = {
    "type": "object",
    "description": f"Search only what meets this filter: a condition on a field, or `and`, `or` (lists of filters) or "
    f"`not` (a filter). Fields: {', '.join(FIELDS)}, {ATTRIBUTE}NAME. Operators: {', '.join(Operator)}.",
    "properties": {
        "field": {"type": "string"},
        **{operator.value: {} for operator in Operator},
        "and": {"type": "array", "items": {"type": "object"}},
        "or": {"type": "array", "items": {"type": "object"}},
        "not": {"type": "object"},
    },
    "examples": [
        {"field": "document", "in": ["guide.md", "faq.md"]},
        {"and": [{"field": "attributes.year", "gte": 2020}, {"not": {"field": "language", "eq": "ko"}}]},
    ],
}


class _Retrieval(TenantRequest):
    top_k: int = Field(
        5, ge=1, le=MAXIMUM_HITS, description="Maximum number of passages; of documents, if grouped by document."
    )
    filter: Annotated[Any, WithJsonSchema(_FILTER_SCHEMA)] = None

    def only(self) -> Filter | None:
        """Return the filter; raises :class:`headrace.filters.parsing.InvalidFilter`."""
        return None if self.filter is None else parse(self.filter)


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
    group_by: Literal["document"] | None = Field(
        None, description="With `document`, `top_k` counts documents, and the passages of a document stand together."
    )
    per_document: int = Field(
        3, ge=1, le=MAXIMUM_PER_DOCUMENT, description="Maximum number of passages of a document, with `group_by`."
    )
    neighbours: int = Field(
        0, ge=0, le=MAXIMUM_NEIGHBOURS,
        description="Passages on each side of a hit that come with it. The filter does not apply to them.",
    )  # fmt: skip
    highlight: bool = Field(False, description="Whether each hit says where the query's words stand in its text.")
    cursor: str | None = Field(
        None, min_length=1, max_length=MAX_CURSOR,
        description="`cursor` of the previous answer to the same search: the hits after it.",
    )  # fmt: skip
    explain: bool = Field(False, description="Whether the answer and each hit say how they were found.")
    rerank: bool = Field(
        False,
        description="Whether a reranker ranks the best hits again; needs HEADRACE_RERANK_URL. What it does not rank in "
        "time keeps its place. Not together with `group_by`.",
    )
    minimum_fit: float | None = Field(
        None, ge=0, le=1,
        description="Return no hits below this fit. If absent, hits are returned in any case, and `fits` compares "
        "`fit` with HEADRACE_SEARCH_FIT_THRESHOLD.",
    )  # fmt: skip

    @field_validator("query")
    @classmethod
    def _not_blank(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("has no character but spaces")
        return query

    @field_validator("per_document")
    @classmethod
    def _grouped(cls, per_document: int, given: ValidationInfo) -> int:
        if given.data.get("group_by") is None:
            raise ValueError('needs "group_by": "document"')
        return per_document

    @field_validator("rerank")
    @classmethod
    def _not_grouped(cls, rerank: bool, given: ValidationInfo) -> bool:  # pydantic passes it so
        if rerank and given.data.get("group_by") is not None:
            raise ValueError('cannot be combined with "group_by"')
        return rerank


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


Freshness = Literal["fresh", "changing", "held", "failed"]
"""``failed``: the newest change was dead-lettered."""


class MatchedTerm(BaseModel):
    """A term of the query in a passage: its rarity among the tenant's passages, times its weight in this one."""

    term: str
    score: float


class Explanation(BaseModel):
    """How each leg scored a passage; null if the leg was not asked or has nothing of it."""

    dense: float | None = Field(description="Cosine similarity, or the negated distance of another measure.")
    dense_rank: int | None = Field(description="Rank by meaning, from 1; null if only words found the passage.")
    lexical: float | None = Field(description="BM25's score: the sum of the matched terms' scores.")
    lexical_rank: int | None = Field(description="Rank by words, from 1; null if only meaning found the passage.")
    terms: list[MatchedTerm] = Field(description="The query's terms in the passage, the highest score first.")
    phrases: float | None = Field(
        None,
        description="The sum of the rarities of neighbouring terms of the query that are neighbours in the passage; "
        "null if they were not compared.",
    )


class Neighbour(BaseModel):
    """A passage beside a hit; ``start`` and ``end`` are character offsets in the document's text."""

    section: list[str]
    start: int
    end: int
    text: str


class HitNeighbours(BaseModel):
    """The passages before and after a hit, in the order of the text."""

    before: list[Neighbour]
    after: list[Neighbour]


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
    freshness: Freshness | None = Field(
        None,
        description="`fresh`, `changing` (a newer change is under way), `held` (a newer change is held) or `failed` "
        "(the newest change was dead-lettered); null if Kafka did not say so in time.",
    )
    highlights: list[tuple[int, int]] | None = Field(
        None, description="Where the query's words stand in `text`: first character, and the one after the last, "
        "counted in Unicode code points from 0; only with `highlight`.",
    )  # fmt: skip
    neighbours: HitNeighbours | None = Field(None, description="Passages beside the hit; only with `neighbours`.")
    explanation: Explanation | None = Field(None, description="How the hit was found; only with `explain`.")
    relevance: float | None = Field(None, description="The reranker's score; null for a hit that it did not rank.")


class Timings(BaseModel):
    """Time spent, in milliseconds; ``freshness_ms`` is what was waited for it after the search."""

    embed_ms: float
    search_ms: float
    rerank_ms: float = 0.0
    freshness_ms: float


class Reranking(BaseModel):
    """What the reranker did: it ranked ``ranked`` of the ``wanted`` best hits; ``missing`` says why not all of them."""

    ranked: int
    wanted: int
    missing: str


class LegPlan(BaseModel):
    """How a leg was read."""

    access: Literal["index", "exact"] = Field(
        description="`index`, or `exact`: every passage that meets the filter was compared."
    )
    found: int = Field(description="Passages that the leg found, which were then scored on both legs.")


class SearchPlan(BaseModel):
    """How the search was executed; a leg is null if it was not asked."""

    generation: str
    model: str
    dense: LegPlan | None
    lexical: LegPlan | None
    documents: int | None = Field(description="Documents that the filter narrowed the search to; null if too many.")
    readings: int = Field(description="How often the legs were read; more than once for some searches by document.")
    dense_weight: float = Field(description="Share of meaning in the score of a hybrid search.")


class Note(BaseModel):
    """Something about the search that its caller may not expect; ``kind`` is for programs."""

    kind: Literal["meaning-left-out", "no-words"]
    text: str


class SearchAnswer(BaseModel):
    """The passages, best first, and whether they fit; those of a document stand together if grouped by document."""

    hits: list[SearchHit]
    fits: bool = Field(description="Whether the best passages fit the query. If false, the documents do not answer it.")
    fit: float | None = Field(
        description="How well the best passages fit, from 0 (no better than for random queries) to 1; null if the "
        "generation cannot tell."
    )
    reranking: Reranking | None = Field(None, description="What the reranker did; null if it was not asked.")
    cursor: str | None = Field(None, description="Send it with the same search for the next hits; null: no more.")
    notes: list[Note] = Field(default_factory=list)
    timings: Timings
    plan: SearchPlan | None = Field(None, description="How the search was executed; only with `explain`.")
