"""Starts the gateway."""

from __future__ import annotations

import headrace.telemetry.lean  # noqa: F401  # first: loads its part without rich

# isort: split
import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import structlog
import uvicorn
from pydantic import ValidationError

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import Registry
from headrace.config.settings import (
    EXIT_CONFIGURATION,
    KafkaSettings,
    RegistrySettings,
    ServiceSettings,
    wrong_settings,
)
from headrace.handlers.pipelines_log import PipelineCatalogue, PipelineFollower
from headrace.retrieval.query_vectors import EmbedderClient
from headrace.retrieval.questions import Questions, SearchSettings
from headrace.retrieval.rerank import Reranker, RerankSettings
from headrace.store.pool import StoreSettings
from headrace.telemetry import logs
from headrace_gateway.app import create_app
from headrace_gateway.dead_letters import DeadLetterFollower, KafkaFlow
from headrace_gateway.dependencies import Dependencies
from headrace_gateway.flow import KafkaFlowReader
from headrace_gateway.pending import KafkaPending
from headrace_gateway.publisher import KafkaPublisher
from headrace_gateway.settings import GatewaySettings
from headrace_gateway.store import PostgresStore

log = structlog.get_logger(__name__)


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit code, 78 if a setting is missing or wrong."""
    try:
        service = ServiceSettings()
        settings = GatewaySettings()
        logs.configure(service.log_level, service.log_format, service="gateway")
        asyncio.run(_serve(settings))
    except ValidationError as error:
        print(f"gateway cannot start: {wrong_settings(error)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn raises them again when it ends, which would skip closing the dependencies."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield

    def stop(self) -> None:
        """Finish the requests in progress and exit."""
        self.should_exit = True


def _listener(host: str, port: int) -> socket.socket:
    """Return a listening socket that names its protocol.

    asyncio sets TCP_NODELAY only on such sockets. Without it, each answer waits 40 ms for a delayed acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


async def _serve(settings: GatewaySettings) -> None:
    with _listener(settings.host, settings.port) as listener:
        async with opened(settings) as dependencies:
            server = _Server(
                uvicorn.Config(
                    create_app(dependencies),
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=settings.drain_s,
                )
            )
            log.info("gateway listening", host=settings.host, port=listener.getsockname()[1])
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, server.stop)
            await server.serve(sockets=[listener])


@asynccontextmanager
async def opened(settings: GatewaySettings) -> AsyncIterator[Dependencies]:
    """Open the gateway's dependencies. If one does not answer yet, each request tries it again."""
    kafka = KafkaSettings()
    registry = Registry(RegistrySettings().url)
    codec = Codec(registry)
    async with AsyncExitStack() as stack:
        stack.callback(registry.close)
        store = PostgresStore(StoreSettings())
        stack.push_async_callback(store.close)
        embedder = EmbedderClient(settings.embedder)
        stack.push_async_callback(embedder.close)
        reranker = Reranker(RerankSettings())
        stack.push_async_callback(reranker.close)
        publisher = KafkaPublisher(kafka, settings.publish_timeout_s)
        stack.push_async_callback(publisher.close)
        pipelines = PipelineFollower(kafka, codec, PipelineCatalogue())
        pipelines.start()
        stack.push_async_callback(asyncio.to_thread, pipelines.close)
        reader = KafkaFlowReader(kafka, codec)
        stack.push_async_callback(asyncio.to_thread, reader.close)
        pending = KafkaPending(kafka, codec)
        stack.push_async_callback(pending.close)
        pending.begin()
        letters = DeadLetterFollower(kafka, codec)
        letters.start()
        stack.push_async_callback(asyncio.to_thread, letters.close)

        async def embedder_answers() -> None:
            await embedder.ping(await store.active())

        yield Dependencies(
            settings=settings,
            kafka=kafka,
            codec=codec,
            store=store,
            publisher=publisher,
            questions=Questions(embedder, SearchSettings()),
            reranker=reranker,
            flow=KafkaFlow(reader, pending, letters.book),
            pipeline_version=lambda name: pipelines.latest(name)[1],
            checks={
                "postgresql": store.ping,
                "kafka": reader.ping,
                "registry": lambda: asyncio.to_thread(registry.ping),
                "embedder": embedder_answers,
            },
        )


if __name__ == "__main__":
    raise SystemExit(main())
