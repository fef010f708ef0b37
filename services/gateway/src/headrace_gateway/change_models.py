"""The change as clients send it, and checks that report field and reason."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
)

from headrace.access.readers import MAX_ACL_ENTRIES, parsed
from headrace.envelope import Change, Operation, check_change
from headrace.errors import InvalidRecord
from headrace.payloads import ChangeEvent
from headrace_gateway.change_body import NamedBySubject
from headrace_gateway.problems import field_errors
from headrace_gateway.texts import Few, Text, few, printable

_MAX_VERSION = 2**63 - 1
_MAX_ERRORS = 20
"""Maximum errors reported for one item."""
MAX_TEXT = 4096
"""Maximum characters in a title, source or attribute; equals the default of ingest."""
MAX_ATTRIBUTES = 64
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$"
ShortText = Annotated[Text, Field(max_length=MAX_TEXT)]


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _decoded(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("is not a string")  # noqa: TRY004  # pydantic expects a ValueError
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error}") from error


Base64Bytes = Annotated[bytes, BeforeValidator(_decoded)]
"""Bytes as base64, with padding and without line breaks."""
AttributeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
"""The pattern of metadata names: attributes become metadata ``user.{name}``."""


AclEntry = Annotated[StrictStr, AfterValidator(parsed)]
"""A principal that may read a document."""


class ChangeItem(BaseModel):
    """One change of one document."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Text = Field(
        validation_alias=AliasChoices("id", "document_id"), description="Document ID, unique within the tenant."
    )
    op: Annotated[Literal["upsert", "delete"], BeforeValidator(_lowered)] = Field(
        validation_alias=AliasChoices("op", "operation"),
        description="`upsert` creates or replaces the document; `delete` deletes it.",
    )
    version: StrictInt | None = Field(
        None, ge=0, le=_MAX_VERSION, description="Version set by the source. If absent, the order of arrival decides."
    )
    title: ShortText | None = Field(None, description="Title. If absent, a file's own title; text then has none.")
    content: Text | None = Field(
        None, description="Text of the document. An upsert requires content, content_base64 or reference."
    )
    content_base64: Base64Bytes | None = Field(
        None, description="A file instead of text, as base64: PDF, DOCX, HTML, JSON or text. Ingest detects the kind."
    )
    reference: ShortText | None = Field(
        None,
        description="URL of a file instead of text (https, s3 or file). Ingest fetches it if its settings allow it.",
    )
    language: Annotated[str, Field(pattern=LANGUAGE)] | None = Field(
        None, description="Language as a BCP 47 tag, such as en, ko or pt-BR."
    )
    media_type: Text | None = Field(
        None,
        validation_alias=AliasChoices("media_type", "content_type"),
        description="text/plain, text/markdown, text/x-rst, text/html or application/json. If absent, the extension of "
        "the ID decides. Ingest detects a file's kind from its bytes; for text, it also uses this type and charset.",
    )
    source: ShortText | None = Field(
        None, description="Where upstream keeps the document, such as a URL, for citations."
    )
    attributes: Annotated[dict[AttributeName, ShortText], Few] = Field(
        default_factory=dict, max_length=MAX_ATTRIBUTES, description="Attributes to filter searches by."
    )
    acl: Annotated[list[AclEntry], FailFast()] = Field(
        default_factory=list,
        max_length=MAX_ACL_ENTRIES,
        description="Principals that may read the document: user:NAME, group:NAME or project:NAME. Empty: the whole "
        "tenant.",
    )
    pipeline: Text | None = Field(None, description="Pipeline. If absent, the default pipeline.")
    updated_at: datetime | None = Field(
        None, description="When upstream made the change: ISO 8601 or seconds since 1970. Never orders changes."
    )
    tenant: Text | None = Field(None, description="If given, must be the API key's tenant.")

    def event(self, tenant: str, request_id: str, requested_by: str) -> ChangeEvent:
        """Return the change event for the topic."""
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
    """An error in one item of a batch; ``too_large`` if the item's size is the reason."""

    index: int
    id: str | None
    field: str
    reason: str
    too_large: bool = False

    def document(self) -> dict[str, Any]:
        """Return the error for the list in a problem document."""
        return {"index": self.index, "id": self.id, "field": self.field, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class CheckedBatch:
    """The valid items with their positions in the batch, and the errors of the others."""

    items: tuple[tuple[int, ChangeItem], ...]
    errors: tuple[ItemError, ...]


def check_batch(raw: Sequence[object], tenant: str, max_content_bytes: int) -> CheckedBatch:
    """Check each item of a decoded batch separately; pure."""
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
    except ValueError as error:  # from few; a ValidationError is also a ValueError
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
    """Return the error under the sender's name of the field: a CloudEvent's own ``id`` is not the document ID."""
    if field != "id" or not isinstance(value, NamedBySubject):
        return ItemError(index, shown, field, reason)
    if "id" not in value:
        reason = "is missing; it must name the document if the data has no id"
    return ItemError(index, shown, "subject", reason)


def _check_one_text(item: ChangeItem) -> None:
    """Reject an upsert unless it has exactly one of content, content_base64 and reference."""
    given = [name for name in ("content", "content_base64", "reference") if getattr(item, name) is not None]
    if not given:
        raise InvalidRecord("content", "is missing; an upsert requires content, content_base64 or reference")
    if len(given) > 1:
        raise InvalidRecord(given[1], f"is given together with {given[0]}; send only one of them")


def _json_name(value: object) -> str:
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return names.get(type(value), type(value).__name__)
