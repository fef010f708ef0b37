"""A wrong setting is named by its environment variable, and a handler that lacks one pauses its stage."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from headrace.chains import PipelineChains
from headrace.envelope import Context
from headrace.errors import DependencyDown
from headrace.handler import Handler
from headrace.pipelines_log import PipelineCatalogue
from headrace.records import SourceDocument
from headrace.registry import HandlerRegistry
from headrace.settings import WorkerSettings, wrong_settings
from headrace.store.pool import StoreSettings

pytestmark = pytest.mark.unit


class Needy(Handler):
    """Reads a setting that is missing."""

    name = "needy"
    stage = "chunker"
    consumes = SourceDocument
    produces = SourceDocument

    def __init__(self) -> None:
        self.settings = StoreSettings()

    async def process(self, context: Context) -> Context:
        """Never called."""
        return context


def test_a_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sets environment variables; the name of a field would send them searching."""
    monkeypatch.setenv("HEADRACE_WORKER_DRAIN_S", "soon")
    with pytest.raises(ValidationError) as caught:
        WorkerSettings()
    assert "HEADRACE_WORKER_DRAIN_S: Input should be a valid number" in wrong_settings(caught.value)


def test_a_handler_without_its_setting_pauses_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing setting would otherwise end the process again and again, or cost the record."""
    monkeypatch.delenv("HEADRACE_STORE_DSN", raising=False)
    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry([Needy]), lambda: None)
    with pytest.raises(DependencyDown, match="HEADRACE_STORE_DSN: Field required"):
        asyncio.run(chains._started("needy"))
