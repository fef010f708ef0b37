"""The import contracts refuse what they say: each is shown a forbidden import."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract
ROOT = Path(__file__).parents[2]
SOURCES = ("core/src", "cli/src", "operations/src", "infra/local/src", "benchmarks/src", "testing/src", "tools/src")
FORBIDDEN = (
    # a module, what it may not import, and the contract that refuses it
    ("headrace/runtime/loop/decide.py", "time", "Decisions are pure"),
    ("headrace/store/fence.py", "random", "Decisions are pure"),
    ("headrace/orders/holds.py", "confluent_kafka", "Decisions are pure"),
    ("headrace/pipeline/model.py", "headrace.kafka.broker", "Decisions are pure"),
    ("headrace/codec/codec.py", "headrace.runtime.worker", "Packages of the core"),
    ("headrace/objects/store.py", "headrace.kafka.headers", "Packages of the core"),
    ("headrace/store/pool.py", "headrace_operations", "Packages"),
    ("headrace_chunker/handler.py", "headrace_testing.fakes", "Packages"),
    ("headrace_indexer/handler.py", "headrace_bench.result", "Packages"),
    ("headrace_ingest/handler.py", "headrace_local.stack", "Packages"),
    ("headrace_gateway/app.py", "headrace_tools.reference", "Packages"),
    ("headrace_generator/answer.py", "headrace_ingest.events", "Packages"),
    ("headrace_operations/transactions.py", "headrace_cli.state", "Packages"),
    ("headrace_cli/output.py", "headrace_embedder.settings", "The command line"),
    ("headrace_cli/state.py", "torch", "Only the embedder"),
)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of every package of ours, side by side."""
    folder = tmp_path_factory.mktemp("packages")
    services = [str(path.relative_to(ROOT)) for path in ROOT.glob("services/*/src")]
    for source in (*SOURCES, *services):
        for package in (ROOT / source).iterdir():
            if package.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "schemas", "pipelines")
                shutil.copytree(package, folder / package.name, ignore=ignored)
    shutil.copy(ROOT / ".importlinter", folder / ".importlinter")
    return folder


def _broken(folder: Path) -> dict[str, str]:
    """Return what import-linter reports for each broken contract, by the contract's name."""
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())",
    ]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=folder, check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "500"},
    )  # fmt: skip
    assert "Contracts:" in done.stdout, done.stdout + done.stderr
    _, _, details = done.stdout.partition("Broken contracts")
    parts = re.split(r"\n([^\n]+)\n-{5,}\n", details)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_tree_as_it_is_keeps_every_contract(copies: Path) -> None:
    """Broken: the copies are not what is checked, and every refusal below proves nothing."""
    assert _broken(copies) == {}


def test_each_forbidden_import_is_refused(copies: Path, tmp_path: Path) -> None:
    """Broken: a layer, a service or a pure decision can import what its contract forbids."""
    folder = tmp_path / "all"
    shutil.copytree(copies, folder)
    for path, imported, _ in FORBIDDEN:
        file = folder / path
        file.write_text(f"{file.read_text(encoding='utf-8')}\nimport {imported}\n", encoding="utf-8")
    broken = _broken(folder)
    for path, imported, contract in FORBIDDEN:
        said = "".join(text for name, text in broken.items() if name.startswith(contract))
        module = path.removesuffix(".py").replace("/", ".")
        assert re.search(rf"{re.escape(module)} -> {re.escape(imported)}\b", said), f"{module} may import {imported}"


def test_a_room_without_a_layer_is_refused(copies: Path, tmp_path: Path) -> None:
    """Broken: a new module beside the packages of the core belongs to no layer, and no contract sees it."""
    folder = tmp_path / "all"
    shutil.copytree(copies, folder)
    (folder / "headrace" / "attic.py").write_text('"""A package that no layer names."""\n', encoding="utf-8")
    assert any("attic" in text for text in _broken(folder).values())
