"""Questions with the document that answers each: read from a file, or drawn from the documents' own headings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.access.readers import EVERY_DOCUMENT
from headrace.errors import ConfigurationError
from headrace.store.transactions import tenant_transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.store.pool import Pool

MOST = 10_000
_LONGEST = 10_000
_FEWEST_LETTERS = 6
_READ = 50_000
"""Chunks of a tenant that headings are drawn from."""
_HEADINGS = """
SELECT heading, min(document_id) AS document_id
FROM (
    SELECT section[cardinality(section)] AS heading, document_id
    FROM (SELECT section, document_id FROM chunk WHERE tenant = $1 LIMIT $4) AS read
    WHERE cardinality(section) > 0
) AS headed
WHERE length(heading) >= $5
GROUP BY heading
HAVING count(DISTINCT document_id) = 1
ORDER BY md5(heading || $2)
LIMIT $3
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a tenant, and the document that answers it."""

    tenant: str
    question: str
    document_id: str


def read_questions(path: Path, tenant: str | None) -> list[Asked]:
    """Return the questions of a file of JSON lines: ``{"question": …, "document": …, "tenant": …}``.

    Raises :class:`ConfigurationError` naming the line that is wrong.
    """
    found: list[Asked] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the questions: {error}", where=str(path)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_asked(line, f"{path}:{number}", tenant))
    if not 1 <= len(found) <= MOST:
        raise ConfigurationError(f"has {len(found)} questions; 1 to {MOST} are allowed", where=str(path))
    return found


def _asked(line: str, where: str, tenant: str | None) -> Asked:
    remedy = 'Write one object a line: {"question": "…", "document": "…", "tenant": "…"}.'
    try:
        given: dict[str, Any] = json.loads(line)
        texts: list[Any] = [given.get("tenant", tenant), given["question"], given["document"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"is not a question: {error!r}", where=where, remedy=remedy) from error
    if not all(isinstance(text, str) and 0 < len(text) <= _LONGEST for text in texts):
        raise ConfigurationError(
            f"question, document and tenant must be texts of 1 to {_LONGEST} characters", where=where, remedy=remedy
        )
    return Asked(*texts)


async def drawn(pool: Pool, tenants: Sequence[tuple[str, int]], count: int, seed: str) -> list[Asked]:
    """Return about ``count`` headings that one document of a tenant has alone, as questions for it.

    ``tenants`` are names with their number of documents; each contributes its share, the largest first. The same seed
    draws the same headings.
    """
    total = sum(documents for _, documents in tenants) or 1
    found: list[Asked] = []
    for tenant, documents in sorted(tenants, key=lambda one: (-one[1], one[0])):
        if len(found) >= count:
            break
        share = max(1, round(count * documents / total))
        async with tenant_transaction(pool, tenant, reader=EVERY_DOCUMENT, readonly=True) as connection:
            most = min(share, count - len(found))
            rows = await connection.fetch(_HEADINGS, tenant, seed, most, _READ, _FEWEST_LETTERS)
        found += [Asked(tenant, row["heading"], row["document_id"]) for row in rows]
    return found
