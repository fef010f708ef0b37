"""The tour of the code names files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "architecture" / "tour.md"
FOLDERS = {
    "core": "core/src/headrace",
    "operations": "operations/src/headrace_operations",
    **{path.name: f"services/{path.name}/src/headrace_{path.name}" for path in (ROOT / "services").iterdir()},
}
"""What the tour's short paths stand for, by their first part."""
NAMED = re.compile(r"`([a-z_]+(?:/[a-z_*]+)+(?:\.py|/)?)`")


def places(text: str) -> dict[str, list[Path]]:
    """Return what each short path in the text names; nothing for one that names nothing."""
    found: dict[str, list[Path]] = {}
    for said in NAMED.findall(text):
        first, _, rest = said.rstrip("/").partition("/")
        if first not in FOLDERS and not (ROOT / first).is_dir():
            continue  # a key or a header, not a path
        in_full = sorted(ROOT.glob(said.rstrip("/")))
        found[said] = in_full or sorted((ROOT / FOLDERS.get(first, first)).glob(rest))
    return found


FUNCTIONS = re.compile(r"`([a-z_]+(?:/[a-z_]+)+\.py)` \(((?:`\w+`(?:, )?)+)")


def functions(text: str) -> list[tuple[str, str, bool]]:
    """Return each function or constant that follows a path in parentheses: path, name, whether the file defines it."""
    found: list[tuple[str, str, bool]] = []
    for said, names in FUNCTIONS.findall(text):
        (path,) = places(f"`{said}`")[said]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        found += [(said, name, name in defined) for name in re.findall(r"\w+", names)]
    return found


def test_the_tour_names_functions_that_exist() -> None:
    """Broken: a newcomer looks for a function that was renamed."""
    found = functions(TOUR.read_text(encoding="utf-8"))
    assert len(found) >= 10
    assert [(path, name) for path, name, defined in found if not defined] == []


def test_a_function_that_was_renamed_is_noticed() -> None:
    """Broken: the check above passes whatever the tour says."""
    assert functions("See `chunker/identity.py` (`nothing`).") == [("chunker/identity.py", "nothing", False)]


def test_the_tour_names_files_that_exist() -> None:
    """Broken: a newcomer is sent to a file that was moved."""
    found = places(TOUR.read_text(encoding="utf-8"))
    assert len(found) > 30
    assert [said for said, paths in found.items() if not paths] == []


def test_a_file_that_was_moved_is_noticed() -> None:
    """Broken: the check above passes whatever the tour says."""
    assert places("Open `core/runtime/decide.py` and `chunker/identity.py`.") == {
        "core/runtime/decide.py": [],
        "chunker/identity.py": [ROOT / "services/chunker/src/headrace_chunker/identity.py"],
    }
