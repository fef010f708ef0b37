"""What the audit refuses before it looks, and how it explains what it found."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import SecretStr

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace.errors import ConfigurationError
from headrace.store.pool import StoreSettings
from headrace.store.rows import Generation
from headrace_operations.audit.model import Finding, Kind
from headrace_operations.audit.run import Scope, audit, chosen, explained

pytestmark = pytest.mark.unit

KNOWN = [Generation("g1", "m", 3, state="active"), Generation("g2", "n", 4)]


def test_the_active_generation_is_audited_unless_another_is_named() -> None:
    """The vectors of another generation than the one that is searched would be looked at."""
    assert chosen(KNOWN, None).name == "g1"
    assert chosen(KNOWN, "g2").name == "g2"


@pytest.mark.parametrize(("known", "wanted"), [(KNOWN, "g3"), (KNOWN[1:], None), ([], None)])
def test_a_generation_that_does_not_exist_is_refused_with_those_that_do(
    known: list[Generation], wanted: str | None
) -> None:
    """An audit of nothing would be clean."""
    with pytest.raises(ConfigurationError) as refused:
        chosen(known, wanted)
    assert all(one.name in refused.value.remedy for one in known)


def test_a_document_without_its_tenant_is_refused_before_anything_is_asked() -> None:
    """Which of two tenants' documents of one id is meant would be a guess."""
    store = StoreSettings(dsn=SecretStr("postgresql://127.0.0.1:1/nothing"))
    with pytest.raises(ConfigurationError, match="requires --tenant"):
        asyncio.run(audit(KafkaSettings(), Codec(FixedIds()), store, Scope(document_id="a")))


def test_an_open_dead_letter_explains_what_is_missing_and_is_sent_again_first() -> None:
    """The reason why a document did not arrive would stay unsaid, or be given for a row that nobody asked for."""
    letters = {b"acme/a": ["chunker/1/0", "indexer/0/4", "chunker/1/9"]}
    missing = Finding(Kind.MISSING, "document", "acme", "a", "x", "y", ("headrace replay",))
    found = explained(missing, letters)
    assert found.dead_letters == ("chunker/1/0", "indexer/0/4", "chunker/1/9")
    assert found.repair == (
        "headrace dlq redrive --stage chunker --tenant acme --document a",
        "headrace dlq redrive --stage indexer --tenant acme --document a",
        "headrace replay",
    )
    row = explained(Finding(Kind.MISSING, "vector", "acme", "a", "x", "y", ("headrace replay",)), letters)
    assert (row.dead_letters, row.repair) == (found.dead_letters, ("headrace replay",))
    for other in (
        Finding(Kind.ORPHAN, "document", "acme", "a", "x", "y", ("headrace delete",)),
        Finding(Kind.MISSING, "document", "acme", "b", "x", "y", ("headrace replay",)),
    ):
        assert explained(other, letters) == other
