"""The schemas of ``schemas/avro``, loaded once and inlined, and the guard for schemas of others."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import fastavro.schema

from headrace.errors import ConfigurationError, UndecodableRecord

SCHEMA_FOLDER = Path(__file__).parent.parent / "schemas" / "avro"
"""One file for each record, named by its full name."""

_ZERO_SIZE_PRIMITIVE = "null"


def names() -> list[str]:
    """Full names of all schemas, sorted."""
    return sorted(path.stem for path in SCHEMA_FOLDER.glob("*.avsc"))


def inline(name: str) -> dict[str, Any]:
    """Return the schema with every named type written out at its first use, as the registry wants it."""
    path = SCHEMA_FOLDER / f"{name}.avsc"
    if not path.exists():
        raise ConfigurationError(
            f"no schema {name!r}", where=str(SCHEMA_FOLDER), remedy=f"There are: {', '.join(names())}."
        )
    loaded: dict[str, Any] = _write_out(json.loads(path.read_text(encoding="utf-8")), set())
    return loaded


def _write_out(node: Any, seen: set[str]) -> Any:
    if isinstance(node, str):
        if node.startswith("headrace.") and node not in seen:
            return _write_out(json.loads((SCHEMA_FOLDER / f"{node}.avsc").read_text(encoding="utf-8")), seen)
        return node
    if isinstance(node, list):
        return [_write_out(branch, seen) for branch in node]
    written = dict(node)
    if node.get("type") in ("record", "enum", "fixed"):
        seen.add(f"{node.get('namespace', 'headrace')}.{node['name']}")
    if "fields" in node:
        written["fields"] = [{**field, "type": _write_out(field["type"], seen)} for field in node["fields"]]
    for part in ("items", "values"):
        if part in node:
            written[part] = _write_out(node[part], seen)
    if isinstance(node.get("type"), (dict, list)):
        written["type"] = _write_out(node["type"], seen)
    return written


@cache
def parsed(name: str) -> Any:
    """Return the schema as fastavro's codec wants it."""
    return fastavro.schema.parse_schema(inline(name))


def parse_foreign(text: str, where: str) -> Any:
    """Parse a schema that somebody else registered.

    Raises :class:`UndecodableRecord` for a schema with arrays or maps of zero-byte items: a few bytes could
    declare billions of them and keep the decoder busy without end.
    """
    try:
        schema = json.loads(text)
        _refuse_zero_byte_items(schema, where)
        return fastavro.schema.parse_schema(schema)
    except (ValueError, KeyError, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise UndecodableRecord(f"the schema does not parse: {error}", where=where) from error


def _refuse_zero_byte_items(node: Any, where: str) -> None:
    if isinstance(node, list):
        for branch in node:
            _refuse_zero_byte_items(branch, where)
    if not isinstance(node, dict):
        return
    for part in ("items", "values"):
        if part in node and node.get("type") == "array" and _is_zero_byte(node[part]):
            raise UndecodableRecord("the schema has an array of zero-byte items", where=where)
        if part in node:
            _refuse_zero_byte_items(node[part], where)
    for field in node.get("fields", []):
        _refuse_zero_byte_items(field.get("type"), where)
    if isinstance(node.get("type"), (dict, list)):
        _refuse_zero_byte_items(node["type"], where)


def _is_zero_byte(node: Any) -> bool:
    if isinstance(node, str):
        return node == _ZERO_SIZE_PRIMITIVE
    if not isinstance(node, dict):
        return False
    kind = node.get("type")
    if kind == "record":
        return all(_is_zero_byte(field["type"]) for field in node.get("fields", []))
    if kind == "fixed":
        return node.get("size") == 0
    return _is_zero_byte(kind)
