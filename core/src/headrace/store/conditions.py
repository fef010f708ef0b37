"""Conditions that documents and chunks must meet to be found, as SQL with bound parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PARAMETER = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters for documents; None means no filter, and all attributes must match."""

    document_ids: tuple[str, ...] | None = None
    attributes: Mapping[str, str] | None = None


NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class Condition:
    """An SQL boolean over the aliases ``d`` (a row of ``document``) and ``c`` (a row of ``chunk``), with its values.

    The text numbers its own parameters from $1; :meth:`after` numbers them for a query that has others before them.
    """

    text: str = "TRUE"
    values: tuple[Any, ...] = ()

    def after(self, parameters: int) -> str:
        """Return the text for a query whose own parameters are $1 to ``$parameters``."""
        return _PARAMETER.sub(lambda found: f"${int(found[1]) + parameters}", self.text)


def condition_of(filters: Filters) -> Condition:
    """Return the condition of these filters."""
    texts: list[str] = []
    values: list[Any] = []
    if filters.document_ids is not None:
        values.append(list(filters.document_ids))
        texts.append(f"d.document_id = ANY (${len(values)}::text[])")
    if filters.attributes is not None:
        values.append(dict(filters.attributes))
        texts.append(f"d.attributes @> ${len(values)}::jsonb")
    return Condition(" AND ".join(texts) or "TRUE", tuple(values))
