"""The form of a change as clients send it, and the checks that name field and reason."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    ValidationError,
)

from headrace.envelope import Change, Operation, check_change
from headrace.errors import InvalidRecord
from headrace.payloads import ChangeEvent
from headrace_gateway.change_body import NamedBySubject
from headrace_gateway.problems import field_errors
from headrace_gateway.texts import Few, Text, few, printable

_MAX_VERSION = 2**63 - 1
_MAX_ERRORS = 20
"""Most errors that are told of one item."""
MAX_TEXT = 4096
"""Longest title, source and attribute, in characters; as the ingest service has it by default."""
MAX_ATTRIBUTES = 64
MAX_ACL_ENTRIES = 1024
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$"
ShortText = Annotated[Text, Field(max_length=MAX_TEXT)]


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is no text")  # noqa: TRY004  # pydantic takes a ValueError as a refusal
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is no base64: {error}") from error


Base64Bytes = Annotated[bytes, BeforeValidator(_decoded)]
"""Bytes as base64, with padding and without line ends."""
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
    title: ShortText | None = Field(None, description="Title; absent, a file's own, of text none.")
    content: Text | None = Field(
        None, description="Text of the document; an upsert needs it, content_base64 or reference."
    )
    content_base64: Base64Bytes | None = Field(
        None, description="A file in place of the text, as base64: PDF, DOCX, HTML, JSON or text, told by its content."
    )
    reference: ShortText | None = Field(
        None,
        description="URL of a file in place of the text (https, s3 or file); ingest fetches it where that is allowed.",
    )
    language: Annotated[str, Field(pattern=LANGUAGE)] | None = Field(
        None, description="Language as a BCP 47 tag: en, ko, pt-BR."
    )
    media_type: Text | None = Field(
        None,
        validation_alias=AliasChoices("media_type", "content_type"),
        description="text/plain, text/markdown, text/x-rst, text/html or application/json; absent, the id's ending "
        "tells. A file's own bytes tell its kind; of text they are helped by this, with its charset.",
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
            data=self.content_base64,
            reference=self.reference,
            language=self.language,
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
        if item.op == "upsert":
            _check_one_text(item)
    except ValidationError as error:
        found = field_errors(error.errors(include_url=False, include_context=False, include_input=False))
        return [_error(index, shown, value, one["field"], one["reason"]) for one in found[:_MAX_ERRORS]]
    except ValueError as error:  # of few; a ValidationError is one too
        return [ItemError(index, shown, "(whole)", str(error))]
    except InvalidRecord as error:
        field = "id" if error.field == "document_id" else error.field
        return [_error(index, shown, value, field, error.reason)]
    field, size = "content", len((item.content or "").encode())
    if item.content_base64 is not None:
        field, size = "content_base64", len(item.content_base64)
    if size > max_content_bytes:
        reason = f"has {size} bytes; the limit is {max_content_bytes}"
        return [ItemError(index, shown, field, reason, too_large=True)]
    return item


def _error(index: int, shown: str | None, value: Mapping[Any, Any], field: str, reason: str) -> ItemError:
    """Return the error under the name by which its sender stated the field: a CloudEvent's ``id`` is another thing."""
    if field != "id" or not isinstance(value, NamedBySubject):
        return ItemError(index, shown, field, reason)
    if "id" not in value:
        reason = "is missing; it names the document where the data has no id"
    return ItemError(index, shown, "subject", reason)


def _check_one_text(item: ChangeItem) -> None:
    """Refuse an upsert unless it says in one way what the document's text is."""
    given = [name for name in ("content", "content_base64", "reference") if getattr(item, name) is not None]
    if not given:
        raise InvalidRecord(
            "content", "is missing; an upsert carries the document's text, or its file as content_base64 or reference"
        )
    if len(given) > 1:
        raise InvalidRecord(given[1], f"is given beside {given[0]}; send one of them")


def _json_name(value: object) -> str:
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return names.get(type(value), type(value).__name__)
