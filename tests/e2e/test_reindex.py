"""`headrace reindex`: another model on the local stack by one command each, and the fault run in short."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace_bench import reindex as fault_run
from headrace_bench.reindex_parts import Probe, Searchers
from headrace_cli import state

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]


class CommandLine:
    """Runs ``headrace`` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self.environment = {**kept, "HEADRACE_STATE_DIR": str(folder / "state"), "HEADRACE_JSON": "1"}

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "headrace_cli.app", *words], cwd=self.folder, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, *words: str, code: int = 0) -> Any:
        """Return the JSON of a command, or its complaint if ``code`` is not 0."""
        process = self.begin(*words)
        output, said = process.communicate(timeout=240)
        assert process.returncode == code, f"{words}: exit {process.returncode}\n{output}\n{said}"
        return json.loads(output.splitlines()[-1]) if code == 0 else said


@pytest.fixture
def headrace(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line; the stack is stopped at the end, and nothing may be left of it."""
    command = CommandLine(tmp_path)
    yield command
    command("down")
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert left == []


def processes(headrace: CommandLine) -> set[str]:
    """The names of the ready processes."""
    return {one["name"] for one in headrace("status")["processes"] if one["ready"]}


def phase(headrace: CommandLine) -> str | None:
    """The phase of the second generation; None before it exists."""
    return next((str(one["phase"]) for one in headrace("reindex", "status") if one["name"] == "g2"), None)


def test_a_model_is_changed_and_the_old_one_dropped_on_the_local_stack(
    headrace: CommandLine, tmp_path: Path, seed: int
) -> None:
    """A user stops the stack to change the model, loses the search meanwhile, or cannot start it again afterwards."""
    chance = random.Random(seed)
    folder = tmp_path / "documents"
    folder.mkdir()
    texts = [
        f"# 물레방아 {number}\n\n수로의 물이 {number}번 바퀴를 돌린다. The headrace feeds wheel {number}."
        for number in range(30)
    ]
    for number, text in enumerate(texts):
        (folder / f"mill-{number}.md").write_text(text)
    headrace("up", "--provider", "hashing")
    headrace("ingest", "documents", "--wait")
    stack = state.read_services(tmp_path / "state")
    credentials = state.read_credentials(tmp_path / "state")
    assert stack is not None
    assert credentials is not None

    planned = headrace("reindex", "start", "--model", "hashing-64", "--dry-run")
    assert (planned["name"], planned["dimensions"], planned["documents"]) == ("g2", 64, 30)
    start = ("reindex", "start", "--model", "hashing-64", "--rate", "2")
    for _ in range(2):  # the command dies anywhere
        process = headrace.begin(*start)
        time.sleep(chance.uniform(1.0, 6.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = headrace.begin(*start)  # and while the generation is filled
    while phase(headrace) != "filling":
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "is not filled: its replay is running" in headrace("reindex", "switch", "g2", code=1)
    (built,) = headrace(*start)
    assert (built["phase"], built["covered"], built["missing"]) == ("ready to verify and switch", 30, 0)
    assert built["workers"] == {"embedder": 1, "indexer": 1}
    assert {"embedder", "embedder-g2", "indexer-g2"} <= processes(headrace)
    verified = headrace("reindex", "verify", "g2", "--maximum-loss", "1")
    assert (verified["ok"], verified["digests"]["clean"], verified["quality"]["questions"]) == (True, True, 30)

    asked = [Probe(f"mill-{number}.md", texts[number]) for number in range(5)]
    with Searchers(stack.url, credentials.api_key, asked, seed) as searchers:
        for words in (("switch", "g2"), ("rollback",), ("switch", "g2")):
            headrace("reindex", *words)
            time.sleep(6)  # every gateway follows within five seconds
    assert searchers.count > 100
    assert searchers.problems == []
    assert "is searched" in headrace("reindex", "drop", "g2", "--yes", code=1)
    dropped = headrace("reindex", "drop", "g1", "--yes")
    assert (dropped["documents"], len(dropped["topics"]), len(dropped["groups"])) == (30, 10, 4)
    assert dropped["cached_vectors"] == 30
    assert headrace("reindex", "drop", "g1", "--yes")["documents"] == 0
    assert processes(headrace) & {"embedder", "embedder-g2"} == {"embedder-g2"}

    (folder / "new.md").write_text("# 새 글\n\n저수지의 수위를 잰다.\n")
    headrace("ingest", "documents", "--wait")
    headrace("down")
    headrace("up")
    assert headrace("search", "저수지의 수위를 잰다.")["hits"][0]["document_id"] == "new.md"
    assert [(one["name"], one["state"]) for one in headrace("generations", "list")] == [("g2", "active")]
    assert headrace("audit")["clean"]
    assert headrace("reindex", "start", "--template", "{title} {body}", "--dry-run")["name"] == "g3"


def test_the_model_changes_under_kills_and_the_log_alone_rebuilds_it(state_dir: Path, seed: int) -> None:
    """A change of the model fails searches, mixes models, loses documents, or does not survive a crash."""
    options = [
        "--kills", "4", "--documents", "16", "--edits", "40", "--probes", "8", "--questions", "20", "--timeout", "120",
        "--seed", str(seed), "--state-dir", str(state_dir),
    ]  # fmt: skip
    assert fault_run.main(options) == 0
