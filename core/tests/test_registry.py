"""Handlers are found by name; a package of a user's own adds one without a line of the core changed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import new_class
from typing import Any

import pytest

from headrace.envelope import Context
from headrace.errors import ConfigurationError
from headrace.handler import Handler, Out
from headrace.handlers.registry import HandlerRegistry, installed
from headrace.payloads import ChunkedDocument, SourceDocument

pytestmark = pytest.mark.unit

MODULE = """
from headrace.handler import Handler
from headrace.payloads import ChunkedDocument

class Redact(Handler[ChunkedDocument, ChunkedDocument]):
    name = "redact"
    stage = "acme-stage"

    async def process(self, context):
        return context

class NoHandler:
    pass
"""


def handler(**values: Any) -> type[Handler]:
    """A handler class of its own."""

    async def process(self: Handler, context: Context) -> Context:
        return context

    declared = {"name": "one", "stage": "chunker"} | values
    kept = {name: value for name, value in declared.items() if value is not None}
    base = Handler[SourceDocument, ChunkedDocument]
    return new_class("One", (base,), exec_body=lambda space: space.update(kept, process=process))


def test_handlers_are_found_by_stage_and_name() -> None:
    """Broken: a template's handler is not found, or another stage's runs."""
    one, two = handler(), handler(name="two")
    other = handler(stage="embedder")
    registry = HandlerRegistry([two, one, other])
    assert registry.find("chunker", "one") is one
    assert registry.find("embedder", "one") is other
    assert registry.names("chunker") == ["one", "two"]
    assert registry.all() == [one, two, other]
    assert registry.add(one) is one
    assert one().identity == "one@1"


def test_an_unknown_handler_names_those_that_exist() -> None:
    """Broken: a typo in a template costs a search through packages."""
    registry = HandlerRegistry([handler(), handler(name="two")])
    with pytest.raises(ConfigurationError, match=r"'chunker' has no handler 'tow'.*one, two"):
        registry.find("chunker", "tow")
    with pytest.raises(ConfigurationError, match="none"):
        registry.find("nowhere", "one")


def test_a_name_is_given_once_in_a_stage() -> None:
    """Broken: the handler that runs depends on the order of installed packages."""
    with pytest.raises(ConfigurationError, match="exists twice"):
        HandlerRegistry([handler(), handler()])


@pytest.mark.parametrize("missing", ["name", "stage"])
def test_an_incomplete_handler_is_refused(missing: str) -> None:
    """Broken: a handler without a name fails only when a template asks for it."""
    with pytest.raises(ConfigurationError, match=f"does not declare {missing}"):
        HandlerRegistry([handler(**{missing: None})])


def test_a_handler_of_any_record_is_refused() -> None:
    """Broken: a base class that leaves its records open runs as a step, on whatever comes."""

    class Open(Handler[SourceDocument, Out]):
        name = "open"
        stage = "chunker"

    with pytest.raises(ConfigurationError, match="does not declare record types"):
        HandlerRegistry([Open])  # type: ignore[type-abstract]  # what the test is about


@pytest.mark.parametrize("name", ["", "Upper", "with space", "a.b", "-a", "x" * 64])
def test_a_bad_name_is_refused(name: str) -> None:
    """Broken: a handler has a name that no template can say."""
    with pytest.raises(ConfigurationError, match="invalid handler name"):
        HandlerRegistry([handler(name=name)])


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a distribution with these entry points on the path."""
    (tmp_path / "acme_headrace_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(*lines: str) -> None:
        info = tmp_path / "acme_headrace_test-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-headrace-test\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[headrace.handlers]", *lines, ""]))

    yield write
    sys.modules.pop("acme_headrace_test", None)


def test_a_package_adds_a_handler(install: Any) -> None:
    """Broken: users must change the core to add a handler."""
    install("acme-stage.redact = acme_headrace_test:Redact")
    found = installed("acme-stage")
    assert found.names("acme-stage") == ["redact"]
    assert found.find("acme-stage", "redact").__module__ == "acme_headrace_test"


def test_a_service_loads_no_other_stage_s_modules(install: Any) -> None:
    """Broken: the chunker imports torch because the embedder's package is installed beside it."""
    install("acme-stage.redact = acme_headrace_test:Redact")
    assert "acme_headrace_test" not in sys.modules
    assert installed("another-stage").all() == []
    assert "acme_headrace_test" not in sys.modules


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("acme-stage.gone = acme_headrace_test:Gone", "cannot be loaded: AttributeError"),
        ("acme-stage.gone = acme_no_such_module:Gone", "cannot be loaded: ModuleNotFoundError"),
        ("acme-stage.no = acme_headrace_test:NoHandler", "is not a Handler class"),
        (
            "acme-stage.other = acme_headrace_test:Redact",
            "loads the handler 'redact'.*Rename the entry point to acme-stage.redact",
        ),
    ],
)
def test_a_broken_package_is_named(install: Any, line: str, message: str) -> None:
    """Broken: one broken package stops a stage and nobody learns which."""
    install(line)
    with pytest.raises(ConfigurationError, match=message) as raised:
        installed("acme-stage")
    assert line.split(" ", maxsplit=1)[0] in str(raised.value)
