"""The schemas of ``schemas/avro``, loaded once and inlined, and the checks for foreign schemas."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import fastavro.schema

from headrace.errors import ConfigurationError, UndecodableRecord

SCHEMA_FOLDER = Path(__file__).parent.parent / "schemas" / "avro"
"""One file per record, named by its full name."""

_ZERO_SIZE_PRIMITIVE = "null"


def names() -> list[str]:
    """Return the full names of all schemas, sorted."""
    return sorted(path.stem for path in SCHEMA_FOLDER.glob("*.avsc"))


def inline(name: str) -> dict[str, Any]:
    """Return the schema with every named type defined at its first use, as the registry expects it."""
    path = SCHEMA_FOLDER / f"{name}.avsc"
    if not path.exists():
        raise ConfigurationError(
            f"schema {name!r} does not exist", where=str(SCHEMA_FOLDER), remedy=f"Use one of {', '.join(names())}."
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
    """Return the schema as fastavro's codec expects it."""
    return fastavro.schema.parse_schema(inline(name))


def own_if_equal(schema: Any) -> Any:
    """Return :func:`parsed` of the same name if it equals the parsed schema, otherwise the schema itself.

    fastavro does not resolve a writer's schema against the reader's if both are one object: half the time of a read.
    """
    name = schema.get("name") if isinstance(schema, dict) else None
    if name in names() and parsed(name) == schema:
        return parsed(name)
    return schema


def parse_foreign(text: str, where: str) -> Any:
    """Parse a schema that another application registered.

    Raises :class:`UndecodableRecord` for a schema with arrays of zero-byte items, named or inline, because a few bytes
    could declare billions of items and keep the decoder busy forever. Also raises it for a type that contains itself,
    because fastavro recurses in C without a limit, so one record could crash the process.
    """
    try:
        schema = json.loads(text)
        _refuse_bombs(schema, where, {}, frozenset())
        return fastavro.schema.parse_schema(schema)
    except (*_UNPARSABLE, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise UndecodableRecord(f"the schema is invalid: {type(error).__name__} {error}", where=where) from error


_UNPARSABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _refuse_bombs(node: Any, where: str, known: dict[str, Any], inside: frozenset[str]) -> None:
    """Walk the schema and refuse both; ``known`` collects named types, ``inside`` has those that contain this node."""
    if isinstance(node, str) and _short(node) in inside:
        raise UndecodableRecord(f"the schema's type {node} contains itself", where=where)
    if isinstance(node, list):
        for branch in node:
            _refuse_bombs(branch, where, known, inside)
    if not isinstance(node, dict):
        return
    if node.get("type") in ("record", "error", "fixed", "enum"):
        known[_short(node["name"])] = node
        inside |= {_short(node["name"])}
    for part in ("items", "values"):
        if part in node:
            _refuse_bombs(node[part], where, known, inside)
            if node.get("type") == "array" and _is_zero_byte(node[part], known):
                raise UndecodableRecord("the schema has an array of zero-byte items", where=where)
    for field in node.get("fields", []):
        _refuse_bombs(field["type"], where, known, inside)
    if isinstance(node.get("type"), (dict, list)):
        _refuse_bombs(node["type"], where, known, inside)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _is_zero_byte(node: Any, known: dict[str, Any]) -> bool:
    if isinstance(node, str):
        return node == _ZERO_SIZE_PRIMITIVE or (_short(node) in known and _is_zero_byte(known[_short(node)], known))
    if not isinstance(node, dict):
        return False
    kind = node.get("type")
    if kind in ("record", "error"):
        return all(_is_zero_byte(field["type"], known) for field in node.get("fields", []))
    if kind == "fixed":
        return node.get("size") == 0
    return _is_zero_byte(kind, known)
