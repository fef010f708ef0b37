"""Freezes the schemas of the topics as released, and refuses schemas that older or newer readers cannot read.

``python -m headrace_tools.frozen`` writes ``schemas/frozen/<record>/<n>.avsc`` and ``<n>.bin``, a sample in plain
Avro, for each record that differs from its newest frozen version. The rule is the registry's FULL_TRANSITIVE, tested
by reading each version's bytes with every other version's schema.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import fastavro.schema
from fastavro.read import SchemaResolutionError

from headrace.codec import schemas
from headrace.errors import HeadraceError
from headrace.topology import topics
from headrace_tools.discovery import ROOT

FOLDER = ROOT / "schemas" / "frozen"
RULE = "FULL_TRANSITIVE"
_SAMPLES = 32
"""Random samples per schema, besides the rich one; enough to cover every branch of every union."""

_TEXTS = ("", "Änderung", "변경 이벤트", "🌊 river", "plain text")
_UNREADABLE = (SchemaResolutionError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError)


class IncompatibleSchema(HeadraceError):
    """A record's new schema and a released one cannot read each other's data."""

    code = "incompatible-schema"
    default_remedy = (
        "Only add or remove fields that have a default. Make any other change a new record "
        "under a new name, on a topic of its own."
    )


@dataclass(frozen=True, slots=True)
class Frozen:
    """One frozen version: its number, from 1, its schema, and the bytes of a sample."""

    number: int
    schema: dict[str, Any]
    data: bytes


def record_names() -> list[str]:
    """Return the records of all topics, by name."""
    return topics.record_schemas()


def versions(name: str, folder: Path = FOLDER) -> list[Frozen]:
    """Return the record's frozen versions, oldest first."""
    numbers = sorted(int(path.stem) for path in (folder / name).glob("*.avsc"))
    return [
        Frozen(
            number,
            json.loads((folder / name / f"{number}.avsc").read_text(encoding="utf-8")),
            (folder / name / f"{number}.bin").read_bytes(),
        )
        for number in numbers
    ]


def freeze(name: str, schema: dict[str, Any], folder: Path = FOLDER) -> int | None:
    """Freeze the schema as the record's next version; return its number, or None if the newest is the same.

    Raises :class:`IncompatibleSchema`, and writes nothing then.
    """
    known = versions(name, folder)
    if known and known[-1].schema == schema:
        return None
    check(name, schema, known)
    number = known[-1].number + 1 if known else 1
    (folder / name).mkdir(parents=True, exist_ok=True)
    text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    (folder / name / f"{number}.bin").write_bytes(encode(schema, rich(name, schema)))
    (folder / name / f"{number}.avsc").write_text(text, encoding="utf-8")
    return number


def check(name: str, schema: dict[str, Any], known: list[Frozen]) -> None:
    """Read every frozen version's bytes with the schema, and the schema's bytes with every frozen version's.

    Raises :class:`IncompatibleSchema` naming the record, the version and the direction that fails.
    """
    for frozen in known:
        where = f"{name}, frozen version {frozen.number}"
        old = [frozen.data, *(encode(frozen.schema, value) for value in samples(name, frozen.schema))]
        for data in old:
            _read(data, frozen.schema, schema, f"{RULE} (backward): bytes of {where}, are not read by the new schema")
        for value in samples(name, schema):
            data = encode(schema, value)
            _read(data, schema, frozen.schema, f"{RULE} (forward): bytes of the new schema are not read by {where}")


def _read(data: bytes, writer: dict[str, Any], reader: dict[str, Any], complaint: str) -> None:
    try:
        decode(data, writer, reader)
    except _UNREADABLE as error:
        raise IncompatibleSchema(f"{complaint}: {type(error).__name__}: {error}.") from error


def encode(schema: dict[str, Any], value: Any) -> bytes:
    """Return the value in plain Avro, without a header."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, _parsed(schema), value)
    return buffer.getvalue()


def decode(data: bytes, writer: dict[str, Any], reader: dict[str, Any]) -> Any:
    """Return the value that a reader with schema ``reader`` reads from bytes written with ``writer``, to the last byte.

    Raises what fastavro raises, and :class:`ValueError` if bytes are left over.
    """
    buffer = io.BytesIO(data)
    value = fastavro.schemaless_reader(buffer, _parsed(writer), _parsed(reader))
    if buffer.tell() != len(data):
        raise ValueError(f"{len(data) - buffer.tell()} bytes are left over")
    return value


def rich(name: str, schema: dict[str, Any]) -> Any:
    """Return a value with every optional field set and no collection empty; the same on every call."""
    return _Sampler(schema, random.Random(f"{name}/rich"), rich=True).value(schema)


def samples(name: str, schema: dict[str, Any]) -> Iterator[Any]:
    """Yield the rich value and random ones; the same on every call."""
    yield rich(name, schema)
    for seed in range(_SAMPLES):
        yield _Sampler(schema, random.Random(f"{name}/{seed}"), rich=False).value(schema)


class _Sampler:
    """Makes values of a schema; references to named types are looked up by full name."""

    def __init__(self, schema: dict[str, Any], source: random.Random, *, rich: bool) -> None:
        self._random = source
        self._rich = rich
        self._named: dict[str, Any] = {}
        self._learn(schema)

    def value(self, node: Any) -> Any:
        """Return a value of the type."""
        if isinstance(node, list):
            return self._branch(node)
        kind = node if isinstance(node, str) else node["type"]
        if kind in self._named and isinstance(node, str):
            return self.value(self._named[kind])
        if isinstance(kind, (list, dict)):
            return self.value(kind)
        if kind == "record":
            return {field["name"]: self.value(field["type"]) for field in node["fields"]}
        if kind == "enum":
            return node["symbols"][0] if self._rich else self._random.choice(node["symbols"])
        if kind == "array":
            return [self.value(node["items"]) for _ in range(self._length())]
        if kind == "map":
            items = node["values"]
            branches = items if isinstance(items, list) else [items]
            count = len(branches) if self._rich else self._length()
            return {f"user.key{index}": self.value(branches[index % len(branches)]) for index in range(count)}
        return self._primitive(kind)

    def _branch(self, branches: list[Any]) -> Any:
        chosen = (
            next(branch for branch in branches if branch != "null") if self._rich else self._random.choice(branches)
        )
        value = self.value(chosen)
        named = chosen if isinstance(chosen, str) else chosen.get("name") and _full_name(chosen)
        return (named, value) if named in self._named else value

    def _length(self) -> int:
        return 2 if self._rich else self._random.randrange(3)

    def _primitive(self, kind: str) -> Any:
        source = self._random
        if kind == "string":
            return "변경 🌊 text" if self._rich else source.choice(_TEXTS)
        if kind == "bytes":
            return source.randbytes(16)
        if kind in ("int", "long"):
            return source.randrange(2**31 if kind == "int" else 2**50)
        if kind in ("double", "float"):
            return source.randrange(2**16) / 256
        if kind == "boolean":
            return self._rich or source.random() < 0.5
        if kind == "null":
            return None
        raise ValueError(f"no sample for the Avro type {kind!r}")

    def _learn(self, node: Any) -> None:
        if isinstance(node, list):
            for branch in node:
                self._learn(branch)
        if not isinstance(node, dict):
            return
        if node.get("type") in ("record", "enum"):
            self._named[_full_name(node)] = node
        for field in node.get("fields", []):
            self._learn(field["type"])
        for part in ("items", "values", "type"):
            self._learn(node.get(part))


def _full_name(node: dict[str, Any]) -> str:
    return f"{node.get('namespace', 'headrace')}.{node['name']}"


def _parsed(schema: dict[str, Any]) -> Any:
    return fastavro.schema.parse_schema(schema)


def main() -> int:
    """Freeze what changed; exit with 1 and name the records whose change is not allowed."""
    failed = 0
    for name in record_names():
        try:
            number = freeze(name, schemas.inline(name))
        except IncompatibleSchema as error:
            print(error, file=sys.stderr)
            failed = 1
            continue
        print(f"{name}: version {number} frozen" if number else f"{name}: unchanged")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
