"""The record types of a handler: declared once as type arguments, and true of every payload that it is given."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import new_class
from typing import TYPE_CHECKING, Any, Optional

import pytest

from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import InvalidRecord
from headrace.handler import BatchHandler, Handler, In, Out, check_payload
from headrace.payloads import ChunkedDocument, DocumentFacts, SourceDocument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.errors import HeadraceError

pytestmark = pytest.mark.unit

DOCUMENT = SourceDocument(DocumentFacts("T", "text/plain", bytes(16)), "text")
UPSERT = Context(
    Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC)), Change("t", "d", 1, Operation.UPSERT), DOCUMENT
)
DELETE = replace(UPSERT, change=replace(UPSERT.change, operation=Operation.DELETE)).with_payload(None)


class Split(Handler[SourceDocument, ChunkedDocument]):
    """A handler with two record types."""

    name = "split"

    async def process(self, context: Context[SourceDocument]) -> Context[ChunkedDocument]:
        return context.with_payload(ChunkedDocument(context.payload.facts, ()))


class Passing(BatchHandler[SourceDocument | None, SourceDocument | None]):
    """A handler that sees deletes."""

    name = "passing"

    async def process_batch(
        self, contexts: Sequence[Context[SourceDocument | None]]
    ) -> Sequence[Context[SourceDocument | None] | HeadraceError]:
        return contexts


class Base(BatchHandler[Out, In]):
    """Leaves its types open, and turns them round."""


class Bound(Base[ChunkedDocument, Optional[SourceDocument]]):  # noqa: UP045  # the old spelling has to work as well
    """Binds them."""


class Special(Split):
    """A subclass of a finished handler."""


@pytest.mark.parametrize(
    ("handler", "consumes", "produces", "sees_deletes"),
    [
        (Split, SourceDocument, ChunkedDocument, False),
        (Passing, SourceDocument, SourceDocument, True),
        (Bound, ChunkedDocument, SourceDocument, False),
        (Special, SourceDocument, ChunkedDocument, False),
    ],
)
def test_type_arguments_say_what_a_handler_takes_and_returns(
    handler: type[Handler], consumes: type, produces: type, *, sees_deletes: bool
) -> None:
    """Broken: a template is checked against other records than those that the handler works on."""
    assert (handler.consumes, handler.produces, handler.sees_deletes) == (consumes, produces, sees_deletes)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (Handler, r"handler One has no type arguments.*class One\(Handler\[SourceDocument, ChunkedDocument\]\)"),
        (BatchHandler, "handler One has no type arguments"),
        (Handler[Any, Any], "has the type argument typing.Any"),
        (Handler[SourceDocument, None], "has the type argument"),
        (Handler[SourceDocument | ChunkedDocument, SourceDocument], "has the type argument"),
        (Handler[int, SourceDocument], "has the type argument <class 'int'>"),
    ],
)
def test_missing_or_wrong_type_arguments_are_refused(base: Any, message: str) -> None:
    """Broken: a handler without record types is found out only when the first record comes."""
    with pytest.raises(TypeError, match=message):
        new_class("One", (base,))


@pytest.mark.parametrize("name", ["consumes", "produces", "sees_deletes"])
def test_what_follows_from_the_types_cannot_be_declared(name: str) -> None:
    """Broken: a declaration that contradicts the type arguments wins over them, or does nothing."""
    with pytest.raises(TypeError, match=f"declares {name}, which Headrace derives from its type arguments"):
        type("One", (Split,), {name: SourceDocument})


def test_a_payload_is_what_the_type_says() -> None:
    """Broken: a handler gets None or another record, and fails with an AttributeError that names no field."""
    check_payload(Split(), UPSERT)
    check_payload(Passing(), UPSERT)
    check_payload(Passing(), DELETE)
    with pytest.raises(InvalidRecord, match="is a ChunkedDocument; split@1 takes SourceDocument"):
        check_payload(Split(), UPSERT.with_payload(ChunkedDocument(DOCUMENT.facts, ())))
    for handler in (Split(), Passing()):
        with pytest.raises(InvalidRecord, match="is missing; an upsert must carry a SourceDocument"):
            check_payload(handler, UPSERT.with_payload(None))
