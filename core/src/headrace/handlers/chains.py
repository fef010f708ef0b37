"""The handlers of each pipeline version in this stage, started once and shared by all pipelines."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

import structlog
from pydantic import ValidationError

from headrace.config.settings import wrong_settings
from headrace.errors import ConfigurationError, DependencyDown, PermanentError, UnknownPipeline
from headrace.handler import Handler
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.handlers.registry import HandlerRegistry
from headrace.pipeline import Review

log = structlog.get_logger(__name__)

_FIRST = ""
"""Key of the stage's own handler; templates cannot name it."""


class PipelineChains:
    """Looks pipelines up in the catalogue and handlers in the registry. Both lanes call it, from one event loop.

    ``refresh`` reads the topic ``pipelines`` to its end; it is called once for an unknown version.
    ``first`` is the stage's own handler, which runs before the handlers of every pipeline.
    """

    def __init__(
        self,
        stage: str,
        catalogue: PipelineCatalogue,
        registry: HandlerRegistry,
        refresh: Callable[[], None],
        *,
        first: Handler | None = None,
    ) -> None:
        self._stage = stage
        self._catalogue = catalogue
        self._registry = registry
        self._refresh = refresh
        self._first = first
        self._handlers: dict[str, Handler] = {}
        self._starting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """A lock for each handler, because both lanes may need a handler that is not started yet."""
        self._chains: dict[tuple[str, int], tuple[Handler, ...]] = {}
        self._reviewed: dict[tuple[str, int], bool] = {}

    async def chain(self, pipeline_id: str, version: int) -> Sequence[Handler]:
        """Return the started handlers in order; see :class:`headrace.runtime.process.Chains`."""
        key = (pipeline_id, version)
        if key not in self._chains:
            names = [*([_FIRST] if self._first else []), *await self._names(pipeline_id, version)]
            self._chains[key] = tuple([await self._started(name) for name in names])
        return self._chains[key]

    def reviewed(self, pipeline_id: str, version: int) -> bool:
        """Whether the pipeline requires a review of this stage's output; known after a call of :meth:`chain`."""
        key = (pipeline_id, version)
        if key not in self._reviewed:
            pipeline = self._catalogue.get(pipeline_id, version)
            bindings = pipeline.template.stages if pipeline else ()
            self._reviewed[key] = any(
                binding.stage == self._stage and binding.review is Review.REQUIRED for binding in bindings
            )
        return self._reviewed[key]

    async def close(self) -> None:
        """Close all started handlers, even if one of them fails to close."""
        for handler in self._handlers.values():
            try:
                await handler.close()
            except Exception:
                log.exception("handler not closed", handler=handler.identity)

    async def _names(self, pipeline_id: str, version: int) -> Sequence[str]:
        pipeline = self._catalogue.get(pipeline_id, version)
        if pipeline is None:
            await asyncio.to_thread(self._refresh)
            pipeline = self._catalogue.get(pipeline_id, version)
        if pipeline is None:
            raise UnknownPipeline(self._catalogue.why_missing(pipeline_id, version))
        for binding in pipeline.template.stages:
            if binding.stage == self._stage:
                return binding.handlers
        raise PermanentError(f"pipeline {pipeline_id!r} version {version} has no stage {self._stage!r}")

    async def _started(self, name: str) -> Handler:
        """Return the handler; if it is missing or misconfigured, the stage waits, because no record is at fault."""
        async with self._starting[name]:
            if name not in self._handlers:
                try:
                    own = self._first if name == _FIRST else None
                    self._handlers[name] = await _start(own or self._registry.find(self._stage, name)())
                except ConfigurationError as error:
                    raise DependencyDown(f"handler {name}", error.message, remedy=error.remedy) from error
                except ValidationError as error:
                    raise DependencyDown(
                        f"handler {name}", wrong_settings(error), remedy="Correct the setting and restart the stage."
                    ) from error
            return self._handlers[name]


async def _start(handler: Handler) -> Handler:
    try:
        await handler.start()
    except BaseException:
        await handler.close()
        raise
    return handler
