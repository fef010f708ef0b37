"""Named queries from the files in ``store/sql``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

_BLOCK = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)


@cache
def load(file: str) -> Mapping[str, str]:
    """Read ``sql/<file>.sql``: each block from ``-- name: …`` to the next one is a query with that name."""
    text = resources.files("headrace.store.sql").joinpath(f"{file}.sql").read_text(encoding="utf-8")
    return MappingProxyType({name: query.strip() for name, query in _BLOCK.findall(text)})
