"""The generated reference says what the code says, all of it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import typer
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from headrace.embeddings.preparation import OverLong
from headrace.errors import ConfigurationError
from headrace_tools import command_pages, discovery, reference
from headrace_tools.discovery import ROOT

pytestmark = pytest.mark.contract


def test_the_pages_are_up_to_date() -> None:
    """Broken: the documents tell of settings, metrics, topics, errors or schemas that are not there any more."""
    assert reference.stale() == [], "run `make docs`"


def test_a_missing_or_changed_page_is_stale(tmp_path: Path) -> None:
    """Broken: the check passes whatever the documents say."""
    (tmp_path / "docs/reference").mkdir(parents=True)
    for path, text in reference.pages().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert reference.stale(tmp_path) == []
    (tmp_path / "docs/reference/topics.md").write_text("old", encoding="utf-8")
    (tmp_path / "docs/reference/errors.md").unlink()
    assert reference.stale(tmp_path) == ["docs/reference/topics.md", "docs/reference/errors.md"]


def test_every_declared_setting_is_documented() -> None:
    """Broken: a settings class of some package is overlooked, and nobody learns its variables."""
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    prefixes = [
        line.split('"')[1]
        for pattern in discovery.SOURCES
        for source in ROOT.glob(pattern)
        for path in source.rglob("*.py")
        if "headrace_testing" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if 'env_prefix="' in line
    ]
    assert len(prefixes) >= 10
    assert [prefix for prefix in prefixes if f"## `{prefix}…`" not in page] == []
    assert all(f"`{setting.variable}`" in page for setting in discovery.settings())


def test_every_declared_metric_is_documented() -> None:
    """Broken: a dashboard is built on figures that no page explains."""
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    declared = [
        line.strip().split('"')[1]
        for pattern in discovery.SOURCES
        for path in ROOT.glob(f"{pattern}/**/metrics.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith('"headrace_')
    ]
    assert len(declared) >= 15
    assert [name for name in declared if f"`{name}" not in page] == []


def test_a_setting_without_description_is_refused() -> None:
    """Broken: a setting gets into the table with nothing said about it."""

    class Silent(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="HEADRACE_SILENT_")
        loud: int = Field(1, description="Said.")
        quiet: int = 2

    with pytest.raises(ConfigurationError, match="no description") as caught:
        discovery.settings_of(Silent)
    assert "Silent.quiet" in caught.value.where


def test_a_setting_with_an_alias_is_refused() -> None:
    """Broken: the table names a variable that the code does not read."""

    class Renamed(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="HEADRACE_RENAMED_")
        port: int = Field(1, validation_alias="PORT", description="Said.")

    with pytest.raises(ConfigurationError, match="alias"):
        discovery.settings_of(Renamed)


def test_a_page_without_markers_is_refused() -> None:
    """Broken: the diagram silently vanishes from the overview."""
    with pytest.raises(ValueError, match="markers"):
        reference.with_flow("# The flow\n", "diagram")


def test_every_command_and_option_is_documented() -> None:
    """Broken: a command is left out, or an option cannot be set by the environment."""
    page = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    shown = command_pages.commands()
    assert {("up",), ("ingest",), ("search",), ("ask",), ("pipeline", "apply")} <= {words for words, _ in shown}
    assert [words for words, _ in shown if f"## `headrace {' '.join(words)}" not in page] == []
    bare = [
        (*words, option.name)
        for words, command in shown
        for option in command.params
        if option.param_type_name == "option" and option.name != "help" and not option.envvar
    ]
    assert bare == []


def test_an_option_without_help_is_refused() -> None:
    """Broken: an option gets into the page with nothing said about it."""
    app = typer.Typer()

    @app.command()
    def probe(loud: str = typer.Option("", help="Said."), quiet: str = typer.Option("")) -> None:
        """Probe."""

    with pytest.raises(ConfigurationError, match="no help") as caught:
        command_pages.commands_page([(("probe",), typer.main.get_command(app))])
    assert caught.value.where == "headrace probe quiet"


def test_types_of_settings_are_words() -> None:
    """Broken: the reference names a class of the code, and what may be written stays unsaid."""
    assert reference.type_of(OverLong) == "`cut`, `split`, `skip`"
    assert reference.type_of(Decimal | None) == "number"
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    kinds = {line.split(" | ")[1] for line in page.splitlines() if line.startswith("| `HEADRACE_")}
    assert {kind for kind in kinds if kind[:1].isupper()} == set()
