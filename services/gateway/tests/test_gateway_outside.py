"""The gateway's clients: the embedder over HTTP, answers remembered, dead letters as they are remembered."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import EXIT_CONFIGURATION, KafkaSettings
from headrace.documents.status import entry_of
from headrace.errors import ConfigurationError, DependencyDown
from headrace.payloads import DeadLetter, HeaderPart
from headrace.store.rows import Generation
from headrace_gateway.dead_letters import DeadLetterFollower
from headrace_gateway.flow import KafkaFlowReader
from headrace_gateway.idempotency import AnswerCache, request_id
from headrace_gateway.main import main
from headrace_gateway.problems import Problem

pytestmark = pytest.mark.unit


GENERATION = Generation("g1", "model", 2)


@pytest.mark.parametrize(
    ("variable", "value"), [("HEADRACE_GATEWAY_DRAIN_S", "soon"), ("HEADRACE_STORE_SCHEMA_NAME", "no schema")]
)
def test_a_wrong_setting_is_named_by_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, an operator would get a stack of calls instead of the variable to repair."""
    monkeypatch.setattr("headrace.telemetry.logs.configure", lambda *_, **__: None)
    monkeypatch.setenv("HEADRACE_GATEWAY_PORT", "0")
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://127.0.0.1/none")
    monkeypatch.setenv(variable, value)
    assert main() == EXIT_CONFIGURATION
    assert f"gateway cannot start: {variable}: " in capsys.readouterr().err


@pytest.mark.parametrize("reading", ["_starts", "_held_starts"])
async def test_a_kafka_that_stays_silent_is_a_dependency_that_is_down(
    monkeypatch: pytest.MonkeyPatch, reading: str
) -> None:
    """If it failed, asking where a document is would be answered 500 while Kafka hangs."""

    def silent(*_: object) -> NoReturn:
        raise TimeoutError

    reader = KafkaFlowReader(KafkaSettings(bootstrap="127.0.0.1:1"), Codec(FixedIds()))
    monkeypatch.setattr(reader, "_count", lambda _: 8)
    monkeypatch.setattr(reader, "_held_starts", lambda _: ([], False))
    monkeypatch.setattr(reader, reading, silent)
    with pytest.raises(DependencyDown, match="positions cannot be read: TimeoutError"):
        await reader.waiting(b"alpha/a")
    reader.close()


def test_dead_letters_are_followed_again_after_the_registry_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, one refusal by the registry would hide every later dead letter until the gateway is restarted."""
    follower = DeadLetterFollower(KafkaSettings(), Codec(FixedIds()))
    turns: list[int] = []

    def follow() -> None:
        turns.append(len(turns))
        if len(turns) == 1:
            raise ConfigurationError("the registry answered HTTP 401")
        follower._closed.set()

    monkeypatch.setattr(follower, "_follow", follow)
    monkeypatch.setattr("headrace_gateway.dead_letters._RETRY_S", 0.0)
    follower._run()
    assert turns == [0, 1]


async def test_the_same_request_under_way_is_409() -> None:
    """If it failed, a client's impatient repeat would be published beside the first."""
    answers = AnswerCache(10, 60)
    codes: list[int] = []

    async def work() -> dict[str, Any]:
        with pytest.raises(Problem) as caught:
            await answers.once("r", b"body", work)
        codes.append(caught.value.status_code)
        return {"done": True}

    assert await answers.once("r", b"body", work) == {"done": True}
    assert codes == [409]


def test_request_ids_depend_on_tenant_kind_and_key() -> None:
    """If it failed, two tenants' or two routes' requests with one key would be the same request."""
    ids = {request_id(tenant, kind, key) for tenant in "ab" for kind in "cd" for key in ("e", "f", None)}
    assert len(ids) == 12
    assert request_id("a", "c", "e") == request_id("a", "c", "e")


def make_dead_letter(**changes: Any) -> DeadLetter:
    """A dead letter as a stage writes it."""
    values: dict[str, Any] = {
        "stage": "ingest",
        "reason": "undecodable",
        "message": "m" * 5000,
        "remedy": "r",
        "stack": None,
        "handler": None,
        "attempt": 1,
        "topic": "changes",
        "partition": 1,
        "offset": 33,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "key": b"alpha/a",
        "value": b"",
        "headers": (HeaderPart("request-id", b"r-1"), HeaderPart("version", b"8")),
        "failed_at": datetime(2026, 1, 1, tzinfo=UTC),
        "worker": "w",
    }
    return DeadLetter(**{**values, **changes})


def test_a_dead_letters_version_comes_from_its_record_its_headers_or_its_offset() -> None:
    """If it failed, the dead letter of a change that never decoded could not be matched with its request."""
    entry = entry_of(make_dead_letter(), 0, 5)
    assert (entry.version, entry.request_id, entry.offset, len(entry.message)) == (8, "r-1", 5, 1000)
    assert entry_of(make_dead_letter(version=9), 0, 5).version == 9
    without = make_dead_letter(headers=(HeaderPart("request-id", b"r-1"),))
    assert entry_of(without, 0, 5).version == 33
    foreign = make_dead_letter(headers=(HeaderPart("version", b"-1"), HeaderPart("x", None)))
    assert entry_of(foreign, 0, 5).version is None
