"""The form of a change as clients send it, and the checks that name field and reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StrictInt, ValidationError

from headrace.envelope import Change, Operation, check_change
from headrace.errors import InvalidRecord
from headrace.records import ChangeEvent
from headrace_gateway.problems import field_errors
from headrace_gateway.texts import Few, Text, few, printable

_MAX_VERSION = 2**63 - 1
_MAX_ERRORS = 20
MAX_TEXT = 4096
"""Longest title, source and attribute, in characters; as the ingest service has it by default."""
MAX_ATTRIBUTES = 64
MAX_ACL_ENTRIES = 1024
ShortText = Annotated[Text, Field(max_length=MAX_TEXT)]
"""Most errors that are told of one item."""


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


AttributeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
"""Attributes become metadata ``user.{name}``, whose names have this form."""


class ChangeItem(BaseModel):
    """One change of one document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text = Field(
        validation_alias=AliasChoices("id", "document_id"), description="Identity of the document in its tenant."
    )
    op: Annotated[Literal["upsert", "delete"], BeforeValidator(_lowered)] = Field(
        validation_alias=AliasChoices("op", "operation"), description="What happened to the document."
    )
    version: StrictInt | None = Field(
        None, ge=0, le=_MAX_VERSION, description="The source's version; absent, the order of arrival decides."
    )
    title: ShortText | None = Field(None, description="Title; absent, it is taken from the content or the id.")
    content: Text | None = Field(None, description="Text of the document; an upsert needs it.")
    media_type: Text | None = Field(
        None,
        validation_alias=AliasChoices("media_type", "content_type"),
        description="text/plain, text/markdown or text/x-rst; absent, the id's ending tells.",
    )
    source: ShortText | None = Field(None, description="Where upstream keeps the document, for citations.")
    attributes: Annotated[dict[AttributeName, ShortText], Few] = Field(
        default_factory=dict, max_length=MAX_ATTRIBUTES, description="Searchable attributes."
    )
    acl: Annotated[list[Text], FailFast()] = Field(
        default_factory=list, max_length=MAX_ACL_ENTRIES, description="Who may read it; empty, all of the tenant."
    )
    pipeline: Text | None = Field(None, description="Pipeline to follow; absent, the default.")
    updated_at: datetime | None = Field(
        None, description="When upstream made the change: ISO 8601 or seconds since 1970. Never orders changes."
    )
    tenant: Text | None = Field(None, description="Only accepted where it is the API key's tenant.")

    def event(self, tenant: str, request_id: str, requested_by: str) -> ChangeEvent:
        """Return the change as the topic carries it."""
        occurred = self.updated_at
        return ChangeEvent(
            tenant=tenant,
            document_id=self.id,
            operation=Operation(self.op.upper()),
            version=self.version,
            title=self.title,
            content=self.content,
            media_type=self.media_type,
            source=self.source,
            attributes=self.attributes,
            acl=tuple(self.acl),
            pipeline=self.pipeline,
            request_id=request_id,
            requested_by=requested_by,
            occurred_at=occurred if occurred is None or occurred.tzinfo else occurred.replace(tzinfo=UTC),
        )


@dataclass(frozen=True, slots=True)
class ItemError:
    """What is wrong with one item of a batch; ``too_large`` where its size is the reason."""

    index: int
    id: str | None
    field: str
    reason: str
    too_large: bool = False

    def document(self) -> dict[str, Any]:
        """Return the error as a problem document lists it."""
        return {"index": self.index, "id": self.id, "field": self.field, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """The good items with their places in the batch, and what is wrong with the others."""

    items: tuple[tuple[int, ChangeItem], ...]
    errors: tuple[ItemError, ...]


def check_batch(raw: Sequence[object], tenant: str, max_content_bytes: int) -> CheckedBatch:
    """Check each item of a decoded batch by itself; pure."""
    items: list[tuple[int, ChangeItem]] = []
    errors: list[ItemError] = []
    for index, value in enumerate(raw):
        checked = _check_item(index, value, tenant, max_content_bytes)
        if isinstance(checked, ChangeItem):
            items.append((index, checked))
        else:
            errors += checked
    return CheckedBatch(tuple(items), tuple(errors))


def named_tenants(raw: Sequence[object]) -> list[object]:
    """Return every tenant that an item names, valid or not."""
    return [value["tenant"] for value in raw if isinstance(value, Mapping) and value.get("tenant") is not None]


def _check_item(index: int, value: object, tenant: str, max_content_bytes: int) -> ChangeItem | list[ItemError]:
    if not isinstance(value, Mapping):
        return [ItemError(index, None, "(whole)", f"is a {_json_name(value)}, not an object")]
    named = value.get("id", value.get("document_id"))
    shown = printable(named[:200]) if isinstance(named, str) else None
    try:
        item = ChangeItem.model_validate(few(value))
        check_change(Change(tenant, item.id, item.version or 0, Operation(item.op.upper())))
        if item.op == "upsert" and item.content is None:
            raise InvalidRecord("content", "is missing; an upsert carries the document's text")
    except ValidationError as error:
        found = field_errors(error.errors(include_url=False, include_context=False, include_input=False))
        return [ItemError(index, shown, one["field"], one["reason"]) for one in found[:_MAX_ERRORS]]
    except ValueError as error:  # of few; a ValidationError is one too
        return [ItemError(index, shown, "(whole)", str(error))]
    except InvalidRecord as error:
        field = "id" if error.field == "document_id" else error.field
        return [ItemError(index, shown, field, error.reason)]
    size = len((item.content or "").encode())
    if size > max_content_bytes:
        reason = f"has {size} bytes; the limit is {max_content_bytes}"
        return [ItemError(index, shown, "content", reason, too_large=True)]
    return item


def _json_name(value: object) -> str:
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return names.get(type(value), type(value).__name__)
