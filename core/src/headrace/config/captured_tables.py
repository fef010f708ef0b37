"""Captured tables: how rows become documents, read from a file and checked before capture starts.

A template such as ``article/{id}`` is text with placeholders for column values. A template that is a single column
takes the column's value unchanged. Nothing in a template is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from headrace.config import yaml_file
from headrace.errors import ConfigurationError, InvalidRecord

_FULL_NAME_DOTS = 2
_NO_FILE = "Name the file that maps table rows to documents; the guide on captured tables shows an example."
OFFSET = "offset"
LSN = "lsn"


@dataclass(frozen=True, slots=True)
class Template:
    """Text with columns; each part has a text and the column that follows it, or None."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in the template, each once, in order."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def fill(self, row: Mapping[str, Any]) -> Any:
        """Return the text for the row; for a template of a single column, its value: text, None or a list of texts.

        Raises :class:`InvalidRecord` naming the existing columns if the row lacks one, and for a value that is not a
        text, number or boolean.
        """
        if len(self.parts) == 1 and not self.parts[0][0] and self.parts[0][1] is not None:
            return _value(row, self.parts[0][1])
        return "".join(text + ("" if column is None else _joined(row, column)) for text, column in self.parts)

    @classmethod
    def read(cls, given: object) -> Template:
        """Return the template; raises :class:`ValueError`."""
        if isinstance(given, cls):
            return given
        if not isinstance(given, str):
            raise ValueError("is not text; put it in quotes")  # noqa: TRY004  # pydantic reports ValueError by its place
        parts = []
        for text, column, form, conversion in Formatter().parse(given):
            if column is not None and (form or conversion or not column):
                raise ValueError(f"{given!r}: write only a column name between braces")
            parts.append((text, column))
        return cls(tuple(parts))


def _version(given: object) -> str | Template:
    if given in (OFFSET, LSN):
        return str(given)
    template = Template.read(given)
    if not template.columns:
        raise ValueError(f"{given!r} is not allowed; use {OFFSET}, {LSN} or a column in braces")
    return template


Filled = Annotated[Template, BeforeValidator(Template.read)]


class Table(BaseModel):
    """How a table's rows become documents."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    tenant: Filled
    id: Filled
    text: Filled
    title: Filled | None = None
    media_type: Filled | None = None
    acl: Filled | None = None
    attributes: dict[str, Filled] = Field(default_factory=dict)
    pipeline: str | None = None
    version: Annotated[str | Template, BeforeValidator(_version)] = OFFSET

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that identify the document of a row."""
        return tuple(dict.fromkeys((*self.tenant.columns, *self.id.columns)))

    @property
    def columns(self) -> tuple[str, ...]:
        """All used columns."""
        others = [self.text, self.title, self.media_type, self.acl, self.version, *self.attributes.values()]
        used = [column for one in others if isinstance(one, Template) for column in one.columns]
        return tuple(dict.fromkeys((*self.identity, *used)))

    def missing(self, known: Iterable[str]) -> list[str]:
        """Return the used columns that do not exist."""
        there = set(known)
        return [column for column in self.columns if column not in there]


def read_tables(path: Path | None) -> dict[str, Table]:
    """Return the tables of a YAML file by their names, ``schema.table``; none without a file.

    Raises :class:`ConfigurationError` naming file, line and reason.
    """
    if path is None:
        return {}
    given = yaml_file.read(path, "the file of captured tables", remedy=_NO_FILE)
    if not isinstance(given, dict) or set(given) != {"tables"} or not isinstance(given["tables"], dict):
        raise ConfigurationError(
            "the file must be a mapping with the single key `tables`", where=str(path),
            remedy="Write `tables:` and, below it, one entry `schema.table:` for each table.",
        )  # fmt: skip
    return {str(name): _table(path, given["tables"], name) for name in given["tables"]}


def of_capture(tables: Mapping[str, Table], name: str) -> dict[str, Table]:
    """Return the tables of the capture ``name`` by ``schema.table``; its own mapping overrides a general one."""
    general = {table: mapped for table, mapped in tables.items() if table.count(".") < _FULL_NAME_DOTS}
    own = {table.removeprefix(f"{name}."): mapped for table, mapped in tables.items() if table.startswith(f"{name}.")}
    return general | {table: mapped for table, mapped in own.items() if table.count(".") == 1}


def _table(path: Path, tables: Any, name: Any) -> Table:
    try:
        table = Table.model_validate(tables[name])
    except ValidationError as error:
        place, reason = yaml_file.refusal(error)
        raise ConfigurationError(
            f"{'.'.join(map(str, [name, *place]))}: {reason}", where=f"{path}:{yaml_file.line(tables, [name, *place])}",
            remedy=f"The fields of a table are {', '.join(Table.model_fields)}; the guide on captured tables "
                   "shows an example.",
        ) from error  # fmt: skip
    if not table.id.columns:
        raise ConfigurationError(
            f"{name}.id: does not name a column, so all rows would become one document",
            where=f"{path}:{yaml_file.line(tables, [name, 'id'])}",
            remedy="Write the key columns in braces: article/{id}.",
        )  # fmt: skip
    return table


def _joined(row: Mapping[str, Any], column: str) -> str:
    value = _value(row, column)
    if isinstance(value, list):
        raise InvalidRecord(
            column, "is a list; a list must be the whole value", remedy="Join its items into one text in the database."
        )
    return value or ""


def _value(row: Mapping[str, Any], column: str) -> str | list[str] | None:
    if column not in row:
        raise InvalidRecord(
            column, f"is not a column of the row; its columns are {', '.join(sorted(row))}"[:1000],
            remedy="Name another column in the file of HEADRACE_INGEST_TABLES.",
        )  # fmt: skip
    value = row[column]
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise InvalidRecord(
        column, f"is a {type(value).__name__}; allowed are text, numbers and lists of texts",
        remedy="Have the connector write it as text: decimal.handling.mode=string, or a column of type text.",
    )  # fmt: skip
