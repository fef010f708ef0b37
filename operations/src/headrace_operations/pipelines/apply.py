"""Publishes templates as the next versions of their pipelines; if one is invalid, publishes none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace import pipeline as templates
from headrace.errors import TemplateError
from headrace.handlers import pipelines_log, registry
from headrace.payloads import PipelineVersion
from headrace.pipeline import Catalogue, HandlerInfo, StageTypes
from headrace.topology.stages import STAGES
from headrace_operations.cluster import Cluster
from headrace_operations.errors import NotThere


@dataclass(frozen=True, slots=True)
class ApplyRequest:
    """Templates by file name; with ``handler_check``, their handlers must be installed here."""

    texts: Mapping[str, str]
    handler_check: bool = True

    @property
    def known(self) -> Catalogue:
        """The stages and handlers that templates may name."""
        return catalogue() if self.handler_check else without_handlers()

    def problems(self) -> list[TemplateError]:
        """Return all errors in the templates."""
        known = self.known
        return [error for name, text in self.texts.items() for error in templates.problems(text, name, known)]


@dataclass(frozen=True, slots=True)
class Applied:
    """A file and its version, published or planned; ``changed`` is False if the newest version is the same."""

    file: str
    version: PipelineVersion
    changed: bool


class NoSuchPipelineVersion(NotThere):
    """This version was never applied."""

    code = "no-such-pipeline-version"


def catalogue() -> Catalogue:
    """Return the stages and the installed handlers; if no handler is installed, handlers are not checked."""
    handlers = {
        handler.name: HandlerInfo(handler.stage, handler.version, handler.consumes.__name__, handler.produces.__name__)
        for handler in registry.installed().all()
    }
    return Catalogue(without_handlers().stages, handlers or None)


def without_handlers() -> Catalogue:
    """Return the stages only."""
    return Catalogue(
        {name: StageTypes(flow.consumes.__name__, flow.produces.__name__) for name, flow in STAGES.items()}
    )


def apply(cluster: Cluster, request: ApplyRequest, *, dry_run: bool = False) -> Iterator[Applied]:
    """Publish each file (except in a dry run) and yield it; raises :class:`TemplateError`, :class:`DependencyDown`."""
    known = request.known
    loaded = {name: templates.load(text, name, known) for name, text in request.texts.items()}
    for name, template in loaded.items():
        done = pipelines_log.apply(cluster.kafka, cluster.codec, template, applied_by=cluster.by, dry_run=dry_run)
        yield Applied(name, done.version, done.changed)


def find(cluster: Cluster, pipeline_id: str, version: int | None) -> PipelineVersion:
    """Return a version of a pipeline, or its newest; raises :class:`NoSuchPipelineVersion`."""
    known = [one for one in cluster.pipelines().all() if one.pipeline_id == pipeline_id]
    found = [one for one in known if version in (None, one.version)]
    if not found:
        asked = pipeline_id if version is None else f"{pipeline_id} version {version}"
        raise NoSuchPipelineVersion(
            f"unknown pipeline {asked}", remedy="`headrace pipeline list` shows all pipelines and versions."
        )
    return found[-1]
