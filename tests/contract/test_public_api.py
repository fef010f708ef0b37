"""The page of the public API: what it names is what the core offers to handlers, and all of that is documented."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from pathlib import Path

import pytest

import headrace

pytestmark = pytest.mark.contract

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "public-api.md"
PACKAGE = Path(headrace.__file__).parent
INTERNAL = {"headrace.migrate"}
"""Modules at the top of the core that are a command of the product's, not a handler's business."""


def named() -> list[str]:
    """The modules in the first column of the page's table."""
    return re.findall(r"^\| `(headrace[\w.]*)` \|", PAGE.read_text(), re.MULTILINE)


def documented(path: Path) -> set[str]:
    """The names of a module that have a docstring: classes, functions, and constants with a string after them."""
    body = ast.parse(path.read_text()).body
    found = {
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node)
    }
    for node, following in itertools.pairwise(body):
        if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found.update(target.id for target in targets if isinstance(target, ast.Name))
    return found


def defined(path: Path) -> set[str]:
    """The names without an underscore that a module's own classes, functions and constants have."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return {name for name in found if not name.startswith("_")}


def test_the_page_names_the_public_modules() -> None:
    """Broken: a module is public and nobody is told so, or the page promises one that is gone."""
    modules = {f"headrace.{path.stem}" for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert sorted(named()) == sorted(modules - INTERNAL)
    for internal in INTERNAL:
        assert f"`{internal}`" in PAGE.read_text()
        assert not hasattr(importlib.import_module(internal), "__all__")


@pytest.mark.parametrize("module", named())
def test_every_public_name_is_listed_and_documented(module: str) -> None:
    """Broken: a user's editor shows a name without a word about it, or hides one that is promised."""
    path = PACKAGE / f"{module.removeprefix('headrace.')}.py"
    loaded = importlib.import_module(module)
    listed = set(loaded.__all__)
    assert defined(path) <= listed
    assert all(hasattr(loaded, name) for name in listed)
    assert listed <= documented(path), f"without a docstring: {sorted(listed - documented(path))}"


def test_a_name_without_a_docstring_is_seen(tmp_path: Path) -> None:
    """Broken: the check above finds every name documented, whatever the module holds."""
    module = tmp_path / "module.py"
    module.write_text('def one():\n    """Said."""\n\ndef two(): ...\n\nA = 1\n"""Said."""\nB: int = 2\n')
    assert documented(module) == {"one", "A"}
