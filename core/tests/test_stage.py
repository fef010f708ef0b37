"""The flow as it is declared."""

from __future__ import annotations

from itertools import pairwise

import pytest

from headrace.topology.stages import CHUNKER, EMBEDDER, GENERATOR, INDEXER, INGEST

pytestmark = pytest.mark.unit


def test_each_stage_reads_what_the_one_before_writes() -> None:
    """A gap between two stages would leave records that nobody reads."""
    for one, other in pairwise((INGEST, CHUNKER, EMBEDDER, INDEXER)):
        assert (one.target, one.produces) == (other.source, other.consumes)


def test_costly_stages_take_small_batches() -> None:
    """A batch of hundreds of documents keeps the model busy for minutes, and a crash or a rebalance repeats it."""
    assert GENERATOR.batch_records < EMBEDDER.batch_records < INDEXER.batch_records < CHUNKER.batch_records
