"""Starts the embedder: the stage, and beside it the endpoint that embeds queries."""

from __future__ import annotations

import uvicorn

from headrace import stage
from headrace.service import run_stage
from headrace_embedder.server import create_app
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.shared import shared_provider


async def serve_queries() -> None:
    """Serve ``/v1/embeddings`` until the process ends."""
    settings = EmbedderSettings()
    app = create_app(await shared_provider(), token=settings.token)
    config = uvicorn.Config(app, settings.host, settings.port, log_config=None, access_log=False, lifespan="off")
    server = uvicorn.Server(config)
    await server._serve()  # noqa: SLF001  # serve() would take over the signals, which drain the stage


def main() -> int:
    """Run the service until it is told to stop."""
    return run_stage(stage.EMBEDDER, side_tasks=[("query-embeddings", serve_queries)])


if __name__ == "__main__":
    raise SystemExit(main())
