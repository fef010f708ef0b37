"""Between dicts, as the Avro codec reads and writes them, and frozen dataclasses.

The mapping is derived once from a class's annotations: tuples of records, optional values, enums; everything else
passes as it is, so the cost at run time is one constructor call for each record.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any

Convert = Callable[[Any], Any]


def to_dict(record: Any) -> dict[str, Any]:
    """Return the record as the Avro codec wants it."""
    cls: Any = type(record)
    result: dict[str, Any] = writer(cls)(record)
    return result


@cache
def reader(cls: Any) -> Convert:
    """Return the function that builds ``cls`` from a freshly decoded dict, which it uses up."""
    hints = typing.get_type_hints(cls)
    special = [(f.name, convert) for f in fields(cls) if (convert := _reads(hints[f.name])) is not None]

    def read(values: dict[str, Any]) -> Any:
        for name, convert in special:
            value = values.get(name)
            if value is not None:
                values[name] = convert(value)
        return cls(**values)

    return read


@cache
def writer(cls: Any) -> Convert:
    """Return the function that turns an instance of ``cls`` into a dict."""
    hints = typing.get_type_hints(cls)
    plain = [f.name for f in fields(cls) if _writes(hints[f.name]) is None]
    special = [(f.name, convert) for f in fields(cls) if (convert := _writes(hints[f.name])) is not None]

    def write(record: Any) -> dict[str, Any]:
        values = {name: getattr(record, name) for name in plain}
        for name, convert in special:
            value = getattr(record, name)
            values[name] = None if value is None else convert(value)
        return values

    return write


def _reads(hint: Any) -> Convert | None:
    hint = _required(hint)
    if typing.get_origin(hint) is tuple:
        item = _reads(typing.get_args(hint)[0])
        return tuple if item is None else lambda values: tuple(map(item, values))
    if isinstance(hint, type) and is_dataclass(hint):
        return reader(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        members: dict[str, StrEnum] = {member.value: member for member in hint}
        return lambda value: members.get(value, value)
    return None


def _writes(hint: Any) -> Convert | None:
    hint = _required(hint)
    if typing.get_origin(hint) is tuple:
        item = _writes(typing.get_args(hint)[0])
        return None if item is None else lambda values: list(map(item, values))
    if isinstance(hint, type) and is_dataclass(hint):
        return writer(hint)
    return None


def _required(hint: Any) -> Any:
    """Return the hint without None; other unions stay as they are."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [branch for branch in typing.get_args(hint) if branch is not types.NoneType]
        return rest[0] if len(rest) == 1 else hint
    return hint
