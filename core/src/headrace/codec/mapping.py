"""Conversion between dicts, as the Avro codec reads and writes them, and frozen dataclasses.

The mapping is derived once from a class's annotations: tuples of records, optional values and enums. All other values
are passed unchanged, so the cost at run time is one constructor call per record. A field with the metadata
:data:`headrace.payloads.FLAT` is a separate record in Python, but its fields are direct fields of the Avro record.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")
Values = dict[str, Any]
"""A record's fields by name, as fastavro reads and writes them."""
_Convert = Callable[[Any], Any]


def to_dict(record: object) -> Values:
    """Return the record as a dict for the Avro codec."""
    return writer(type(record))(record)


def reader(cls: type[T]) -> Callable[[Values], T]:
    """Return the function that builds ``cls`` from a freshly decoded dict, which it consumes."""
    key: Any = cls  # which mypy does not accept as hashable
    build: Callable[[Values], T] = _reader(key)
    return build


def writer(cls: type[T]) -> Callable[[T], Values]:
    """Return the function that turns an instance of ``cls`` into a dict."""
    key: Any = cls
    return _writer(key)


@cache
def _reader(cls: Any) -> _Convert:
    hints = typing.get_type_hints(cls)
    flat = [(f.name, _reader(hints[f.name]), _names(hints[f.name])) for f in fields(cls) if _is_flat(f)]
    special = [
        (f.name, convert) for f in fields(cls) if not _is_flat(f) and (convert := _reads(hints[f.name])) is not None
    ]

    def read(values: Values) -> Any:
        for name, convert in special:
            value = values.get(name)
            if value is not None:
                values[name] = convert(value)
        for name, convert, own in flat:
            values[name] = convert({field: values.pop(field) for field in own})
        return cls(**values)

    return read


@cache
def _writer(cls: Any) -> _Convert:
    hints = typing.get_type_hints(cls)
    flat = [(f.name, _writer(hints[f.name])) for f in fields(cls) if _is_flat(f)]
    plain = [f.name for f in fields(cls) if not _is_flat(f) and _writes(hints[f.name]) is None]
    special = [
        (f.name, convert) for f in fields(cls) if not _is_flat(f) and (convert := _writes(hints[f.name])) is not None
    ]

    get = _getter(plain)

    def write(record: Any) -> Values:
        values = dict(zip(plain, get(record), strict=True))
        for name, convert in flat:
            values |= convert(getattr(record, name))
        for name, convert in special:
            value = getattr(record, name)
            values[name] = None if value is None else convert(value)
        return values

    return write


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that returns the attributes of these names."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


def _is_flat(field: Field[Any]) -> bool:
    return bool(field.metadata.get("flat"))


def _names(cls: Any) -> list[str]:
    return [field.name for field in fields(cls)]


def _reads(hint: Any) -> _Convert | None:
    hint = _required(hint)
    if typing.get_origin(hint) is tuple:
        item = _reads(typing.get_args(hint)[0])
        return tuple if item is None else lambda values: tuple(map(item, values))
    if isinstance(hint, type) and is_dataclass(hint):
        return _reader(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        members: dict[str, StrEnum] = {member.value: member for member in hint}
        return lambda value: members.get(value, value)
    return None


def _writes(hint: Any) -> _Convert | None:
    hint = _required(hint)
    if typing.get_origin(hint) is tuple:
        item = _writes(typing.get_args(hint)[0])
        return None if item is None else lambda values: list(map(item, values))
    if isinstance(hint, type) and is_dataclass(hint):
        return _writer(hint)
    return None


def _required(hint: Any) -> Any:
    """Return the hint without None; other unions are returned unchanged."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [branch for branch in typing.get_args(hint) if branch is not types.NoneType]
        return rest[0] if len(rest) == 1 else hint
    return hint
