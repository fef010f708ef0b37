"""What stands against a capture, what the connector is told, and what Kafka Connect answers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headrace.config.captured_tables import Table, of_capture
from headrace.errors import ConfigurationError, DependencyDown
from headrace_operations.capture import control
from headrace_operations.capture.connector import Connect, Status, configuration, dsn_of, is_ours, unread
from headrace_operations.capture.database import Database, Found, Problem, problems

pytestmark = pytest.mark.unit

TABLE = Table.model_validate({"tenant": "{owner}", "id": "{id}", "text": "{body}"})
TABLES = {"public.article": TABLE}
FOUND = Found(("owner", "id", "body"), (frozenset({"id"}),), "f")
READY = Database("logical", True, {"public.article": FOUND})
DSN = "postgresql://ann:p%40ss%2Fword@db.example:6543/shop"


def test_a_database_that_is_ready_has_no_problem() -> None:
    """Broken: nobody can begin."""
    assert problems(READY, TABLES) == []
    assert problems(READY, of_capture({"shop.public.article": TABLE, "crm.public.other": TABLE}, "shop")) == []


def test_a_capture_has_to_do_with_its_own_tables_alone() -> None:
    """Broken: reconciling one capture deletes the documents of another, by the other's mapping."""
    own = TABLE.model_copy(update={"pipeline": "own"})
    tables = {
        "public.article": TABLE,
        "shop.public.article": own,
        "crm.public.article": TABLE,
        "crm.public.note": TABLE,
    }
    assert of_capture(tables, "shop") == {"public.article": own}
    assert of_capture(tables, "crm") == {"public.article": TABLE, "public.note": TABLE}
    assert of_capture(tables, "public") == {"public.article": TABLE}


@pytest.mark.parametrize(
    ("database", "where", "said"),
    [
        (Database("replica", True, READY.tables), "wal_level", "requires logical"),
        (Database("logical", False, READY.tables), "role", "lacks the attribute REPLICATION"),
        (Database("logical", True, {}), "public.article", "does not exist; the database has no tables"),
        (
            Database("logical", True, {"public.article": Found(("owner", "id", "text"), FOUND.keys, "f")}),
            "public.article.body", "is not a column",
        ),
        (
            Database("logical", True, {"public.article": Found(FOUND.columns, (frozenset({"id", "part"}),), "f")}),
            "public.article", "two rows may become one document",
        ),
        (
            Database("logical", True, {"public.article": Found(FOUND.columns, FOUND.keys, "d")}),
            "public.article", "does not log complete rows",
        ),
        (
            Database("logical", True, {"public.article": Found(FOUND.columns, FOUND.keys, "f", kind="p")}),
            "public.article", "not an ordinary table",
        ),
        (
            Database("logical", True, {"public.article": Found(FOUND.columns, FOUND.keys, "f", owned=False)}),
            "public.article", "the role does not own it",
        ),
    ],
)  # fmt: skip
def test_what_stands_against_a_capture_is_named(database: Database, where: str, said: str) -> None:
    """Broken: a capture begins that loses something, and nobody is told."""
    (found,) = problems(database, TABLES)
    assert found.where == where
    assert said in found.what
    assert found.remedy


def test_a_table_that_is_not_there_is_told_with_those_that_are() -> None:
    """Broken: whoever maps a table of another schema looks for its name elsewhere, or a large database floods them."""
    (few,) = problems(Database("logical", True, {}, ("app.article", "public.note")), TABLES)
    assert few.remedy == "Use an existing table, as schema.table: app.article, public.note"
    (many,) = problems(Database("logical", True, {}, tuple(f"app.t{number:02}" for number in range(21))), TABLES)
    assert many.remedy.endswith("app.t18, app.t19, …")


def test_the_connector_is_told_what_the_guarantees_rest_on() -> None:
    """Broken: rows of one document have several keys, or a crash of Kafka Connect repeats what it wrote."""
    config = configuration("shop", DSN, TABLES, "changes")
    assert config["message.key.columns"] == r"public\.article:owner,id"
    assert config["table.include.list"] == r"public\.article"
    assert config["exactly.once.support"] == "required"
    assert (config["transforms.route.regex"], config["transforms.route.replacement"]) == (".*", "changes")
    assert (config["database.hostname"], config["database.port"], config["database.dbname"]) == (
        "db.example", "6543", "shop",
    )  # fmt: skip
    assert (config["database.user"], config["database.password"]) == ("ann", "p@ss/word")
    assert config["column.include.list"] == r"public\.article\.owner,public\.article\.id,public\.article\.body"
    assert dsn_of(config) == DSN
    assert is_ours("shop", config)
    assert not is_ours("other", config)


def test_encryption_and_addresses_are_not_lost_on_the_way() -> None:
    """Broken: the connector talks in the clear to a server that nobody verified."""
    dsn = "postgresql://ann:x@[::1]:5433/shop?sslmode=verify-full&sslrootcert=%2Fca.pem"
    config = configuration("shop", dsn, TABLES, "changes")
    assert (config["database.sslmode"], config["database.sslrootcert"]) == ("verify-full", "/ca.pem")
    assert dsn_of(config) == dsn
    with pytest.raises(ConfigurationError, match="password"):
        configuration("shop", "postgresql://h/d?password=x", TABLES, "changes")


def test_a_connector_that_runs_is_not_given_what_it_would_not_read() -> None:
    """Broken: the rows of a table that was added are missing, and nothing says so."""
    one = configuration("shop", DSN, TABLES, "changes")
    two = configuration("shop", DSN, {**TABLES, "public.note": TABLE}, "changes")
    rekeyed = configuration("shop", DSN, {"public.article": TABLE.model_copy(update={"tenant": TABLE.id})}, "changes")
    assert unread(one, one) is None
    assert unread(two, one) is None
    assert "public.note" in str(unread(one, two))
    assert "public.article:id" in str(unread(one, rekeyed))


@pytest.mark.parametrize(
    ("name", "dsn"),
    [
        ("Shop", DSN), ("a-b", DSN), ("x" * 42, DSN), ("shop", "host=db dbname=shop"), ("shop", "mysql://h/d"),
        ("shop", "postgresql://h:port/d"),
    ],
)  # fmt: skip
def test_a_bad_name_or_url_is_refused(name: str, dsn: str) -> None:
    """Broken: Kafka Connect refuses it later, and less plainly."""
    with pytest.raises(ConfigurationError):
        configuration(name, dsn, TABLES, "changes")


class Answers:
    """Stands for Kafka Connect: answers by method and path, and notes what was asked."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, method: str, url: str, **_: Any) -> httpx.Response:
        asked = f"{method} {url.removeprefix('http://connect')}"
        self.asked.append(asked)
        status, body = self.answers.get(asked, (404, {"error_code": 404, "message": "not there"}))
        return httpx.Response(status, json=body)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have Kafka Connect answer so."""

    def answer(answers: dict[str, tuple[int, Any]]) -> Answers:
        made = Answers(answers)
        monkeypatch.setattr(httpx, "request", made)
        return made

    return answer


CONFIG = {"table.include.list": r"public\.article"}


@pytest.mark.parametrize(
    ("connector", "tasks", "state", "reason"),
    [
        ("RUNNING", [("RUNNING", "")], "RUNNING", ""),
        ("RUNNING", [], "STARTING", ""),
        ("RUNNING", [("FAILED", "PSQLException: no slot\n\tat x")], "FAILED", "PSQLException: no slot"),
        ("FAILED", [], "FAILED", ""),
        ("PAUSED", [("PAUSED", "")], "PAUSED", ""),
    ],
)
def test_the_worst_of_a_connector_is_its_state(
    answer: Any, connector: str, tasks: list[tuple[str, str]], state: str, reason: str
) -> None:
    """Broken: a capture whose task is dead is shown as running."""
    said = {"connector": {"state": connector}, "tasks": [{"state": one, "trace": trace} for one, trace in tasks]}
    answer({"GET /connectors/shop/config": (200, CONFIG), "GET /connectors/shop/status": (200, said)})
    assert Connect("http://connect/").status("shop") == Status("shop", state, reason, ("public.article",))


def test_what_is_not_there_is_none(answer: Any) -> None:
    """Broken: a slip in a name looks like a capture that fails."""
    answer({})
    assert Connect("http://connect").status("shop") is None
    assert Connect("http://connect").configuration("shop") is None


def test_a_refusal_and_an_outage_are_told_apart(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a wrong setting is tried again for ever, or an outage is taken for a wrong setting."""
    answer({"PUT /connectors/shop/config": (400, {"message": "no such host"})})
    with pytest.raises(ConfigurationError, match="no such host"):
        Connect("http://connect").put("shop", {})
    answer({"PUT /connectors/shop/config": (409, {"message": "rebalance in process"})})
    with pytest.raises(DependencyDown, match="rebalance in process"):
        Connect("http://connect").put("shop", {})

    def refused(*_: Any, **__: Any) -> httpx.Response:
        raise httpx.ConnectError("refused")

    monkeypatch.setattr(httpx, "request", refused)
    with pytest.raises(DependencyDown, match="--with-connect"):
        Connect("http://connect").names()


def test_an_end_forgets_the_offsets_too(answer: Any) -> None:
    """Broken: a capture of the same name begins where the old one ended, and misses what came between."""
    made = answer({
        "PUT /connectors/shop/stop": (202, {}), "DELETE /connectors/shop/offsets": (200, {}),
        "DELETE /connectors/shop": (204, {}),
    })  # fmt: skip
    Connect("http://connect").delete("shop")
    assert made.asked == ["PUT /connectors/shop/stop", "DELETE /connectors/shop/offsets", "DELETE /connectors/shop"]


CALLS = {
    "names": lambda connect: connect.names(),
    "put": lambda connect: connect.put("shop", {}),
    "configuration": lambda connect: connect.configuration("shop"),
    "status": lambda connect: connect.status("shop"),
    "delete": lambda connect: connect.delete("shop"),
}


class Refuses:
    """A server that answers every request with this status and body, and notes what was asked."""

    def __init__(self, status: int, body: Any) -> None:
        self.answer = (status, body)
        self.asked: list[str] = []

    def __call__(self, method: str, url: str, **_: Any) -> httpx.Response:
        self.asked.append(f"{method} {url}")
        return httpx.Response(self.answer[0], json=self.answer[1])


@pytest.mark.parametrize(("status", "remedy"), [(401, "credentials"), (403, "credentials"), (302, "URL of Kafka Con")])
@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_was_not_expected_is_told(
    monkeypatch: pytest.MonkeyPatch, call: str, status: int, remedy: str
) -> None:
    """Broken: a refused call looks done, and `capture stop` drops the slot of a connector that still runs."""
    server = Refuses(status, {"message": "who are you"})
    monkeypatch.setattr(httpx, "request", server)
    with pytest.raises(ConfigurationError) as told:
        CALLS[call](Connect("http://ann:secret@connect"))
    assert len(server.asked) == 1
    assert f"HTTP {status}" in told.value.message
    assert "who are you" in told.value.message
    assert remedy in told.value.remedy
    assert told.value.where.startswith("http://connect")


@pytest.mark.parametrize(("call", "status"), [("names", 404), ("put", 404), ("names", 200), ("configuration", 200)])
def test_another_program_is_not_taken_for_kafka_connect(
    monkeypatch: pytest.MonkeyPatch, call: str, status: int
) -> None:
    """Broken: `capture list` shows the keys of another program's answer as captures."""
    monkeypatch.setattr(httpx, "request", Refuses(status, {"detail": "not there"} if call == "names" else ["no"]))
    with pytest.raises(ConfigurationError, match="Kafka Connect's REST API"):
        CALLS[call](Connect("http://connect"))


@pytest.mark.parametrize("url", ["connect:8083", "http://", "http://connect:port", "ftp://connect", "http://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Broken: the operator reads "unexpected error: InvalidURL"."""
    with pytest.raises(ConfigurationError, match="http://host:port"):
        Connect(url)


@pytest.mark.parametrize("act", ["plan", "start"])
def test_a_database_that_does_not_fit_starts_nothing(monkeypatch: pytest.MonkeyPatch, answer: Any, act: str) -> None:
    """Broken: a capture starts that fails or loses data, because a caller forgot to check."""
    found = [Problem("public.article", "has no key", "add one"), Problem("wal_level", "is replica", "set it")]
    monkeypatch.setattr(control, "find_problems", lambda *_: found)
    server = answer({})
    request = control.CaptureRequest("shop", TABLES, DSN, "changes")
    with pytest.raises(control.UnfitDatabase, match=r"public\.article has no key") as told:
        control.plan_start(request) if act == "plan" else control.start(Connect("http://connect"), request, "file")
    assert told.value.problems == found
    assert server.asked == []
