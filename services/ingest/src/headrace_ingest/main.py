"""Starts ingest."""

from __future__ import annotations

import headrace.telemetry.lean  # noqa: F401  # first: loads its part without rich

# isort: split
from headrace.codec.codec import Codec
from headrace.handlers.pipelines_log import LatestPipeline
from headrace.stage_process.main import run_stage
from headrace.topology import stages
from headrace_ingest.events import IngestDecoder
from headrace_ingest.opening import OpenFile
from headrace_ingest.order_guard import guarding
from headrace_ingest.settings import IngestSettings


def make_decoder(codec: Codec, latest_pipeline: LatestPipeline) -> IngestDecoder:
    """Return the decoder for the topic ``changes``."""
    return IngestDecoder(codec, latest_pipeline, IngestSettings())


def main() -> int:
    """Run the service until it is stopped."""
    return run_stage(stages.INGEST, decoder=make_decoder, first=OpenFile, beside=guarding)


if __name__ == "__main__":
    raise SystemExit(main())
