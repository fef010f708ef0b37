"""Documents by attribute, in a real PostgreSQL under row-level security."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest
import pytest_asyncio

from headrace.payloads import DocumentFacts
from headrace.store import documents
from headrace.store.generations import create_generation
from headrace.store.index import index_batch
from headrace.store.rows import NO_FACTS, Generation, IndexDocument

if TYPE_CHECKING:
    from headrace.store.pool import Pool

    Owner = asyncpg.Connection[asyncpg.Record]

pytestmark = pytest.mark.integration
pytest_plugins = ("headrace_testing.postgres_fixtures",)


@pytest_asyncio.fixture
async def generation(owner: Owner) -> Generation:
    """A generation of four dimensions."""
    return await create_generation(owner, Generation("first", "toy", 4))


def document(name: str, *, tenant: str = "acme", deleted: bool = False, **attributes: str) -> IndexDocument:
    """A document without passages."""
    return IndexDocument(
        tenant=tenant, document_id=name, version=2 if deleted else 1,
        facts=NO_FACTS if deleted else DocumentFacts(name, "", b"h" * 32, attributes=attributes),
        deleted=deleted, pipeline_id="index", pipeline_version="1", request_id="r", history=[], metadata={},
    )  # fmt: skip


async def test_live_documents_of_the_tenant_are_found_by_all_attributes_in_pages(
    pool: Pool, generation: Generation
) -> None:
    """If it failed, a search by attributes would miss documents, repeat them, or show another tenant's."""
    await index_batch(
        pool, generation,
        [
            *(document(f"d{number}", team="core", lang="en" if number % 2 else "de") for number in range(7)),
            document("other", team="edge", lang="en"),
            document("d1", tenant="beta", team="core", lang="en"),
        ],
    )  # fmt: skip
    await index_batch(pool, generation, [document("d5", deleted=True)])
    wanted = {"team": "core", "lang": "en"}
    first = await documents.having(pool, "acme", wanted, limit=1)
    rest = await documents.having(pool, "acme", wanted, after=first[0].document_id)
    assert [one.document_id for one in (*first, *rest)] == ["d1", "d3"]
    assert first[0].attributes == wanted
    assert [one.document_id for one in await documents.having(pool, "beta", {})] == ["d1"]
    assert await documents.having(pool, "acme", {"team": "none"}) == []
