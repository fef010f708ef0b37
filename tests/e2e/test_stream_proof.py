"""The stream as processes: killed, joined, replayed, and in the end exactly the fold of its events."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace_bench.proof import Options, prove
from headrace_testing.data import reference_with_edits

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_store_equals_the_fold_after_kills_joins_and_a_replay(state_dir: Path, seed: int) -> None:
    """A lost, doubled or stale document, a text embedded twice, or a replay that writes would show here."""
    changes = reference_with_edits(edits=60, seed=seed, documents=40)
    figures = prove(changes, Options(state_dir, seed, kills=5, joins=True, replay=True, timeout=240))
    assert figures["replay_rows_changed"] == 0
    assert sum(line.startswith("kill") for line in figures["faults"]) == 5
    assert [line for line in figures["faults"] if line.startswith("leave")] == [
        f"leave {stage}, exit code 0" for stage in ("ingest", "chunker", "embedder", "indexer")
    ]
