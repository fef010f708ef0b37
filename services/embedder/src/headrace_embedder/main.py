"""Starts the embedder: the stage, and next to it the endpoint that embeds queries."""

from __future__ import annotations

import headrace.telemetry.lean  # noqa: F401  # first: loads its part without rich

# isort: split
import asyncio

import structlog
import uvicorn

from headrace.config.settings import KafkaSettings
from headrace.embeddings.models import SERVED, identity
from headrace.errors import ConfigurationError, DependencyDown
from headrace.kafka import lag
from headrace.stage_process.main import run_stage
from headrace.topology import stages
from headrace_embedder import metrics
from headrace_embedder.cross_encoder import CrossEncoder
from headrace_embedder.server import create_app
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.shared import shared_provider
from headrace_embedder.spending import Spending

log = structlog.get_logger(__name__)

_PROGRESS_S = 10.0
"""Seconds between two reads of the log's end offsets."""


def check_spending() -> None:
    """Raise :class:`ConfigurationError` for prices and caps that cannot be enforced, before a model loads."""
    settings = EmbedderSettings()
    local = settings.provider != SERVED
    Spending(identity(settings.model) if local else settings.served_model, local=local)


async def tell_progress() -> None:
    """Update the progress metrics until the process ends; while Kafka is unreachable they keep their values."""
    reader = lag.LagReader(KafkaSettings())
    while True:
        try:
            found = await asyncio.to_thread(lag.progress, reader, stages.EMBEDDER.name)
        except (DependencyDown, ConfigurationError) as error:
            log.warning("cannot determine the embedding progress; retrying", error=str(error))
        else:
            metrics.PROGRESS.set(found.percent)
            metrics.TOTAL_ITEMS.set(found.total)
            metrics.PENDING_ITEMS.set(found.pending)
        await asyncio.sleep(_PROGRESS_S)


async def serve_queries() -> None:
    """Serve ``/v1/embeddings``, and ``/v1/rerank`` if a reranker is set, until the process ends."""
    settings = EmbedderSettings()
    reranker = None if settings.reranker is None else await asyncio.to_thread(CrossEncoder, settings.reranker)
    app = create_app(await shared_provider(), token=settings.token, reranker=reranker)
    config = uvicorn.Config(app, settings.host, settings.port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    await server._serve()  # noqa: SLF001  # serve() would replace the signal handlers, which drain the stage


def main() -> int:
    """Run the service until SIGTERM or SIGINT; return the exit code."""
    side_tasks = [("query-embeddings", serve_queries), ("progress", tell_progress)]
    return run_stage(stages.EMBEDDER, check=check_spending, side_tasks=side_tasks)


if __name__ == "__main__":
    raise SystemExit(main())
