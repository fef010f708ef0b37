"""How the services of a local stack are started."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from headrace.config.settings import ObjectSettings
from headrace.errors import ConfigurationError
from headrace.store.error_mapping import GenerationExists
from headrace_cli import state
from headrace_cli.commands.stack import _launched
from headrace_cli.failures import CommandError, UsageError
from headrace_cli.stack import services
from headrace_cli.stack.launch import Launch, Launched, Launcher, _migrate
from headrace_cli.stack.observe import without_password
from headrace_cli.stack.services import Plan, Provider
from headrace_local.model import Command, Endpoints, ProcessStatus
from headrace_tools import discovery

pytestmark = pytest.mark.unit

ENDPOINTS = Endpoints("127.0.0.1:9092", "http://127.0.0.1:8081", "postgresql://o:p@127.0.0.1/db", Path("/state"))


class Ports:
    """Gives each name a port of its own, the same from then on."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        return self.known.setdefault(name, 20_000 + len(self.known))


def commands(*scale: str, **environment: str) -> dict[str, Command]:
    """Return the commands of a plan by name."""
    plan = Plan(
        Provider("hashing", "hashing-384", 384), "postgresql://s:t@h/db", "tok", services.scale(scale), environment
    )
    return {command.name: command for command in services.service_commands(ENDPOINTS, plan, Ports())}


def test_every_service_runs_as_a_module_of_this_python() -> None:
    """Broken: `headrace up` starts something else than what is installed beside it."""
    found = commands()
    assert list(found) == list(services.SERVICES)
    for name, command in found.items():
        assert command.argv == (sys.executable, "-m", f"headrace_{name}.main")
        assert importlib.util.find_spec(f"headrace_{name}") is not None


@pytest.mark.parametrize(
    ("provider", "model", "said"),
    [
        ("sentence-transformers", "nlpai-lab/KURE-v1", "nlpai-lab/KURE-v1; the first start downloads and prepares it"),
        ("sentence-transformers", "all-MiniLM-L6-v2", "all-MiniLM-L6-v2; the first start prepares it"),
        ("sentence-transformers", "multilingual-e5-small", "multilingual-e5-small; the first start prepares it"),
        ("sentence-transformers", "intfloat/multilingual-e5-small", "e5-small; the first start downloads and"),
        ("openai-compatible", "m", ""),
        ("hashing", "m", ""),
    ],
)
def test_an_embedder_that_loads_a_model_says_so_and_has_time_to_fetch_it(provider: str, model: str, said: str) -> None:
    """Broken: `headrace up` stands still for minutes without a word, and gives up before the model is there."""
    plan = Plan(
        Provider(provider, model, 384), "postgresql://s:t@h/db", "tok", services.scale(()),
        {"HEADRACE_EMBEDDER_MODEL": model},
    )  # fmt: skip
    found = {one.name: one for one in services.service_commands(ENDPOINTS, plan, Ports())}
    assert said in found["embedder"].loads
    assert bool(found["embedder"].loads) == bool(said)
    assert (found["embedder"].start_s > found["chunker"].start_s) == ("downloads" in said)
    assert found["gateway"].start_s == found["embedder"].start_s, "the gateway is ready when the embedder is"
    assert not found["chunker"].loads + found["gateway"].loads


def test_instances_have_slots_ports_and_readiness_of_their_own() -> None:
    """Broken: a second instance fences the first, or both want one port."""
    found = commands("chunker=3", "embedder=2")
    assert [name for name in found if name.startswith("chunker")] == ["chunker", "chunker-1", "chunker-2"]
    assert [found[name].env["HEADRACE_WORKER_SLOT"] for name in ("chunker", "chunker-1", "chunker-2")] == [
        "0",
        "1",
        "2",
    ]
    ports = [command.env["HEADRACE_HTTP_PORT"] for command in found.values()]
    queries = [found[name].env["HEADRACE_EMBEDDER_PORT"] for name in ("embedder", "embedder-1")]
    assert len({*ports, *queries}) == len(ports) + len(queries)
    assert found["chunker"].health == f"http://127.0.0.1:{found['chunker'].env['HEADRACE_HTTP_PORT']}/readyz"


def test_gateway_and_generator_reach_the_embedder_with_the_shared_token() -> None:
    """Broken: queries cannot be embedded, or anybody on the machine may use the model."""
    found = commands()
    url = f"http://127.0.0.1:{found['embedder'].env['HEADRACE_EMBEDDER_PORT']}"
    assert found["embedder"].env["HEADRACE_EMBEDDER_TOKEN"] == "tok"
    for name in ("gateway", "generator"):
        prefix = f"HEADRACE_{name.upper()}_EMBEDDER"
        assert (found[name].env[f"{prefix}_URL"], found[name].env[f"{prefix}_TOKEN"]) == (url, "tok")
    assert "HEADRACE_EMBEDDER_TOKEN" not in found["chunker"].env


def test_services_get_the_login_that_owns_nothing() -> None:
    """Broken: row-level security is bypassed, since the services log in as owner."""
    found = commands(
        HEADRACE_BOOTSTRAP_POSTGRES_DSN="postgresql://owner@h/db", HEADRACE_API_KEY="hr_secret", PATH="/bin"
    )
    for command in found.values():
        assert command.env["HEADRACE_STORE_DSN"] == "postgresql://s:t@h/db"
        assert not {"HEADRACE_BOOTSTRAP_POSTGRES_DSN", "HEADRACE_API_KEY", "PATH"} & set(command.env)


def test_the_callers_settings_reach_the_services_and_ours_win() -> None:
    """Broken: a setting in the environment has no effect on a stack that is extended, or breaks its wiring."""
    found = commands(HEADRACE_GENERATOR_MODEL="m", HEADRACE_KAFKA_BOOTSTRAP="elsewhere:1")
    assert found["generator"].env["HEADRACE_GENERATOR_MODEL"] == "m"
    assert found["generator"].env["HEADRACE_KAFKA_BOOTSTRAP"] == ENDPOINTS.kafka_bootstrap


@pytest.mark.parametrize("text", ["chunker", "chunker=0", "chunker=99", "kafka=2", "chunker=x", "=2"])
def test_a_wrong_scale_is_refused(text: str) -> None:
    """Broken: a misspelt stage is scaled in silence, that is, not at all."""
    with pytest.raises(UsageError, match="invalid number of instances"):
        services.scale([text])


def test_the_provider_gives_the_index_its_model() -> None:
    """Broken: the first generation is made for another model than the embedder runs, and every vector is refused."""
    assert services.provider_of("sentence-transformers", {}) == Provider(
        "sentence-transformers", "all-MiniLM-L6-v2", 384
    )
    named = {"HEADRACE_EMBEDDER_MODEL": "org/e5-small/", "HEADRACE_EMBEDDER_DIMENSIONS": "512"}
    assert services.provider_of("sentence-transformers", named).model == "e5-small"
    assert services.provider_of("hashing", named) == Provider("hashing", "hashing-512", 512)
    remote = {**named, "HEADRACE_EMBEDDER_BASE_URL": "http://h/v1"}
    assert services.provider_of("openai-compatible", remote).model == "org/e5-small/"
    with pytest.raises(ConfigurationError, match="requires a server"):
        services.provider_of("openai-compatible", named)
    with pytest.raises(UsageError, match="unknown provider"):
        services.provider_of("magic", {})
    for name in ("sentence-transformers", "model2vec"):
        with pytest.raises(ConfigurationError, match="unknown model org/nosuch") as unknown:
            services.provider_of(name, {"HEADRACE_EMBEDDER_MODEL": "org/nosuch"})
        assert "HEADRACE_EMBEDDER_DIMENSIONS" in unknown.value.remedy
    with pytest.raises(ConfigurationError, match="dimensions"):
        services.provider_of("hashing", {"HEADRACE_EMBEDDER_DIMENSIONS": "many"})


def test_the_runtime_login_replaces_the_owners() -> None:
    """Broken: the owner's password reaches the services, or a password with signs breaks the address."""
    dsn = services.runtime_dsn("postgresql://own:er@h:5/db?sslmode=require", "login", "p@/:w")
    assert dsn == "postgresql://login:p%40%2F%3Aw@h:5/db?sslmode=require"
    with pytest.raises(ConfigurationError, match="invalid PostgreSQL URL"):
        services.runtime_dsn("host=h user=u", "login", "p")


def test_a_local_stack_has_a_folder_for_large_payloads(tmp_path: Path) -> None:
    """Broken: a large document ends as a dead letter on a laptop, or goes elsewhere than the user said."""
    given = {services.OBJECTS: "s3://bucket/folder"}
    own = Launcher(Launch(tmp_path, environment={}), print)._objects()
    assert own == (tmp_path / "objects").as_uri()
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700
    assert ObjectSettings(url=own).url == own
    assert Launcher(Launch(tmp_path, environment=given), print)._objects() == "s3://bucket/folder"
    assert commands(**given)["chunker"].env[services.OBJECTS] == "s3://bucket/folder"


def test_tables_that_a_running_ingest_has_not_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `up` names another file, says that the stack runs, and every row of it becomes a dead letter."""
    file = tmp_path / "tables.yaml"
    file.write_text("tables: {}")
    running = [ProcessStatus("ingest", 1, "running", 0, 1.0, None)]
    monkeypatch.setattr("headrace_local.stack.Stack.status", lambda _: running)

    def asked(named: Path | None) -> str | None:
        launcher = Launcher(Launch(tmp_path, environment={services.TABLES: str(named)} if named else {}), print)
        return launcher._as_started(launcher._tables())[0]

    first = asked(file)
    known = state.RunningServices("http://h", "k", "r", "hashing", "hashing-384", tables=first)
    state.write(tmp_path, state.SERVICES, known)
    assert asked(file) == asked(None) == first
    file.write_text("tables: {more: {}}")
    with pytest.raises(CommandError, match="has not read this file"):
        asked(file)
    running.clear()
    assert asked(file) not in (None, first)


def test_settings_that_running_services_have_not_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `HEADRACE_COST_FILE=… headrace up` says that the stack runs, and no cap is in force; or keeps secrets."""
    running = [ProcessStatus("embedder", 1, "running", 0, 1.0, None)]
    monkeypatch.setattr("headrace_local.stack.Stack.status", lambda _: running)
    said: list[str] = []

    def again(**environment: str) -> dict[str, str] | None:
        said.clear()
        return Launcher(Launch(tmp_path, "hashing", environment=environment), said.append)._as_started(None)[1]

    first = {"HEADRACE_EMBEDDER_API_KEY": "secret", "HEADRACE_FETCH_HOSTS": "a.example", "HEADRACE_JSON": "1"}
    settings = Launcher(Launch(tmp_path, environment=first), print)._digests()
    assert set(settings) == {"HEADRACE_EMBEDDER_API_KEY", "HEADRACE_FETCH_HOSTS"}
    known = state.RunningServices("http://h", "k", "r", "hashing", "hashing-384", settings=settings)
    state.write(tmp_path, state.SERVICES, known)
    assert "secret" not in (tmp_path / state.SERVICES).read_text()
    assert again(**first) == settings
    assert said == []
    assert again(**(first | {"HEADRACE_FETCH_HOSTS": "b.example"}), HEADRACE_COST_FILE="c") == settings
    (note,) = said
    assert "have changed: HEADRACE_COST_FILE, HEADRACE_FETCH_HOSTS." in note
    assert "`headrace down`" in note
    running.clear()
    assert again() is None
    assert said == []


def test_every_setting_of_a_service_is_known_as_one() -> None:
    """Broken: a new service's settings are ignored on a stack that runs, and nobody is told."""
    theirs = {setting.variable for setting in discovery.settings()}
    commands_alone = ("HEADRACE_ALERTS_", "HEADRACE_BOOTSTRAP_")
    assert {name for name in theirs if not name.startswith((*services._SETTINGS, *commands_alone))} == set()


def test_the_address_of_the_database_is_shown_without_its_password() -> None:
    """Broken: a password stands in a terminal, and in the bug report that it is copied to."""
    assert without_password("postgresql://own:er@h:5/db?sslmode=require") == "postgresql://own@h:5/db"
    assert without_password("postgresql://h/db") == "postgresql://h/db"
    assert without_password("host=h user=u password=p") == "the address in --postgres"


def test_up_says_where_gateway_and_kafka_answer() -> None:
    """Broken: the ports are this stack's own, and a producer on Kafka cannot find the topic `changes`."""
    told = "\n".join(_launched(Launched(ENDPOINTS, True, "default", "http://127.0.0.1:20000", ()), 1.0))
    assert "gateway http://127.0.0.1:20000" in told
    assert "Kafka 127.0.0.1:9092" in told
    assert "Kafka 127.0.0.1:9092" in "\n".join(_launched(Launched(ENDPOINTS, False, "default", None, ()), 1.0))


def test_another_model_on_a_stack_that_has_an_index_is_told_what_up_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the remedy is another name of the generation, and `headrace up` takes none."""

    def refuse(*_: object) -> None:
        raise GenerationExists("generation g1 exists with all-MiniLM-L6-v2", remedy="choose another name")

    monkeypatch.setattr("headrace.migrate.bootstrap", refuse)
    credentials = state.Credentials("default", "", "login", "password", "token")
    with pytest.raises(GenerationExists, match="generation g1 exists") as refused:
        _migrate(ENDPOINTS, Provider("hashing", "hashing-384", 384), credentials, "file:///objects", print)
    assert "`headrace up --state-dir NEW`" in refused.value.remedy
    assert refused.value.where == "/state"
