"""Functions fit on a screen, and modules stay short enough to read."""

from __future__ import annotations

import ast

import pytest

from headrace_tools import packages
from headrace_tools.discovery import ROOT

pytestmark = pytest.mark.contract

MODULE_LINES = 400
FUNCTION_LINES = 50


def too_long(path: str, source: str) -> list[str]:
    """Return what is too long in a module. Of a command, only the body counts: its options are a list."""
    number = len(source.splitlines())
    found = [f"{path} has {number} lines; at most {MODULE_LINES} are allowed"] if number > MODULE_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0].lineno if _is_command(node) else node.lineno
            lines = (node.end_lineno or first) - first + 1
            if lines > FUNCTION_LINES:
                found.append(f"{path}: {node.name} has {lines} lines; at most {FUNCTION_LINES} are allowed")
    return found


def _is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the parameters declare options of the command line: ``Annotated[int, typer.Option("--limit")]``."""
    return "typer.Option(" in ast.unparse(node.args)


def test_modules_and_functions_fit() -> None:
    """Broken: a reader must scroll to see what a function does, and a module does several things."""
    modules = [path for member in packages.members() for path in (ROOT / member / "src").rglob("*.py")]
    assert len(modules) > 300
    found = [too_long(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")) for path in modules]
    assert [line for lines in found for line in lines] == []


def _function(statements: int, *, options: str = "") -> str:
    signature = f"def run(\n{options}) -> None:\n" if options else "def run() -> None:\n"
    return signature + "    x = 1\n" * statements


def test_a_long_module_is_refused() -> None:
    """Broken: the check passes whatever a module holds."""
    assert too_long("a.py", "x = 1\n" * MODULE_LINES) == []
    assert too_long("a.py", "x = 1\n" * 401) == ["a.py has 401 lines; at most 400 are allowed"]


def test_a_long_function_is_refused() -> None:
    """Broken: the check passes whatever a function holds, or misses methods and coroutines."""
    assert too_long("a.py", _function(FUNCTION_LINES - 1)) == []
    refused = ["a.py: run has 51 lines; at most 50 are allowed"]
    assert too_long("a.py", _function(50)) == refused
    assert too_long("a.py", "async " + _function(50)) == refused
    indented = "".join(f"    {line}" for line in _function(50).splitlines(keepends=True))
    assert too_long("a.py", f"class A:\n{indented}") == refused


def test_only_the_options_of_a_command_do_not_count() -> None:
    """Broken: a command with many options must be split, or its body may be as long as it likes."""
    options = "".join(f'    n{number}: Annotated[int, typer.Option("--n{number}")],\n' for number in range(60))
    assert too_long("a.py", _function(50, options=options)) == []
    assert too_long("a.py", _function(51, options=options))
    assert too_long("a.py", _function(1, options=options.replace("typer.Option", "Option")))
