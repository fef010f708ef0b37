"""The command line's interface, frozen: every command's help, its options with variables and defaults, exit codes.

After a change that is meant: `make golden`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headrace.errors import ConfigurationError, DependencyDown, HeadraceError, InvalidRecord, PermanentError
from headrace_cli.app import app
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import (
    CommandError,
    NotFound,
    NotReachable,
    ProblemError,
    TimedOut,
    UsageError,
    exit_code_of,
)

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parent / "golden" / "commands.json"


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every group and command with its words, by name."""
    yield words, command
    for name in sorted(getattr(command, "commands", None) or ()):
        yield from commands(command.commands[name], (*words, name))


def option(one: Any) -> str:
    """Return in a line what a script relies on of an option or argument."""
    kind = one.type_descriptor.annotation
    facts = {
        "variable": one.envvar,
        "default": None if callable(one.default) else str(one.default),
        "required": one.required,
        "type": getattr(kind, "__name__", str(kind)),
        "range": [one.min, one.max],
        "several": one.multiple or one.nargs != 1,
    }
    return f"{one.param_type_name} {' '.join([*one.opts, *one.secondary_opts])} {json.dumps(facts)}"


def interface() -> dict[str, Any]:
    """Return help text and options of everything that `headrace` has, by its words."""
    found = {}
    for words, command in commands(typer.main.get_command(app)):
        shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"}, prog_name="headrace")
        assert shown.exit_code == 0, shown.output
        options = [] if getattr(command, "commands", None) else [option(one) for one in command.params]
        found[" ".join(("headrace", *words))] = {"help": shown.stdout.splitlines(), "options": options}
    return found


def test_help_and_options_are_those_that_were_frozen() -> None:
    """Broken: a script's option, variable or default is another one, or gone."""
    now = json.dumps(interface(), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("REWRITE_GOLDEN") == "1":
        GOLDEN.write_text(now, encoding="utf-8")
    frozen, found = json.loads(GOLDEN.read_text(encoding="utf-8")), json.loads(now)
    assert sorted(found) == sorted(frozen)
    for words, said in frozen.items():
        assert found[words]["options"] == said["options"], f"{words}; if that is meant, run `make golden`"
        assert found[words]["help"] == said["help"], f"{words}; if that is meant, run `make golden`"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("x"), 1),
        (UsageError("x"), 2),
        (NotReachable("x"), 3),
        (TimedOut("x"), 5),
        (NotFound("x"), 6),
        (ProblemError(401, {}, where="w"), 7),
        (ProblemError(403, {}, where="w"), 7),
        (ProblemError(404, {}, where="w"), 6),
        (ProblemError(422, {}, where="w"), 1),
        (ProblemError(429, {}, where="w"), 3),
        (ProblemError(503, {}, where="w"), 3),
        (ConfigurationError("x"), 2),
        (DependencyDown("kafka"), 3),
        (PermanentError("x"), 1),
        (InvalidRecord("field", "x"), 1),
        (HeadraceError("x"), 1),
    ],
)
def test_each_class_of_errors_has_its_exit_code(error: HeadraceError, code: int) -> None:
    """Broken: a script takes an outage for a mistake, or the other way round."""
    assert exit_code_of(error) == code


def test_the_exit_codes_are_those_that_were_frozen() -> None:
    """Broken: a number means something else than it did."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "UNREACHABLE": 3, "SOME_FAILED": 4, "TIMED_OUT": 5, "NOT_FOUND": 6,
        "DENIED": 7, "INCONSISTENT": 8, "INTERRUPTED": 130,
    }  # fmt: skip
