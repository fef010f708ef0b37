"""The command line on a stack of its own: up, ingest, search, ask, status, delete, a killed service, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


class CommandLine:
    """Runs ``headrace`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.environment = {**kept, "HEADRACE_STATE_DIR": str(folder / "state")}

    def __call__(self, *words: str, code: int = 0) -> str:
        """Return standard output; the exit code must be ``code``."""
        done = subprocess.run(
            [sys.executable, "-m", "headrace_cli.app", *words],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str, code: int = 0) -> Any:
        """Return what the command says as JSON."""
        return json.loads(self(*words, "--json", code=code))


@pytest.fixture
def headrace(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line; the stack is stopped at the end, and nothing may be left of it."""
    command = CommandLine(tmp_path)
    yield command
    command("down")
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_a_document_from_file_to_answer_and_out_again(headrace: CommandLine, tmp_path: Path) -> None:
    """Broken: a user who follows the guide does not get there."""
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "mill.md").write_text("# Mill\n\nThe headrace feeds the wheel.\n\n# Millstone\n\nIt turns slowly.\n")
    (documents / "cats.txt").write_text("Cats sleep in the sun.\n")
    (documents / "broken.txt").write_bytes(b"\xff\xfe")
    headrace("up", "--provider", "hashing")

    headrace("ingest", "documents", "--wait", code=4)
    hits = headrace.json("search", "headrace feeds the wheel")["hits"]
    assert (hits[0]["document_id"], hits[0]["section"]) == ("mill.md", ["Mill"])
    while hits[0]["freshness"] is None:  # Kafka did not answer in time
        hits = headrace.json("search", "headrace feeds the wheel")["hits"]
    assert hits[0]["freshness"] == "fresh"
    marked = [hits[0]["text"][start:end] for start, end in hits[0]["highlights"]]
    assert marked == ["The", "headrace", "feeds", "the", "wheel"]
    only = "section contains Millstone and not document prefix cats"
    shaped = headrace.json(
        "search", "wheel", "--filter", only, "--group-by-document", "--neighbours", "1", "--explain"
    )  # fmt: skip
    assert [hit["section"] for hit in shaped["hits"]] == [["Millstone"]]
    assert shaped["hits"][0]["neighbours"]["before"][0]["text"].endswith("The headrace feeds the wheel.")
    assert shaped["plan"]["dense"] == {"access": "exact", "found": 1}
    assert headrace.json("status", "mill.md")["state"] == "indexed"
    assert "[1]" in headrace("ask", "what feeds the wheel?")
    headrace("status", "nowhere.md", code=6)

    before = {process["name"]: process for process in headrace.json("status")["processes"]}
    os.kill(before["chunker"]["pid"], signal.SIGKILL)
    (documents / "cats.txt").write_text("Dogs bark at night.\n")
    headrace("ingest", "documents/cats.txt", "--wait")
    assert "Dogs" in headrace.json("search", "dogs bark at night")["hits"][0]["text"]
    after = wait_for_restart(headrace, before["chunker"]["pid"])
    assert after["chunker"]["restarts"] == 1
    assert after["indexer"]["pid"] == before["indexer"]["pid"]

    headrace("delete", "cats.txt", "--wait")
    assert all(hit["document_id"] != "cats.txt" for hit in headrace.json("search", "dogs bark at night")["hits"])
    headrace("down")
    headrace("search", "anything", code=3)


def wait_for_restart(headrace: CommandLine, old: int) -> dict[str, dict[str, Any]]:
    """Return the processes by name as soon as the chunker runs under another pid."""
    deadline = time.monotonic() + 60
    while True:
        found = {process["name"]: process for process in headrace.json("status")["processes"]}
        if found["chunker"]["pid"] not in (None, old):
            return found
        assert time.monotonic() < deadline
