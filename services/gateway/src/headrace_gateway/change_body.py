"""Reads a request's body into a list of unchecked items: plain JSON, and CloudEvents over HTTP in all three modes.

CloudEvents 1.0, HTTP protocol binding: structured, batched and binary mode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from headrace_gateway.problems import Problem

_STRUCTURED = "application/cloudevents+json"
_BATCHED = "application/cloudevents-batch+json"
_EXTENSIONS = ("version", "title", "pipeline")
"""Extension attributes that replace a missing field of the same name. The tenant is always the API key's."""
_REFERENCE = "dataref"
_ATTRIBUTES = tuple(
    f"ce-{name}" for name in ("specversion", "id", "source", "type", "subject", "time", *_EXTENSIONS, _REFERENCE)
)
"""The headers of binary mode that :func:`_from_cloud_event` reads."""
_DELETE_ENDINGS = ("delete", "deleted", "remove", "removed")
_VERSION = re.compile(r"[0-9]{1,19}")
_JSON_REMEDY = 'Send one change, a list of changes, or {"changes": […]} as JSON in UTF-8.'


class NamedBySubject(dict[str, object]):
    """The item of a CloudEvent whose data has no document ID, so ``subject`` must name the document."""


def read_items(body: bytes, headers: Mapping[str, str]) -> list[object]:
    """Return the unchecked items of the body. ``headers`` have lower-case names.

    Raises :class:`Problem` 400 if the body is not JSON, 415 for another media type, and 422 for an empty batch.
    """
    media_type = _media_type(headers)
    if media_type == _STRUCTURED:
        items: list[object] = [_from_cloud_event(_decode(body))]
    elif media_type == _BATCHED:
        events = _decode(body)
        items = [_from_cloud_event(event) for event in events] if isinstance(events, list) else [events]
    elif media_type != "application/json":
        raise Problem(415, "media-type", f"The body is {media_type[:100]!r}, not JSON.", remedy=_JSON_REMEDY)
    elif "ce-specversion" in headers:
        items = [_from_cloud_event(_binary_mode(_decode(body), headers))]
    else:
        items = _unwrap(_decode(body))
    if not items:
        raise Problem(422, "no-changes", "The batch contains no changes.", remedy=_JSON_REMEDY)
    return items


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "application/json").partition(";")[0].strip().lower()


def _unwrap(value: object) -> list[object]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and "changes" in value:
        changes = value["changes"]
        if not isinstance(changes, list) or len(value) > 1:
            raise Problem(
                422,
                "invalid",
                'A batch must have the form {"changes": […]}, without other members.',
                remedy=_JSON_REMEDY,
            )
        return changes
    return [value]


def _decode(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"The body is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}."
    except json.JSONDecodeError as error:
        detail = f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
    except (ValueError, RecursionError):
        detail = "The body is JSON that cannot be read: it is nested too deeply, or a number has too many digits."
    raise Problem(400, "malformed", detail, remedy=_JSON_REMEDY)


def _binary_mode(data: object, headers: Mapping[str, str]) -> dict[str, Any]:
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in headers.items() if name.startswith("ce-")
    }
    return {**event, "data": data}


def _from_cloud_event(event: object) -> object:
    """Return the event's data; missing fields come from the event's attributes.

    ``subject`` gives the document ID, the end of ``type`` the operation, ``time`` the time and ``source`` the source.
    Extension attributes give version, title, pipeline and, if there is no data, a reference.
    """
    if not isinstance(event, dict) or event.get("specversion") != "1.0":
        raise Problem(422, "invalid", "The item is not a CloudEvent with `specversion` 1.0.")
    missing = [name for name in ("id", "source", "type") if not isinstance(event.get(name), str) or not event[name]]
    if missing:
        raise Problem(422, "invalid", f"The CloudEvent lacks {', '.join(missing)}.")
    data = event.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        return data
    item = _stood_in(event, has_data=bool(data)) | data
    if "id" not in item and "document_id" not in item:
        subject = event.get("subject")
        item = NamedBySubject(item if subject is None else {**item, "id": subject})
    if "op" not in item and "operation" not in item:
        ending = event["type"].rpartition(".")[2].lower()
        item["op"] = "delete" if ending in _DELETE_ENDINGS else "upsert"
    if event.get("time") and "updated_at" not in item:
        item["updated_at"] = event["time"]
    item.setdefault("source", event["source"])
    return item


def _stood_in(event: Mapping[str, Any], *, has_data: bool) -> dict[str, Any]:
    """Return the fields from extension attributes. A version may be a string of digits, because headers are text."""
    fields = {name: event[name] for name in _EXTENSIONS if event.get(name) is not None}
    version = fields.get("version")
    if isinstance(version, str) and _VERSION.fullmatch(version):
        fields["version"] = int(version)
    if event.get(_REFERENCE) is not None and not has_data:
        fields["reference"] = event[_REFERENCE]
    return fields


def fingerprint(body: bytes, headers: Mapping[str, str], *, partial: bool) -> bytes:
    """Return the bytes that identify this request's changes. In binary mode, they include headers.

    Attributes that this module does not read, such as tracing attributes, may differ when a client repeats a request.
    """
    stated = {name: headers[name] for name in _ATTRIBUTES if name in headers}
    return json.dumps([_media_type(headers), stated, partial]).encode() + b"\n" + body


def default_idempotency_key(headers: Mapping[str, str]) -> str | None:
    """Return the request's Idempotency-Key; without one, source and ID of a CloudEvent in binary mode."""
    named = headers.get("idempotency-key")
    if named is None and "ce-id" in headers and "ce-source" in headers:
        return f"ce:{headers['ce-source']}#{headers['ce-id']}"
    return named
