"""Compares the lists that must name every package of the workspace, so that none lacks a new package.

Docker, mypy and import-linter need names in their own files and do not support patterns everywhere.
"""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from headrace_tools import dependencies, discovery
from headrace_tools.discovery import ROOT

VERSION_FILE = "core/src/headrace/__init__.py"
TORCH_ALLOWED = frozenset({"headrace_embedder", "headrace_bench", "headrace_testing", "headrace_tools"})
"""Packages that may import torch: the embedder, and what never runs in production."""
DEVELOPMENT = frozenset({"testing", "tools"})
"""Packages without settings, metrics and errors for users."""
CLI_ALLOWED = frozenset({"headrace", "headrace_cli", "headrace_local", "headrace_operations"})

Read = Callable[[str], str]
"""Returns the text of a file by its path within the repository."""


def read(path: str) -> str:
    """Return the text of a file of this repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def members() -> list[str]:
    """Return the folders of all packages, such as ``services/ingest``, whether the workspace names them or not."""
    found = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")]
    return sorted(path.parent.relative_to(ROOT).as_posix() for path in found if not path.parent.name.startswith("."))


def problems(text_of: Read = read) -> list[str]:
    """Return what lists lack or name needlessly, a sentence each; an empty list means that all is well."""
    found = [*_workspace(text_of), *_types(text_of), *_tools(), *_import_contracts(text_of), *_containers(text_of)]
    return found + [problem for member in members() for problem in _package(member, text_of)]


def _workspace(text_of: Read) -> Iterator[str]:
    root = tomllib.loads(text_of("pyproject.toml"))
    in_workspace = _matched(f"{pattern}/pyproject.toml" for pattern in root["tool"]["uv"]["workspace"]["members"])
    expected = [f"{member}/pyproject.toml" for member in members()]
    yield from _differences("pyproject.toml: [tool.uv.workspace] members", in_workspace, expected)
    names = [_project(member, text_of)["name"] for member in members()]
    depends = [re.split(r"[\[<>=! ]", dependency)[0] for dependency in root["project"]["dependencies"]]
    yield from _differences("pyproject.toml: dependencies", depends, names)
    yield from _differences("pyproject.toml: [tool.uv.sources]", root["tool"]["uv"]["sources"], names)


def _types(text_of: Read) -> Iterator[str]:
    settings = tomllib.loads(text_of("pyproject.toml"))["tool"]["mypy"]
    sources = [f"{member}/src" for member in members()]
    tests = [f"{member}/tests" for member in members() if (ROOT / member / "tests").exists()]
    yield from _differences("pyproject.toml: mypy_path", settings["mypy_path"].split(":"), sources)
    checked = [*sources, *tests, "tests", "conftest.py"]
    yield from _differences("pyproject.toml: mypy files", _matched(settings["files"]), checked)
    yield from _differences("ruff.toml: src", _matched(tomllib.loads(text_of("ruff.toml"))["src"]), sources)


def _tools() -> Iterator[str]:
    """Yield packages whose settings, metrics and errors the generated reference would omit."""
    described = [f"{member}/src" for member in members() if member not in DEVELOPMENT]
    yield from _differences("headrace_tools.discovery.SOURCES", _matched(discovery.SOURCES), described)


def _matched(patterns: Iterable[str]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def _import_contracts(text_of: Read) -> Iterator[str]:
    contracts = configparser.ConfigParser()
    contracts.read_string(text_of(".importlinter"))
    modules = {module for names in dependencies.own_modules().values() for module in names}
    for section, key, expected in (
        ("importlinter", "root_packages", modules),
        ("importlinter:contract:packages", "layers", modules),
        ("importlinter:contract:cli", "forbidden_modules", modules - CLI_ALLOWED),
        ("importlinter:contract:torch", "source_modules", modules - TORCH_ALLOWED),
    ):
        named = re.findall(r"\w+", contracts[section][key])
        yield from _differences(f".importlinter: {section.rpartition(':')[2]}, {key}", named, expected)


def _containers(text_of: Read) -> Iterator[str]:
    copied = re.findall(r"^COPY (\S+)/pyproject\.toml ", text_of("infra/docker/Dockerfile"), re.MULTILINE)
    yield from _differences("infra/docker/Dockerfile: COPY", copied, members())
    shown = re.findall(r"^!(\S+)$", text_of(".dockerignore"), re.MULTILINE)
    covered = [
        member
        for member in members()
        if any(f"{member}/pyproject.toml" == path or f"{member}/".startswith(f"{path}/") for path in shown)
    ]
    yield from _differences(".dockerignore", covered, members())


def _package(member: str, text_of: Read) -> Iterator[str]:
    """Yield how a package's pyproject differs from the others'."""
    pyproject = tomllib.loads(text_of(f"{member}/pyproject.toml"))
    project = pyproject["project"]
    version = pyproject.get("tool", {}).get("hatch", {}).get("version", {}).get("path")
    if "version" in project or project.get("dynamic") != ["version"]:
        yield f'{member}: states a version of its own; write dynamic = ["version"]'
    elif version is None or (ROOT / member / version).resolve() != ROOT / VERSION_FILE:
        yield f"{member}: takes its version from {version}, not from {VERSION_FILE}"
    root = tomllib.loads(text_of("pyproject.toml"))["project"]
    if project.get("requires-python") != root["requires-python"]:
        yield f"{member}: requires-python is {project.get('requires-python')}, not {root['requires-python']}"
    if project.get("license") != "Apache-2.0":
        yield f"{member}: license is {project.get('license')}, not Apache-2.0"
    yield from (
        f"{member}: {source.name} has no py.typed"
        for source in (ROOT / member / "src").iterdir()
        if (source / "__init__.py").exists() and not (source / "py.typed").exists()
    )


def _project(member: str, text_of: Read) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(text_of(f"{member}/pyproject.toml"))["project"]
    return project


def _differences(where: str, found: Iterable[str], expected: Iterable[str]) -> Iterator[str]:
    named, wanted = set(found), set(expected)
    yield from (f"{where}: lacks {name}" for name in sorted(wanted - named))
    yield from (
        f"{where}: names {name}, which is no package or does not belong there" for name in sorted(named - wanted)
    )
