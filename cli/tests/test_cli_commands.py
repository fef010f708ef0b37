"""The command line as its users meet it: output, exit codes, messages."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headrace.errors import DependencyDown
from headrace_cli import state
from headrace_cli.app import app
from headrace_cli.context import Operator
from headrace_cli.exit_codes import MEANINGS, ExitCode

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
HIT = {"document_id": "a.md", "title": "A", "version": 1, "section": ["Guide", "Setup"], "start": 3, "end": 40,
       "text": "Water\nflows over  the wheel", "score": 0.5, "source": "s", "attributes": {}}  # fmt: skip
ARTIFACT = {"id": "i", "text": "It flows [1].", "provider": "extractive", "model": "none",
            "citations": [
                {"marker": 1, "document_id": "a.md", "section": ["Guide"], "start": 3, "end": 40}]}  # fmt: skip
STATUS = {"id": "a.md", "state": "in_flight", "version": 4, "waiting_for": "embedder", "stored": None, "held": None,
          "dead_letter": None, "notes": ["one note"], "in_flight": [{"version": 9}],
          "stages": [{"stage": "ingest", "handlers": ["change-event@1"], "worker": "ingest-0", "attempt": 1,
                      "started_at": "2026-01-01T00:00:00.123456Z", "duration_us": 1500}]}  # fmt: skip


def run(*arguments: str, code: int = 0, url: str | None = None) -> Any:
    """Run the command and check its exit code."""
    environment = {"HEADRACE_URL": url, "HEADRACE_API_KEY": "hr_k"} if url else {}
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a folder without a stack."""
    monkeypatch.chdir(tmp_path)


def test_the_help_loads_nothing_heavy() -> None:
    """Broken: `headrace --help` takes seconds."""
    code = (
        "import sys\nfrom headrace_cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "confluent_kafka", "asyncpg", "pydantic", "fastapi", "httpx", "rich", "psycopg",
             "structlog", "fastavro", "headrace_local"}  # fmt: skip
    assert "ingest" in done.stdout
    assert {name for name in heavy if f"'{name}'" in done.stderr} == set()


def answered(hits: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The answer of a search."""
    return {"hits": hits, "fits": True, "fit": 0.5, "timings": {"embed_ms": 1, "search_ms": 2}, **more}


def test_search_loads_no_client_of_kafka_or_postgresql(gateway: Any) -> None:
    """Broken: `headrace search` takes longer than half a second."""
    gateway.reply = lambda _: (200, {}, answered([HIT]))
    code = (
        "import sys\nfrom headrace_cli.app import app\n"
        f"try:\n    app(['search', 'q', '--url', {gateway.url!r}, '--api-key', 'hr_k'])\nexcept SystemExit as end:\n"
        "    assert end.code == 0\nprint(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "confluent_kafka", "asyncpg", "fastapi", "httpx", "rich", "psycopg", "headrace_local"}
    assert "a.md" in done.stdout
    assert {name for name in heavy if f"'{name}'" in done.stderr} == set()


def leaves(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    """Return every command with its words."""
    members = getattr(command, "commands", None)
    if members is None:
        return [(" ".join(words), command)]
    return [leaf for name, member in members.items() for leaf in leaves(member, (*words, name))]


def test_every_option_has_help_and_a_variable_of_its_own() -> None:
    """Broken: an option cannot be set where there is no command line, or nobody knows what it does."""
    found = leaves(typer.main.get_command(app))
    assert len(found) >= 14
    for words, command in found:
        assert command.help, words
        shown = run(*words.split(), "--help").output.replace("\n", "")
        for option in command.params:
            assert option.help, (words, option.name)
            if option.param_type_name == "option" and option.name != "help":
                assert str(option.envvar).startswith("HEADRACE_"), (words, option.name)
                assert str(option.envvar) in shown, option.name


def test_every_command_and_exit_code_is_in_the_guide_and_the_reference() -> None:
    """Broken: the documents tell of another command line than there is."""
    guide = (ROOT / "docs/guides/command-line.md").read_text(encoding="utf-8")
    reference = (ROOT / "docs/reference/commands.md").read_text(encoding="utf-8")
    codes = (ROOT / "docs/reference/exit-codes.md").read_text(encoding="utf-8")
    for words, command in leaves(typer.main.get_command(app)):
        assert f"headrace {words}" in guide
        assert f"## `headrace {words}" in reference
        for option in command.params:
            if option.param_type_name == "option" and option.name != "help":
                assert option.envvar in reference, (words, option.name)
    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f"`{int(code)}` | {meaning}" in codes
        assert f"{int(code)} {meaning}" in " ".join(run("--help").output.split())


def test_search_says_what_the_passages_do_not(gateway: Any) -> None:
    """Broken: the best of nothing looks like an answer, or half a reranking like a whole one."""
    reranking = {"ranked": 5, "wanted": 20, "missing": "too slow"}
    gateway.reply = lambda _: (200, {}, answered([HIT], fits=False, fit=0.02, reranking=reranking))
    arguments = ("search", "q", "--url", gateway.url, "--api-key", "hr_k")
    shown = run(*arguments, "--rerank", "--minimum-fit", "0.1")
    assert "nothing fits" in shown.stderr
    assert "5 of 20 ranked again: too slow" in shown.stderr
    sent = gateway.requests[0].body
    assert (sent["rerank"], sent["minimum_fit"]) == (True, 0.1)
    assert json.loads(run(*arguments, "--json").stdout)["fits"] is False
    gateway.reply = lambda _: (200, {}, answered([HIT]))
    assert "nothing fits" not in run(*arguments).stderr
    assert not {"rerank", "minimum_fit"} & set(gateway.requests[-1].body)


def test_search_shows_where_each_passage_stands(gateway: Any) -> None:
    """Broken: a hit cannot be found again in its document."""
    gateway.reply = lambda _: (200, {}, answered([HIT]))
    result = run(
        "search",
        "how",
        "--top-k",
        "3",
        "--filter",
        "document = a.md and attributes.x = 'y=z'",
        "--mode",
        "lexical",
        url=gateway.url,
    )
    assert " 0.500  a.md  Guide › Setup  3–40" in result.stdout
    assert "Water flows over the wheel" in result.stdout
    assert gateway.requests[0].body == {
        "query": "how", "mode": "lexical", "top_k": 3, "highlight": True,
        "filter": {"and": [{"field": "document", "eq": "a.md"}, {"field": "attributes.x", "eq": "y=z"}]},
    }  # fmt: skip
    assert gateway.requests[0].headers["authorization"] == "Bearer hr_k"
    refused = run("search", "how", "--filter", "language ko", url=gateway.url, code=ExitCode.USAGE)
    assert "is not understood at character 10 ('ko'): expected an operator" in refused.stderr
    assert "where: --filter" in refused.stderr
    assert len(gateway.requests) == 1


SHAPED: dict[str, Any] = {
    **HIT, "title": "수문", "text": "수문\x1b[2J 앞\n과 " + "가 " * 100 + "뒤의 수문을 연다", "freshness": "changing",
    "highlights": [[210, 212]],
    "neighbours": {"before": [{"text": "before it"}], "after": [{"text": "after it"}]},
    "explanation": {"dense": 0.61, "dense_rank": 2, "lexical": 9.84, "lexical_rank": None,
                    "terms": [{"term": "수문", "score": 9.84}]},
}  # fmt: skip


def test_search_shows_the_shape_that_was_asked_for(gateway: Any) -> None:
    """Broken: what a search can say is shown to programs alone, or a document's text steers the terminal."""
    plan = {
        "generation": "g1", "model": "m", "dense": {"access": "exact", "found": 20},
        "lexical": {"access": "index", "found": 4}, "documents": 3, "readings": 1, "dense_weight": 0.4,
    }  # fmt: skip
    notes = [{"kind": "meaning-left-out", "text": "Searched by words alone: the model m does not know hangul."}]
    timings = {"embed_ms": 1, "search_ms": 2, "freshness_ms": 0}
    reply = {
        "hits": [SHAPED, {**SHAPED, "page": 4}],
        "timings": timings,
        "plan": plan,
        "notes": notes,
        "cursor": "AAA",
        "fits": True,
    }
    gateway.reply = lambda _: (200, {}, reply)
    result = run(
        "search", "수문", "--group-by-document", "--per-document", "2", "--neighbours", "1", "--explain",
        "--cursor", "BBB", url=gateway.url,
    )  # fmt: skip
    assert gateway.requests[0].body == {
        "query": "수문", "mode": "hybrid", "top_k": 5, "highlight": True, "group_by": "document", "per_document": 2,
        "neighbours": 1, "explain": True, "cursor": "BBB",
    }  # fmt: skip
    lines = result.stdout.splitlines()
    assert lines[0] == "a.md  수문  (changing)"
    assert lines[1] == " 0.500  Guide › Setup  3–40"
    assert lines[2].strip() == "│ before it"
    assert lines[3].strip().startswith("…가 가")
    assert lines[3].endswith("수문을 연다")
    assert lines[4].strip() == "│ after it"
    assert lines[5].strip() == "meaning 0.610 (rank 2); words 9.840: 수문 9.84"
    assert lines[6] == " 0.500  p. 4  Guide › Setup  3–40"
    assert "\x1b" not in result.stdout
    assert notes[0]["text"] in result.stderr
    assert "generation g1 (m): meaning by an exact scan, 20 found; words by the index, 4 found" in result.stderr
    assert "the filter leaves 3 documents" in result.stderr
    assert "1 documents, 2 passages; more with --cursor, see --json" in result.stderr


@pytest.mark.parametrize(("mode", "named"), [("hybrid", True), ("vector", False)])
def test_search_without_an_embedder_names_the_mode_that_needs_none(gateway: Any, mode: str, named: bool) -> None:
    """Broken: whoever searches during an outage of the model does not learn that words would be found."""
    problem = {"detail": "embedder does not answer.", "remedy": "Wait.", "dependency": "embedder"}
    gateway.reply = lambda _: (503, {}, problem)
    result = run("search", "q", "--mode", mode, url=gateway.url, code=ExitCode.UNREACHABLE)
    assert ("--mode lexical" in result.stderr) is named


def test_json_is_all_that_stands_on_stdout(gateway: Any, tmp_path: Path) -> None:
    """Broken: a script that reads the output stumbles over messages."""
    gateway.reply = lambda request: {
        "/v1/search": (200, {}, answered([HIT])),
        "/v1/ask": (200, {}, ARTIFACT),
        "/v1/documents/a.md": (200, {}, STATUS),
    }.get(request.path)
    (tmp_path / "a.md").write_text("text")
    (tmp_path / "b.png").write_text("no text")
    found = {
        words[0]: json.loads(run(*words, "--json", url=gateway.url).stdout)
        for words in (["search", "q"], ["ask", "q"], ["status", "a.md"], ["ingest", ".", "--wait"], ["delete", "a.md"])
    }
    assert found["search"]["hits"] == [HIT]
    assert found["ask"] == ARTIFACT
    assert found["status"] == STATUS
    assert found["ingest"].pop("run")
    assert found["ingest"] == {
        "accepted": 1, "indexed": 1, "given_up": 0, "pending": [], "skipped": ["b.png"], "failures": [],
    }  # fmt: skip
    assert found["delete"]["accepted"] == 1


def test_ask_shows_answer_citations_and_who_wrote(gateway: Any) -> None:
    """Broken: an extractive answer passes for a model's, or a citation leads nowhere."""
    gateway.reply = lambda _: (200, {}, ARTIFACT)
    result = run("ask", "what flows", url=gateway.url)
    assert "It flows [1]." in result.stdout
    assert "[1] a.md  Guide  characters 3–40" in result.stdout
    assert result.stderr.strip() == "written by provider extractive"


def test_ask_that_takes_too_long_says_where_the_answer_will_be(gateway: Any) -> None:
    """Broken: a slow model looks like an empty answer."""
    gateway.reply = lambda _: (202, {}, {"request_id": "r", "artifact_id": "i", "artifact_url": "/v1/artifacts/i"})
    result = run("ask", "what", "--timeout", "1", url=gateway.url, code=ExitCode.TIMED_OUT)
    assert "/v1/artifacts/i" in result.stderr
    assert gateway.requests[0].body["wait_s"] == 1


def test_status_of_a_document_shows_its_history(gateway: Any) -> None:
    """Broken: nobody can tell where a document hangs."""
    gateway.reply = lambda _: (200, {}, STATUS)
    result = run("status", "dir/a b.md", url=gateway.url)
    assert gateway.requests[0].path == "/v1/documents/dir%2Fa%20b.md"
    assert "a.md: in_flight, version 4, waits for embedder" in result.stdout
    assert "change-event@1" in result.stdout
    assert "1.5 ms" in result.stdout
    assert "one note" in result.stderr


def test_status_of_a_held_document_names_why_and_the_command_that_ends_it(gateway: Any) -> None:
    """Broken: whoever waits for a document that a cap holds takes it for lost, or clears the screen with a reason."""
    held = {"stage": "embedder", "waits_for": "cap", "scope": "cap/acme", "why": "cap\x1b[2J reached",
            "since": "2026-01-01T00:00:00Z", "ends": "headrace embeddings release"}  # fmt: skip
    gateway.reply = lambda _: (200, {}, {**STATUS, "state": "held", "held": held})
    assert run("status", "a.md", url=gateway.url).stdout.splitlines()[:3] == [
        "a.md: held, version 4",
        r"held at embedder for a cap (cap/acme: cap\x1b[2J reached)",
        "what to do: headrace embeddings release",
    ]


def test_an_unknown_document_is_told_in_words_of_the_command_line(gateway: Any) -> None:
    """Broken: whoever typed an id reads of percent-encoding, which the command does itself."""
    gateway.reply = lambda _: (404, {}, {"detail": "Nothing is known of it.", "remedy": "Look at the path."})
    result = run("status", "docs/a.md", url=gateway.url, code=ExitCode.NOT_FOUND)
    assert "below the ingested folder" in result.stderr
    failed = run("delete", "docs/a.md", url=gateway.url, code=ExitCode.SOME_FAILED)
    assert "Nothing is known of it. Check the ID: a file's" in failed.stderr


def test_a_dead_letter_tells_its_remedy_once(gateway: Any) -> None:
    """Broken: what to do stands twice, since the message of a stage holds it too."""
    letter = {
        "stage": "ingest",
        "reason": "unknown-pipeline",
        "message": "no such pipeline Apply it.",
        "remedy": "Apply it.",
    }
    gateway.reply = lambda _: (200, {}, {**STATUS, "dead_letter": letter})
    assert run("status", "a.md", url=gateway.url).stdout.count("Apply it.") == 1


def test_a_template_that_is_no_text_is_refused_with_its_name(tmp_path: Path) -> None:
    """Broken: a binary file given by mistake looks like a fault of ours."""
    (tmp_path / "t.yaml").write_bytes(b"\xff\xfe")
    result = run("pipeline", "apply", str(tmp_path / "t.yaml"), code=ExitCode.FAILED)
    assert "cannot read the template" in result.stderr
    assert "t.yaml" in result.stderr


def test_a_delete_goes_above_all_known_versions(gateway: Any) -> None:
    """Broken: a delete is overtaken by a change that was under way, and the document comes back."""
    known = {**STATUS, "stored": {"version": 6}}
    gateway.reply = lambda one: (200, {}, known) if one.path == "/v1/documents/a.md" else None
    result = run("delete", "a.md", "unknown", url=gateway.url, code=ExitCode.SOME_FAILED)
    assert gateway.changes() == [[{"id": "a.md", "op": "delete", "version": 10}]]
    assert "failed: unknown" in result.stderr
    waited = run("delete", "b", "--version", "3", "--wait", url=gateway.url)
    assert "1 documents gone from search" in waited.stdout
    assert gateway.changes()[1] == [{"id": "b", "op": "delete", "version": 3}]


def test_ingest_lists_what_failed_and_says_so_by_its_exit_code(gateway: Any, tmp_path: Path) -> None:
    """Broken: a script takes a half done ingest for a whole one."""
    (tmp_path / "a.md").write_text("good")
    (tmp_path / "b.md").write_bytes(b"\xff")
    result = run("ingest", ".", url=gateway.url, code=ExitCode.SOME_FAILED)
    assert "1 changes accepted" in result.stdout
    assert "failed: b.md (document b.md): is not UTF-8" in result.stderr
    assert "others succeeded" in result.stderr


def test_a_wait_that_takes_too_long_has_its_own_exit_code(gateway: Any, tmp_path: Path) -> None:
    """Broken: a script cannot tell slow from failed."""
    (tmp_path / "a.md").write_text("good")
    found = {"id": "a.md", "version": None, "indexed": False, "deleted": False, "dead_letter": None}
    gateway.reply = lambda one: (200, {}, {"documents": [found]}) if one.path.endswith(":lookup") else None
    result = run("ingest", "a.md", "--wait", "--timeout", "0", url=gateway.url, code=ExitCode.TIMED_OUT)
    assert "1 still in progress" in result.stdout


def test_a_wait_counts_what_was_given_up_apart(gateway: Any, tmp_path: Path) -> None:
    """Broken: a dead letter counts as indexed, and whoever looks at the last line believes that all is there."""
    (tmp_path / "a.md").write_text("good")
    letter = {"stage": "chunker", "reason": "invalid-record", "message": "title: is bad. Mend it.",
              "remedy": "Mend it.", "partition": 0, "offset": 4}  # fmt: skip
    found = {"id": "a.md", "version": None, "indexed": False, "deleted": False, "dead_letter": letter}
    gateway.reply = lambda one: (200, {}, {"documents": [found]}) if one.path.endswith(":lookup") else None
    result = run("ingest", "a.md", "--wait", url=gateway.url, code=ExitCode.SOME_FAILED)
    assert result.stdout == "1 changes accepted, 0 documents searchable, 1 dead-lettered: see `headrace dlq list`\n"
    assert result.stderr.count("indexed: 0 of 1, 1 dead-lettered in") == 1
    assert "title: is bad. Mend it." in result.stderr


def test_a_dry_run_sends_nothing(tmp_path: Path) -> None:
    """Broken: trying out an ingest changes the index, or needs a stack."""
    (tmp_path / "a.md").write_text("good")
    assert "upsert  x/a.md  from a.md" in run("ingest", "a.md", "--prefix", "x/", "--dry-run").stdout


def test_lines_come_from_standard_input(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `producer | headrace ingest -` does nothing."""
    result = CliRunner().invoke(
        app, ["ingest", "-"], input='{"op": "delete", "id": "a", "version": 1}\n',
        env={"HEADRACE_URL": gateway.url, "HEADRACE_API_KEY": "hr_k"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert gateway.changes() == [[{"op": "delete", "id": "a", "version": 1}]]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, ExitCode.DENIED),
        (403, ExitCode.DENIED),
        (404, ExitCode.NOT_FOUND),
        (422, ExitCode.FAILED),
        (503, ExitCode.UNREACHABLE),
    ],
)
def test_a_problem_document_is_told_with_its_remedy(gateway: Any, status: int, code: ExitCode) -> None:
    """Broken: a refusal is a bare number, and a script cannot tell a wrong key from an outage."""
    document = {"detail": "It is refused.", "remedy": "Do this.", "errors": [{"field": "query", "reason": "is long"}]}
    gateway.reply = lambda _: (status, {}, document)
    result = run("search", "q", url=gateway.url, code=code)
    assert "error: It is refused. query: is long" in result.stderr
    assert "what to do: Do this." in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "words", [["search", "q"], ["status"], ["topics"], ["pipeline", "list"], ["logs"], ["bootstrap"]]
)
def test_without_a_stack_each_command_says_how_to_start_one(words: list[str]) -> None:
    """Broken: the first thing that a newcomer meets is a traceback."""
    assert "headrace up" in run(*words, code=ExitCode.UNREACHABLE).stderr


def test_down_without_a_stack_is_no_failure() -> None:
    """Broken: a script that cleans up fails where there is nothing to clean."""
    assert json.loads(run("down", "--json").stdout)["stopped"] is False


def test_unforeseen_errors_have_a_traceback_on_demand_only(monkeypatch: pytest.MonkeyPatch, gateway: Any) -> None:
    """Broken: users see the inside of the program, or developers cannot."""
    monkeypatch.setattr("headrace_cli.client.Gateway.search", lambda *_: 1 / 0)
    assert "HEADRACE_DEBUG=1" in run("search", "q", url=gateway.url, code=ExitCode.FAILED).stderr
    monkeypatch.setenv("HEADRACE_DEBUG", "1")
    written = io.StringIO()
    monkeypatch.setattr("traceback.print_exc", lambda: written.write("Traceback"))
    run("search", "q", url=gateway.url, code=ExitCode.FAILED)
    assert written.getvalue() == "Traceback"


def test_an_outage_of_a_dependency_has_the_exit_code_of_one(monkeypatch: pytest.MonkeyPatch, gateway: Any) -> None:
    """Broken: a script tries no more where waiting would help."""

    def down(*_: object) -> None:
        raise DependencyDown("kafka")

    monkeypatch.setattr("headrace_cli.client.Gateway.search", down)
    assert "kafka" in run("search", "q", url=gateway.url, code=ExitCode.UNREACHABLE).stderr


def keep_local_stack(folder: Path, url: str) -> None:
    """Write the files that `headrace up` leaves."""
    folder.mkdir()
    state.write(folder, state.SERVICES, state.RunningServices(url, "k:1", "http://r", "hashing", "hashing-384"))
    state.write(
        folder,
        state.CREDENTIALS,
        state.Credentials("default", "hr_local", "login", "secret", "token", "hr_acting", "hr_operator"),
    )


def test_the_local_stack_is_found_upward_and_its_key_is_used(
    gateway: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: commands work in one folder of a project only."""
    gateway.reply = lambda _: (200, {}, answered([]))
    keep_local_stack(tmp_path / ".headrace", gateway.url)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    run("search", "q")
    assert gateway.requests[0].headers["authorization"] == "Bearer hr_local"


def test_the_key_fits_what_the_command_reads(gateway: Any, tmp_path: Path) -> None:
    """Broken: a search shows what is for no reader, or an ingest waits for a document that its key may not see."""
    gateway.reply = lambda one: (
        (200, {}, {"hits": [], "fits": True, "timings": {"embed_ms": 1, "search_ms": 2}})
        if one.path == "/v1/search"
        else None
    )
    keep_local_stack(tmp_path / ".headrace", gateway.url)
    (tmp_path / "a.md").write_text("text")
    run("search", "q")
    run("search", "q", "--user", "김민수", "--group", "a,b", "--group", "c", "--project", "p q")
    run("ingest", "a.md", "--wait")
    run("status", "a.md", "--user", "ann", code=ExitCode.NOT_FOUND)
    plain, named, *sent, status = gateway.requests
    assert plain.headers["authorization"] == "Bearer hr_local"
    assert not [name for name in plain.headers if name.startswith("headrace-")]
    assert named.headers["authorization"] == status.headers["authorization"] == "Bearer hr_acting"
    assert (named.headers["headrace-user"], named.headers["headrace-groups"], named.headers["headrace-projects"]) == (
        "%EA%B9%80%EB%AF%BC%EC%88%98", "a%2Cb,c", "p%20q",
    )  # fmt: skip
    assert {one.headers["authorization"] for one in sent} == {"Bearer hr_operator"}
    assert "headrace-groups" not in status.headers


def test_the_local_key_goes_to_the_local_gateway_only(gateway: Any, tmp_path: Path) -> None:
    """Broken: naming another gateway hands it the key of this one."""
    keep_local_stack(tmp_path / ".headrace", "http://127.0.0.1:1")
    assert "no API key" in run("search", "q", "--url", gateway.url, code=ExitCode.FAILED).stderr
    assert gateway.requests == []


def test_secrets_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    """Broken: every user of the machine can read the API key."""
    keep_local_stack(tmp_path / "s", "http://h")
    old = os.umask(0)
    try:
        state.write(tmp_path / "s", state.CREDENTIALS, state.Credentials("t", "k", "l", "p", "e"))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "s" / state.CREDENTIALS).stat().st_mode) == 0o600


def test_a_damaged_file_of_the_state_folder_is_named(tmp_path: Path) -> None:
    """Broken: a full disk during `up` makes every later command fail for no stated reason."""
    (tmp_path / ".headrace").mkdir()
    (tmp_path / ".headrace" / state.SERVICES).write_text("{")
    assert state.SERVICES in run("search", "q", code=ExitCode.FAILED).stderr


def test_each_refusal_of_a_template_is_told_with_its_place(tmp_path: Path) -> None:
    """Broken: a template is repaired one message at a time, or published half."""
    path = tmp_path / "t.yaml"
    path.write_text(
        "id: mine\nstages:\n  - stage: ingest\n    handlers: [change-evnt]\n"
        "  - stage: chunkr\n    handlers: [sections]\n"
    )
    result = run("pipeline", "apply", "t.yaml", code=ExitCode.FAILED)
    assert "t.yaml:4:16: unknown-handler" in result.stderr
    assert "t.yaml:5:12: unknown-stage" in result.stderr
    without = run("pipeline", "apply", "t.yaml", "--no-handler-check", "--json", code=ExitCode.FAILED)
    assert [one["reason"] for one in json.loads(without.stdout)] == ["unknown-stage"]
    assert "file not found: gone.yaml" in run("pipeline", "apply", "gone.yaml", code=ExitCode.NOT_FOUND).stderr


def test_a_template_is_published_where_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the shipped template is refused, or a dry run publishes it."""
    from datetime import UTC, datetime

    from headrace.handlers import pipelines_log
    from headrace.payloads import PipelineVersion

    asked: list[bool] = []

    def apply(_kafka: object, _codec: object, template: Any, *, applied_by: str, dry_run: bool) -> Any:
        asked.append(dry_run)
        version = PipelineVersion(template.id, 2, "{}", "d", applied_by, datetime(2026, 1, 1, tzinfo=UTC))
        return pipelines_log.Applied(version, changed=True)

    monkeypatch.setattr(pipelines_log, "apply", apply)
    shipped = str(ROOT / "pipelines" / "index.yaml")
    monkeypatch.setattr("headrace_local.network.accepts_any", lambda _: True)
    tail = ["--kafka", "127.0.0.1:1", "--registry", "http://127.0.0.1:1"]
    assert "pipeline default is now version 2" in run("pipeline", "apply", shipped, *tail).stdout
    assert "would become version 2" in run("pipeline", "apply", shipped, "--dry-run", *tail).stdout
    assert asked == [False, True]


@pytest.mark.parametrize("words", [["topics"], ["pipeline", "list", "--registry", "http://127.0.0.1:1"]])
def test_a_kafka_that_is_down_is_told_at_once_and_in_one_line(words: list[str]) -> None:
    """Broken: half a minute of the client's complaints, ten a second, before the reason."""
    result = run(*words, "--kafka", "127.0.0.1:1", code=ExitCode.UNREACHABLE)
    assert result.stderr.splitlines()[:2] == ["error: Kafka does not answer", "where: 127.0.0.1:1"]
    assert "headrace up" in result.stderr


def test_a_retry_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: an ingest that finds nobody looks dead for a minute, or says so at every attempt of every lane."""
    from headrace_cli.state import _told_once

    tell = _told_once("http://gateway", 60)
    tell("Connection refused")
    tell("HTTP 503")
    assert capsys.readouterr().err == (
        "http://gateway does not accept the request yet (Connection refused); retrying for up to 60 s\n"
    )


def test_logs_show_the_last_lines_of_each_process(tmp_path: Path) -> None:
    """Broken: a broken start cannot be looked into."""
    logs = tmp_path / ".headrace" / "logs"
    logs.mkdir(parents=True)
    (logs / "kafka.log").write_text("one\ntwo\nthree\n")
    (logs / "ingest.log").write_text("four\n")
    assert run("logs", "-n", "2").stdout.split() == ["ingest", "four", "kafka", "two", "kafka", "three"]
    assert run("logs", "kafka", "-n", "1").stdout == "three\n"
    assert [json.loads(line) for line in run("logs", "ingest", "--json").stdout.splitlines()] == [
        {"process": "ingest", "line": "four"}
    ]
    assert "ingest, kafka" in run("logs", "kafak", code=ExitCode.NOT_FOUND).stderr


def test_followed_logs_survive_a_restart_of_the_process(tmp_path: Path) -> None:
    """Broken: following ends, or repeats itself, when a process is started again."""
    from headrace_cli.stack.logs import read_logs

    log = tmp_path / "logs" / "kafka.log"
    log.parent.mkdir()
    log.write_text("old\n")

    def grow(_seconds: float) -> None:
        match steps.pop(0):
            case "append":
                with log.open("a") as file:
                    file.write("new\nhal")
            case "restart":
                with log.open("a") as file:
                    file.write("f\n")
                log.replace(log.with_name("kafka.log.1"))
                log.write_text("again\n")
            case _:
                raise KeyboardInterrupt

    steps = ["append", "restart", "end"]
    found = [line for _, line in read_logs(tmp_path, None, 5, follow=True, sleep=grow)]
    assert found == ["old", "new", "half", "again"]


def test_a_wrong_part_of_the_stack_is_refused() -> None:
    """Broken: a misspelt --only starts everything."""
    assert "--only infra" in run("up", "--only", "kafka", code=ExitCode.USAGE).stderr
    assert "unknown provider" in run("up", "--provider", "magic", code=ExitCode.USAGE).stderr


def test_status_tells_what_a_service_waits_for() -> None:
    """Broken: a paused stage looks like a slow one."""
    from headrace_cli.stack.observe import _reason

    assert _reason({"waiting": {"dependency": "postgresql", "reason": "refused"}}) == "postgresql: refused"
    assert _reason({"waiting": None, "draining": True}) == "draining"
    down = {"kafka": {"up": True}, "embedder": {"up": False, "reason": "loads"}}
    assert _reason({"dependencies": down}) == "embedder: loads"
    assert _reason({"waiting": None, "draining": False}) is None


def test_plain_progress_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: a long ingest in a log looks dead, or fills it."""
    from headrace_cli.views.tracking import _Lines

    time = SimpleNamespace(now=0.0)
    lines = _Lines("sent", 100, lambda: time.now)
    for _ in range(50):
        time.now += 0.1
        lines.advance(1)
    lines.end()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert told[-1] == "sent: 50 of 100 in 5.0 s (10/s), 5 s left"


def test_plain_progress_guesses_nothing_from_the_first_items(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: while the first batch is under way, the time left seems to grow from minutes to half an hour."""
    from headrace_cli.views.tracking import _Lines

    time = SimpleNamespace(now=0.0)
    lines = _Lines("indexed", 79, lambda: time.now)
    lines.advance(1)
    time.now = 20.0
    lines.advance(0)
    lines.end()
    assert capsys.readouterr().err.splitlines() == ["indexed: 1 of 79 in 20.0 s"]


@pytest.mark.parametrize(
    "command", [("dlq", "discard"), ("objects", "gc"), ("capture", "stop"), ("embeddings", "reset"), ("audit",)]
)
def test_what_asks_first_takes_y_everywhere(command: tuple[str, ...]) -> None:
    """Broken: -y is known to one command and an error of the next."""
    assert re.search(r"-y\b.*--yes\b|--yes\b.*-y\b", run(*command, "--help").stdout)


@pytest.mark.parametrize("url", ["http://host:port", "http://host:99999", "http://[::1", "ftp://host:1", "host:1"])
def test_a_url_that_is_none_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Broken: a slip in a URL is "unexpected error: ValueError"."""
    assert "http://host:port" in run("search", "x", url=url, code=ExitCode.USAGE).output
    monkeypatch.setenv("HEADRACE_ALERTS_SLACK_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("HEADRACE_STORE_DSN", "postgresql://h/d")
    monkeypatch.setattr(Operator, "cluster", lambda *_: None)
    watch = run("alerts", "watch", "--looks", "1", "--status-url", f"embedder-0={url}", code=ExitCode.USAGE)
    assert "NAME=http://host:port" in watch.output


def test_a_port_of_kafka_that_is_none_is_no_defect() -> None:
    """Broken: a slip in --kafka is "unexpected error: ValueError"."""
    said = run("orders", "--kafka", "host:port", code=ExitCode.UNREACHABLE).output
    assert "Kafka does not answer" in said
