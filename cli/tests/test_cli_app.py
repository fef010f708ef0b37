"""The table of commands: it tells what the modules say, and loads none of them before it is called."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import headrace_cli.commands
from headrace_cli import options
from headrace_cli.app import COMMANDS, app
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLogAndStore, Operator
from headrace_cli.failures import CommandError

pytestmark = pytest.mark.unit

ROOT = Path(headrace_cli.commands.__path__[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_module_says(name: str) -> None:
    """Broken: the help lists a command with another line than its own, or one that is not there."""
    loaded = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert loaded.name == name
    assert loaded.get_short_help_str(200) == COMMANDS[name].help


def test_every_command_of_a_module_is_in_the_table() -> None:
    """Broken: a command is written and nobody can call it."""
    loaded = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    modules = {entry.module for entry in COMMANDS.values()}
    there = {path.stem if path.suffix else path.name for path in ROOT.iterdir() if not path.name.startswith("__")}
    assert there == modules
    assert list(loaded) == list(COMMANDS)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], "Compare the log with the store"),
        (["--version"], "headrace 0"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_what_concerns_all_commands_loads_none(words: list[str], shown: str) -> None:
    """Broken: `headrace --help` takes as long as all commands together."""
    code = (
        "import sys\nfrom headrace_cli.app import run\n"
        f"sys.argv = ['headrace', *{words!r}]\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('headrace_cli.commands')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_loads_neither_kafka_nor_numpy(name: str) -> None:
    """Broken: `headrace COMMAND --help` takes seconds, because it loads what only a running command needs."""
    code = (
        "import sys\nfrom headrace_cli.app import run\n"
        f"sys.argv = ['headrace', {name!r}, '--help']\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = ('confluent_kafka', 'numpy', 'httpx', 'asyncpg')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: headrace" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_completion_names_commands_with_their_lines_and_loads_none() -> None:
    """Broken: a shell completes no command, or takes seconds at each key."""
    code = (
        "import os, sys\nfrom headrace_cli.app import run\n"
        "os.environ |= {'_HEADRACE_COMPLETE': 'complete_zsh', '_TYPER_COMPLETE_ARGS': 'headrace au'}\n"
        "sys.argv = ['headrace']\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('headrace_cli.commands')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "audit" in done.stdout
    assert "Compare the log with the store" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_typing_mistake_is_answered_with_the_nearest_command() -> None:
    """Broken: the lazy table knows no names to suggest."""
    result = CliRunner().invoke(app, ["serach"])
    assert result.exit_code == 2
    assert "Did you mean 'search'?" in result.output


def test_commands_call_no_commands() -> None:
    """Broken: a rule hides in a command, where neither a test nor another interface reaches it."""
    imports = [
        (path.relative_to(ROOT).as_posix(), node.module or "")
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
    ]
    others = [
        (where, module)
        for where, module in imports
        if module.startswith("headrace_cli.commands") and not module.endswith(".options")
        and where != "embeddings/__init__.py"
    ]  # fmt: skip
    assert len(imports) > 100
    assert others == []


def test_a_parameter_is_found_by_its_options_and_errors_are_told() -> None:
    """Broken: an option does not reach the command, its variable is not read, or an error is a traceback."""
    commands, seen = commands_of("probe", "Probe."), []

    @command(commands, "look")
    def look(
        word: Annotated[str, typer.Argument(help="A word.")],
        *,
        operator: InLogAndStore,
        as_json: options.Json = False,
    ) -> None:
        """Look."""
        seen.append((word, operator, as_json))
        raise CommandError("it broke", remedy="Mend it.")

    @command(commands, "other")
    def other() -> None:
        """Do nothing."""

    words = ["look", "w", "--kafka", "h:1", "--postgres", "p", "--json"]
    result = CliRunner().invoke(commands, words, env={"HEADRACE_REGISTRY_URL": "http://r"})
    assert seen == [("w", Operator(None, "h:1", "http://r", "p"), True)]
    assert (result.exit_code, result.stderr) == (1, "error: it broke\nwhat to do: Mend it.\n")
    names = [one.name for one in typer.main.get_command(commands).commands["look"].params]  # type: ignore[attr-defined]
    assert names == ["word", "postgres", "state_dir", "kafka", "registry", "as_json"]
