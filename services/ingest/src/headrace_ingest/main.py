"""Starts ingest."""

from __future__ import annotations

from headrace import stage
from headrace.avro.codec import Codec
from headrace.pipelines_log import LatestPipeline
from headrace.service import run_stage
from headrace_ingest.events import IngestDecoder
from headrace_ingest.opening import OpenFile
from headrace_ingest.settings import IngestSettings


def make_decoder(codec: Codec, latest_pipeline: LatestPipeline) -> IngestDecoder:
    """Return what reads the topic ``changes``."""
    return IngestDecoder(codec, latest_pipeline, IngestSettings())


def main() -> int:
    """Run the service until it is told to stop."""
    return run_stage(stage.INGEST, decoder=make_decoder, first=OpenFile)


if __name__ == "__main__":
    raise SystemExit(main())
