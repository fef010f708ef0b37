"""A wrong setting is named by its environment variable, and a handler that lacks one pauses its stage."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NoReturn
from unittest.mock import AsyncMock, Mock

import pytest
from pydantic import ValidationError

from headrace import migrate
from headrace.config.settings import EXIT_CONFIGURATION, WorkerSettings, wrong_settings
from headrace.envelope import Context
from headrace.errors import ConfigurationError, DependencyDown
from headrace.handler import Handler
from headrace.handlers.chains import PipelineChains
from headrace.handlers.pipelines_log import PipelineCatalogue
from headrace.handlers.registry import HandlerRegistry
from headrace.payloads import SourceDocument
from headrace.stage_process.main import run_stage
from headrace.store.pool import StoreSettings
from headrace.topology.stages import CHUNKER, INGEST

pytestmark = pytest.mark.unit


class Needy(Handler[SourceDocument, SourceDocument]):
    """Reads a setting that is missing."""

    name = "needy"
    stage = "chunker"

    def __init__(self) -> None:
        self.settings = StoreSettings()

    async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
        """Never called."""
        return context


def test_a_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sets environment variables; the name of a field would send them searching."""
    monkeypatch.setenv("HEADRACE_WORKER_DRAIN_S", "soon")
    with pytest.raises(ValidationError) as caught:
        WorkerSettings()
    assert "HEADRACE_WORKER_DRAIN_S: Input should be a valid number" in wrong_settings(caught.value)


@pytest.mark.parametrize("variable", ["HEADRACE_WORKER_DRAIN_S", "HEADRACE_STORE_DSN"])
def test_a_stage_names_the_wrong_setting_and_ends(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stack of calls would stand where the operator looks for the name of the variable."""
    monkeypatch.delenv("HEADRACE_STORE_DSN", raising=False)
    monkeypatch.setattr("headrace.stage_process.main.PipelineFollower", Mock())
    if variable == "HEADRACE_WORKER_DRAIN_S":
        monkeypatch.setenv(variable, "soon")

    def decoder(_codec: object, _latest: object) -> NoReturn:
        raise AssertionError(StoreSettings())

    assert run_stage(INGEST, decoder=decoder) == EXIT_CONFIGURATION
    assert f"ingest cannot start: {variable}" in capsys.readouterr().err


def test_a_stages_own_handler_tells_its_wrong_settings_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage would start, and stand still with the first record."""
    monkeypatch.delenv("HEADRACE_STORE_DSN", raising=False)
    monkeypatch.setattr("headrace.stage_process.main.PipelineFollower", Mock())
    assert run_stage(INGEST, first=Needy) == EXIT_CONFIGURATION
    assert "ingest cannot start: HEADRACE_STORE_DSN" in capsys.readouterr().err


def test_a_stage_names_the_package_whose_handler_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's broken package would end the stage with a stack of calls that names no remedy."""

    def installed(_stage: str) -> NoReturn:
        raise ConfigurationError("entry point 'ingest.mine' does not load", remedy="Repair it.")

    monkeypatch.setattr("headrace.handlers.registry.installed", installed)
    assert run_stage(INGEST) == EXIT_CONFIGURATION
    assert "entry point 'ingest.mine' does not load. Repair it." in capsys.readouterr().err


def test_the_bootstrap_names_the_missing_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first command of a new deployment would answer a forgotten variable with a stack of calls."""
    for name in ("POSTGRES_DSN", "RUNTIME_PASSWORD"):
        monkeypatch.delenv(f"HEADRACE_BOOTSTRAP_{name}", raising=False)
    assert migrate.main() == EXIT_CONFIGURATION
    said = capsys.readouterr().err
    assert "HEADRACE_BOOTSTRAP_POSTGRES_DSN: Field required" in said
    assert "HEADRACE_BOOTSTRAP_RUNTIME_PASSWORD: Field required" in said


def test_a_handler_that_does_not_close_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's faulty close would end a drained stage with an error, and leave connections of the others open."""
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")
    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry(), lambda: None)
    faulty, other = Needy(), Needy()
    closed = AsyncMock()
    monkeypatch.setattr(faulty, "close", AsyncMock(side_effect=RuntimeError("faulty")))
    monkeypatch.setattr(other, "close", closed)
    chains._handlers = {"faulty": faulty, "other": other}
    asyncio.run(chains.close())
    closed.assert_awaited_once()


def test_a_stages_own_handler_goes_before_those_of_every_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template could leave out what no document may go without, such as masking a file."""
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")

    class First(Needy):
        name = "first"

    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry([Needy]), lambda: None, first=First())
    monkeypatch.setattr(chains, "_names", AsyncMock(return_value=["needy"]))

    async def run() -> tuple[list[str], bool]:
        one, other = await chains.chain("a", 1), await chains.chain("b", 1)
        return [handler.name for handler in one], one[0] is other[0]

    assert asyncio.run(run()) == (["first", "needy"], True)


def test_a_handler_that_both_lanes_need_at_once_starts_once() -> None:
    """After a restart with records in both lanes, the second instance would never close and keep its connections."""
    started: list[Slow] = []

    class Slow(Handler[SourceDocument, SourceDocument]):
        name = "slow"
        stage = "chunker"

        async def start(self) -> None:
            started.append(self)
            await asyncio.sleep(0)

        async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
            return context

    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry([Slow]), lambda: None)

    async def run() -> Sequence[Handler]:
        return await asyncio.gather(chains._started("slow"), chains._started("slow"))

    live, side = asyncio.run(run())
    assert (live, side) == (started[0], started[0])
    assert len(started) == 1


def test_a_handler_that_fails_to_start_in_one_lane_starts_in_the_other() -> None:
    """The lane that waited for the other's start would wait for ever, or use a handler that is closed."""
    begun: list[int] = []

    class Recovering(Handler[SourceDocument, SourceDocument]):
        name = "recovering"
        stage = "chunker"

        async def start(self) -> None:
            begun.append(len(begun))
            await asyncio.sleep(0)
            if len(begun) == 1:
                raise DependencyDown("store")

        async def process(self, context: Context[SourceDocument]) -> Context[SourceDocument]:
            return context

    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry([Recovering]), lambda: None)

    async def run() -> Sequence[Handler | BaseException]:
        starts = (chains._started("recovering"), chains._started("recovering"))
        found: Sequence[Handler | BaseException] = await asyncio.gather(*starts, return_exceptions=True)
        return found

    failed, other = asyncio.run(run())
    assert isinstance(failed, DependencyDown)
    assert isinstance(other, Recovering)


def test_a_handler_without_its_setting_pauses_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing setting would otherwise end the process again and again, or cost the record."""
    monkeypatch.delenv("HEADRACE_STORE_DSN", raising=False)
    chains = PipelineChains("chunker", PipelineCatalogue(), HandlerRegistry([Needy]), lambda: None)
    with pytest.raises(DependencyDown, match="HEADRACE_STORE_DSN: Field required"):
        asyncio.run(chains._started("needy"))


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"URL": "objects"}, "HEADRACE_OBJECTS_URL"),
        ({"URL": "file:///tmp/x", "LIMIT_BYTES": "100000000"}, "HEADRACE_OBJECTS_LIMIT_BYTES"),
        ({"URL": "s3://bucket", "S3_ACCESS_KEY_ID": "id"}, "HEADRACE_OBJECTS_S3_SECRET_ACCESS_KEY"),
    ],
)
def test_a_wrong_object_store_is_told_at_the_start(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stage would start, and pause at the first large document, hours later."""
    monkeypatch.setattr("headrace.stage_process.main.PipelineFollower", Mock())
    for name, value in variables.items():
        monkeypatch.setenv(f"HEADRACE_OBJECTS_{name}", value)
    assert run_stage(CHUNKER) == EXIT_CONFIGURATION
    assert named in capsys.readouterr().err


def test_the_bootstrap_knows_what_the_embedder_knows_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the first generation has 384 dimensions and no prompt, and the embedder waits for another for ever."""
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_POSTGRES_DSN", "postgresql://h/db")
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_RUNTIME_PASSWORD", "p")
    assert migrate.BootstrapSettings().dimensions == 384
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_MODEL", "multilingual-e5-base")
    found = migrate.BootstrapSettings()
    assert (found.dimensions, found.passage_prompt) == (768, "passage: ")
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_DIMENSIONS", "64")
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_PASSAGE_PROMPT", "")
    found = migrate.BootstrapSettings()
    assert (found.dimensions, found.passage_prompt) == (64, "")
