"""The envelope's rules: who may write what, and which changes are refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.envelope import (
    MAX_ID_LENGTH,
    Change,
    Context,
    Metadata,
    Operation,
    Trace,
    check_change,
    check_transition,
)
from headrace.errors import InvalidRecord, MetadataError

pytestmark = pytest.mark.unit

CONTEXT = Context(
    Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC)),
    Change("t", "d", 1, Operation.UPSERT),
    "payload",
    Metadata({"user.team": "core"}),
)
CHANGE = CONTEXT.change


def test_the_key_is_tenant_and_document() -> None:
    """Broken: documents of one tenant share a key, or scatter over partitions."""
    assert Change("테넌트", "a/b🙂", 1, Operation.DELETE).key == "테넌트/a/b🙂".encode()


def test_contexts_cannot_be_changed_in_place() -> None:
    """Broken: a handler changes what another one, or a repeat, sees."""
    for target, name in ((CONTEXT, "payload"), (CONTEXT.trace, "request_id"), (CONTEXT.change, "version")):
        with pytest.raises(FrozenInstanceError):
            setattr(target, name, "x")
    with pytest.raises(TypeError):
        CONTEXT.metadata["user.team"] = "x"  # type: ignore[index]


def test_added_metadata_stands_beside_what_was_there() -> None:
    """Broken: facts of earlier stages or of the client are lost."""
    after = CONTEXT.with_metadata("chunker", chunks=3).with_payload("other")
    check_transition(CONTEXT, after, "chunker")
    assert dict(after.metadata) == {"user.team": "core", "chunker.chunks": 3}
    assert dict(CONTEXT.metadata) == {"user.team": "core"}
    assert after.payload == "other"


@pytest.mark.parametrize("stage", ["system", "trace"])
def test_reserved_stages_are_read_only(stage: str) -> None:
    """Broken: a handler forges what the system says of a record."""
    with pytest.raises(MetadataError, match=rf"stage '{stage}' may not write metadata key '{stage}\.x'"):
        CONTEXT.with_metadata(stage, x=1)


def test_a_key_is_written_once() -> None:
    """Broken: a stage rewrites what it said before."""
    once = CONTEXT.with_metadata("chunker", x=1)
    with pytest.raises(MetadataError, match=r"'chunker' may not overwrite metadata key 'chunker\.x'"):
        once.with_metadata("chunker", x=1)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({}, r"'chunker' removed metadata key 'user\.team'"),
        ({"user.team": "x"}, r"'chunker' overwrote metadata key 'user\.team'"),
        (
            {"user.team": "core", "user.more": 1},
            r"'chunker' wrote metadata key 'user\.more': a stage may only write keys that start with its own name",
        ),
        ({"user.team": "core", "system.x": 1}, r"'chunker' wrote metadata key 'system\.x': system\.\* is read-only"),
        ({"user.team": "core", "trace.x": 1}, r"'chunker' wrote metadata key 'trace\.x': trace\.\* is read-only"),
        ({"user.team": "core", "embedder.x": 1}, r"'chunker' wrote metadata key 'embedder\.x'"),
        ({"user.team": "core", "chunker": 1}, r"'chunker' wrote metadata key 'chunker': use the form"),
        ({"user.team": "core", "chunker.a b": 1}, r"'chunker' wrote metadata key 'chunker\.a b': use the form"),
    ],
)
def test_violations_name_stage_and_key(items: dict[str, Any], message: str) -> None:
    """Broken: the dead letter does not say which stage broke which rule."""
    with pytest.raises(MetadataError, match=message):
        check_transition(CONTEXT, replace(CONTEXT, metadata=Metadata(items)), "chunker")


def test_trace_and_change_are_immutable_across_handlers() -> None:
    """Broken: a handler moves a record to another tenant, version or pipeline."""
    with pytest.raises(MetadataError, match="changed the trace"):
        check_transition(CONTEXT, replace(CONTEXT, trace=replace(CONTEXT.trace, request_id="x")), "chunker")
    with pytest.raises(MetadataError, match="changed tenant"):
        check_transition(CONTEXT, replace(CONTEXT, change=replace(CHANGE, tenant="x")), "chunker")
    equal = replace(CONTEXT, trace=replace(CONTEXT.trace), change=replace(CHANGE))
    check_transition(CONTEXT, equal, "chunker")


@settings(max_examples=100, derandomize=True)
@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), st.integers(), max_size=4))
def test_what_with_metadata_writes_passes_the_check(values: dict[str, int]) -> None:
    """Broken: a handler that keeps to the contract is refused."""
    values.pop("stage", None)
    values.pop("self", None)
    check_transition(CONTEXT, CONTEXT.with_metadata("chunker", **values), "chunker")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (replace(CHANGE, tenant=""), "tenant"),
        (replace(CHANGE, document_id=""), "document_id"),
        (replace(CHANGE, tenant="a/b"), "tenant"),
        (replace(CHANGE, tenant="a\x00"), "tenant"),
        (replace(CHANGE, document_id="a\ud800"), "document_id"),
        (replace(CHANGE, document_id="x" * (MAX_ID_LENGTH + 1)), "document_id"),
        (replace(CHANGE, version=-1), "version"),
        (replace(CHANGE, version=2**63), "version"),
    ],
)
def test_bad_changes_name_the_field(change: Change, field: str) -> None:
    """Broken: the sender cannot tell which field to repair."""
    with pytest.raises(InvalidRecord) as raised:
        check_change(change)
    assert raised.value.field == field
    assert field in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        replace(CHANGE, document_id="x" * MAX_ID_LENGTH, version=0),
        replace(CHANGE, document_id="경로/🙂", version=2**63 - 1),
    ],
)
def test_changes_at_the_bounds_pass(change: Change) -> None:
    """Broken: legal documents are refused."""
    assert check_change(change) is change
