"""Commands that ask before they do what cannot be taken back."""

from __future__ import annotations

import inspect
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import pytest
import typer
from typer.testing import CliRunner

from headrace.config.captured_tables import Table
from headrace_cli import asking
from headrace_cli.app import app
from headrace_cli.commands import capture as capture_commands
from headrace_cli.exit_codes import ExitCode
from headrace_operations.capture.connector import configuration

pytestmark = pytest.mark.unit

TABLE = Table.model_validate({"tenant": "acme", "id": "{id}", "text": "{body}"})


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A Kafka Connect with the capture ``shop``."""
    made = Mock()
    made.configuration.return_value = configuration("shop", "postgresql://a:b@h/d", {"public.t": TABLE}, "changes")
    monkeypatch.setattr(capture_commands, "_connect", lambda *_: made)
    for name in ("look", "drop_slot"):
        monkeypatch.setattr(f"headrace_operations.capture.control.{name}", AsyncMock())
    return made


@pytest.mark.parametrize(
    ("words", "typed", "code", "ended"),
    [
        ([], "", ExitCode.USAGE, False),
        ([], "n\n", ExitCode.FAILED, False),
        ([], "y\n", ExitCode.OK, True),
        (["--yes"], "", ExitCode.OK, True),
    ],
)
def test_where_nobody_answers_the_option_that_answers_is_named(
    connect: Mock, words: list[str], typed: str, code: ExitCode, ended: bool
) -> None:
    """Broken: in a script, a command that asks says `Aborted!` and nothing else, or goes on without an answer."""
    result = CliRunner().invoke(app, ["capture", "stop", "shop", *words], input=typed)
    assert (result.exit_code, connect.delete.called) == (code, ended), result.output
    assert ("Run it with --yes" in result.stderr) == (code == ExitCode.USAGE)


def test_ctrl_c_at_the_question_is_no_missing_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a person who breaks off is told that there is no terminal."""
    monkeypatch.setattr("sys.stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr(typer, "confirm", Mock(side_effect=typer.Abort))
    with pytest.raises(typer.Abort):
        asking.require_yes("Delete it?", yes=False)


def test_there_is_one_way_to_ask() -> None:
    """Broken: the next command that asks forgets those who have no terminal."""
    here = Path(inspect.getfile(asking))
    asks = [path.name for path in sorted(here.parent.rglob("*.py")) if "typer.confirm(" in path.read_text()]
    assert asks == [here.name]
