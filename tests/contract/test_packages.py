"""Every package is in each list that must name it, and all of them have one version."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import headrace
from headrace_tools import containers, discovery, packages
from headrace_tools.discovery import ROOT

pytestmark = pytest.mark.contract


def test_every_list_names_every_package() -> None:
    """Broken: a new package is not typed, not checked, not in an image, or has a version of its own."""
    assert packages.problems() == []
    assert len(packages.members()) >= 13


@pytest.mark.parametrize(
    ("path", "old", "new", "problem"),
    [
        ("pyproject.toml", '"services/*", ', "", "members: lacks services/chunker"),
        ("pyproject.toml", '    "headrace-gateway",\n', "", "dependencies: lacks headrace-gateway"),
        ("pyproject.toml", "headrace-cli = {", "headrace-clip = {", "sources]: lacks headrace-cli"),
        ("pyproject.toml", '"*/src", ', "", "mypy files: lacks cli/src"),
        ("pyproject.toml", '"*/*/tests", ', "", "mypy files: lacks services/chunker/tests"),
        ("pyproject.toml", ":tools/src", "", "mypy_path: lacks tools/src"),
        ("ruff.toml", '"services/*/src"', '"service/*/src"', "ruff.toml: src: lacks services/chunker/src"),
        (".importlinter", "    headrace_local\n", "", "root_packages: lacks headrace_local"),
        (".importlinter", " | headrace_local\n", "\n", "layers: lacks headrace_local"),
        (".importlinter", "    headrace_bench\n    headrace_ingest\n", "    headrace_ingest\n", "lacks headrace_bench"),
        ("infra/docker/Dockerfile", "COPY cli/pyproject.toml cli/\n", "", "COPY: lacks cli"),
        (".dockerignore", "!services\n", "", ".dockerignore: lacks services/chunker"),
        (".dockerignore", "!tools/pyproject.toml\n", "", ".dockerignore: lacks tools"),
        ("cli/pyproject.toml", 'dynamic = ["version"]', 'version = "0.2.0"', "cli: states a version of its own"),
        (
            "cli/pyproject.toml",
            "core/src/headrace/__init__",
            "src/headrace_cli/__init__",
            "cli: takes its version from",
        ),
        ("cli/pyproject.toml", '">=3.11"', '">=3.12"', "cli: requires-python is >=3.12"),
        ("cli/pyproject.toml", "Apache-2.0", "MIT", "cli: license is MIT"),
    ],
)
def test_a_list_that_lacks_a_package_is_found(path: str, old: str, new: str, problem: str) -> None:
    """Broken: the check passes whatever the lists say."""
    changed = packages.read(path).replace(old, new)
    assert changed != packages.read(path)

    def read(other: str) -> str:
        return changed if other == path else packages.read(other)

    found = packages.problems(read)
    assert any(problem in line for line in found), found


def test_a_package_that_the_reference_leaves_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the settings and metrics of a new package are in no document."""
    monkeypatch.setattr(discovery, "SOURCES", ("core/src", "services/*/src"))
    assert "headrace_tools.discovery.SOURCES: lacks cli/src" in packages.problems()


def test_make_knows_every_package_by_itself() -> None:
    """Broken: a new service is not tested alone, or a new package's unit tests do not run."""
    done = subprocess.run(
        ["make", "--print-data-base", "--question", "--always-make", "help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    variables = dict(re.findall(r"^(PACKAGES|SERVICES|UNIT) := (.*)$", done.stdout, re.MULTILINE))
    assert sorted(variables["PACKAGES"].split()) == packages.members()
    services = [member.removeprefix("services/") for member in packages.members() if member.startswith("services/")]
    assert sorted(variables["SERVICES"].split()) == services
    tested = [f"{member}/tests" for member in packages.members() if (ROOT / member / "tests").is_dir()]
    assert sorted(variables["UNIT"].split()) == tested
    assert len(tested) >= 11


@pytest.mark.parametrize("folder", ["contract", "integration", "e2e", "faults"])
def test_make_runs_every_test(folder: str) -> None:
    """Broken: a test is in a folder that the command for its kind does not look into."""
    files = sorted((ROOT / "tests" / folder).glob("test_*.py"))
    assert files
    also = {"torch"} if folder == "integration" else set[str]()  # `make test-torch` looks there too
    assert [path.name for path in files if not {folder, *also} >= _marks(path) > set()] == []
    units = [path for member in packages.members() for path in (ROOT / member / "tests").glob("**/test_*.py")]
    assert [path.name for path in units if "unit" not in _marks(path)] == []


def _marks(path: Path) -> set[str]:
    kinds = "unit|contract|integration|e2e|faults|torch"
    return set(re.findall(rf"pytest\.mark\.({kinds})\b", path.read_text(encoding="utf-8")))


def test_every_service_is_in_the_compose_file() -> None:
    """Broken: `docker compose up` starts a pipeline with a stage missing."""
    services = {member.removeprefix("services/") for member in packages.members() if member.startswith("services/")}
    assert services <= set(containers.load()["services"])


def test_the_version_is_one_that_packages_can_have() -> None:
    """Broken: a wheel cannot be built, or sorts before the one that it follows."""
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", headrace.__version__)
    others = [
        path
        for path in ROOT.glob("*/src/**/__init__.py")
        if path != ROOT / packages.VERSION_FILE and "__version__" in path.read_text(encoding="utf-8")
    ]
    assert others == []
