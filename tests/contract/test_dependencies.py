"""What a package imports stands in its pyproject, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_tools import dependencies
from headrace_tools.discovery import ROOT

pytestmark = pytest.mark.contract


def _package(root: Path, declared: str, imported: str) -> Path:
    package = root / "services" / "probe"
    (package / "src" / "headrace_probe").mkdir(parents=True)
    (package / "src" / "headrace_probe" / "__init__.py").write_text(imported, encoding="utf-8")
    (package / "pyproject.toml").write_text(
        f'[project]\nname = "headrace-probe"\nversion = "0"\ndependencies = [{declared}]\n', encoding="utf-8"
    )
    (root / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["services/*"]\n', encoding="utf-8")
    return package


@pytest.mark.parametrize(
    ("declared", "imported", "code"),
    [
        ('"httpx"', "import httpx\nimport structlog\n", "DEP003 'structlog'"),
        ('"httpx"', "import httpx\nimport nowhere_to_be_found\n", "DEP001 'nowhere_to_be_found'"),
        ('"httpx", "structlog"', "import httpx\n", "DEP002 'structlog'"),
    ],
)
def test_a_wrong_declaration_is_found(tmp_path: Path, declared: str, imported: str, code: str) -> None:
    """Broken: a service works only by what other packages bring along, or installs what it never uses."""
    package = _package(tmp_path, declared, imported)
    found = dependencies.findings(package, tmp_path)
    assert len(found) == 1
    assert code in found[0]


def test_a_right_declaration_passes(tmp_path: Path) -> None:
    """Broken: the check refuses everything."""
    assert dependencies.findings(_package(tmp_path, '"httpx"', "import httpx\n"), tmp_path) == []


def test_all_packages_are_looked_at() -> None:
    """Broken: a package is left out of the check; what is explained is no package or no dependency any more."""
    names = {str(package.relative_to(ROOT)) for package in dependencies.packages()}
    services = {f"services/{path.name}" for path in (ROOT / "services").iterdir() if (path / "pyproject.toml").exists()}
    assert names == {"core", "cli", "operations", "benchmarks", "infra/local", "testing", "tools", *services}
    assert dependencies.own_modules()["headrace-core"] == ["headrace"]
    for package, reasons in dependencies.EXPLAINED.items():
        declared = (ROOT / package / "pyproject.toml").read_text(encoding="utf-8")
        assert [name for name in reasons if f'"{name}' not in declared] == []
