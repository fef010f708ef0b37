"""Each refusal of a template, with its reason and the line and column it points at, in YAML and in JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.errors import TemplateError
from headrace.pipeline import Catalogue, HandlerInfo, StageTypes, check, load, locate, problems

pytestmark = pytest.mark.unit

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "pipelines.md"
STAGES = {
    "ingest": StageTypes("changes", "documents"),
    "chunker": StageTypes("documents", "chunks"),
    "embedder": StageTypes("chunks", "vectors"),
    "indexer": StageTypes("vectors", "indexed"),
    "generator": StageTypes("generation-requests", "artifacts"),
}
HANDLERS = {
    "change-event": HandlerInfo("ingest", "1", "changes", "documents"),
    "mask": HandlerInfo("ingest", "1", "documents", "documents"),
    "sections": HandlerInfo("chunker", "1", "documents", "chunks"),
    "embed": HandlerInfo("embedder", "1", "chunks", "vectors"),
    "index": HandlerInfo("indexer", "1", "vectors", "indexed"),
    "answer": HandlerInfo("generator", "1", "generation-requests", "artifacts"),
}
CATALOGUE = Catalogue(STAGES, HANDLERS)
HEAD = "id: a\nstages:\n"
INGEST = "  - stage: ingest\n    handlers: [change-event]\n"
CHUNKER = "  - stage: chunker\n    handlers: [sections]\n"
BOTH = HEAD + INGEST + CHUNKER

REFUSALS = [
    ("syntax", "id: [a\nstages: b", 2, 7),
    ("syntax", "id: a\n  stages: b\n", 2, 9),
    ("syntax", "", 1, 1),
    ("syntax", "# nothing\n", 1, 1),
    ("syntax", 'id: "\\U99999999"', 1, 3),
    ("syntax", "id: a\nx: \x07", 2, 4),
    ("syntax", '{"id": "\\ud83d"}', 1, 8),
    ("too-large", "# " + "x" * 65536, 1, 1),
    ("too-deep", "[" * 60000, 1, 17),
    ("documents", BOTH + "---\nid: b\n", 7, 1),
    ("directive", "%YAML 1.1\n---\nid: a\n", 2, 1),
    ("anchor", "id: &name a\nstages: []\n", 1, 5),
    ("anchor", "id: *name\n", 1, 5),
    ("tag", "id: !!str a\n", 1, 5),
    ("tag", "id: !python/object a\n", 1, 5),
    ("duplicate-key", "id: a\nid: b\n" + BOTH[6:], 2, 1),
    ("duplicate-key", HEAD + "  - stage: ingest\n    stage: x\n    handlers: [a]\n", 4, 5),
    ("unknown-field", "id: a\nstage: x\n" + BOTH[6:], 2, 1),
    ("unknown-field", HEAD + INGEST + "    handler: [x]\n", 5, 5),
    ("unknown-field", HEAD + INGEST + "    protocol: {stream: true}\n", 5, 16),
    ("type", "- a\n", 1, 1),
    ("type", "text", 1, 1),
    ("type", "id: 12\n" + BOTH[6:], 1, 5),
    ("type", "id: a\ndescription: 2026-01-01\n" + BOTH[6:], 2, 14),
    ("type", "id: a\nstages: {stage: ingest}\n", 2, 9),
    ("type", HEAD + "  - ingest\n", 3, 5),
    ("type", HEAD + "  - stage: ingest\n    handlers: change-event\n", 4, 15),
    ("type", HEAD + "  - stage: ingest\n    handlers: [true]\n", 4, 16),
    ("type", HEAD + INGEST + "    protocol: http\n", 5, 15),
    ("type", HEAD + INGEST + "    protocol: {streaming: 'yes'}\n", 5, 27),
    ("type", HEAD + INGEST + CHUNKER + "    after: [ingest]\n", 7, 12),
    ("type", "id: a\nstages:\n", 2, 7),
    ("type", "? [a]\n: b\n", 1, 3),
    ("missing-field", "stages:\n" + INGEST, 1, 1),
    ("missing-field", "id: a\n", 1, 1),
    ("missing-field", HEAD + "  - handlers: [embed]\n", 3, 5),
    ("missing-field", HEAD + "  - stage: ingest\n", 3, 5),
    ("empty-stages", "id: a\nstages: []\n", 2, 9),
    ("empty-handlers", HEAD + "  - stage: ingest\n    handlers: []\n", 4, 15),
    ("bad-id", "id: Default\n" + BOTH[6:], 1, 5),
    ("bad-id", f"id: {'a' * 64}\n" + BOTH[6:], 1, 5),
    ("bad-name", HEAD + "  - stage: In_gest\n    handlers: [a]\n", 3, 12),
    ("bad-name", HEAD + "  - stage: ingest\n    handlers: [Change Event]\n", 4, 16),
    ("bad-call", HEAD + INGEST + "    protocol: {call: htp}\n", 5, 22),
    ("bad-review", HEAD + INGEST + CHUNKER + "    review: requird\n", 7, 13),
    ("bad-review", '{"id": "a", "stages": [{"stage": "ingest", "handlers": ["change-event"], "review": ""}]}', 1, 84),
    ("type", HEAD + INGEST + "    review: true\n", 5, 13),
    ("unknown-field", "id: a\nreview: required\n" + BOTH[6:], 2, 1),
    ("stage-twice", BOTH + "  - stage: ingest\n    handlers: [mask]\n", 7, 12),
    ("branch", BOTH + "  - stage: indexer\n    handlers: [index]\n    after: ingest\n", 9, 12),
    ("branch", HEAD + INGEST + "  - - stage: chunker\n", 5, 5),
    ("branch", HEAD + INGEST + "  - stage: [chunker, embedder]\n    handlers: [a]\n", 5, 12),
    ("branch", HEAD + INGEST + "    branches: [a]\n", 5, 5),
    ("branch", HEAD + INGEST + "    next: [a, b]\n", 5, 5),
    ("merge", BOTH + "    after: [ingest, mask]\n", 7, 12),
    ("merge", BOTH + "    after: ingest, mask\n", 7, 12),
    ("cycle", BOTH + "    after: chunker\n", 7, 12),
    ("cycle", HEAD + INGEST + "    after: chunker\n" + CHUNKER, 5, 12),
    ("unreachable", BOTH + "    after: ingst\n", 7, 12),
    ("unreachable", BOTH + "    after: null\n", 7, 12),
    ("unknown-stage", HEAD + "  - stage: chunkr\n    handlers: [a]\n", 3, 12),
    ("unknown-handler", HEAD + "  - stage: ingest\n    handlers: [change-evnt]\n", 4, 16),
    ("handler-stage", HEAD + "  - stage: ingest\n    handlers: [change-event, sections]\n", 4, 30),
    ("types", HEAD + "  - stage: ingest\n    handlers: [mask, change-event]\n", 4, 16),
    ("types", HEAD + "  - stage: ingest\n    handlers: [change-event, change-event]\n", 4, 30),
    ("types", HEAD + INGEST + "  - stage: indexer\n    handlers: [index]\n", 5, 12),
]

FORBIDDEN = [
    ("url", "https://models.example/v1"),
    ("url", "kafka+ssl://broker"),
    ("url", "//models.example/v1"),
    ("url", "localhost:8080"),
    ("url", "embedder:80"),
    ("url", "a.3com-example:80"),
    ("url", "models.example.org/v1"),
    ("url", "10.0.0.1"),
    ("url", "10.0.0.1:9092"),
    ("url", "'[2001:db8::1]:9092'"),
    ("url", "'::1'"),
    ("credential", "sk-abc123DEF456"),
    ("credential", "sk-proj-abc123DEF456"),
    ("credential", "ghp_abcdefABCDEF123456"),
    ("credential", "AKIAIOSFODNN7EXAMPLE"),
    ("credential", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"),
    ("credential", "anna:geheim@models"),
    ("credential", "https://anna:geheim@models.example"),
    ("credential", "Bearer abc123def456"),
    ("credential", "password=geheim"),
    ("credential", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"),
    ("credential", "Zm9vYmFyMTIzNDU2Nzg5MEFCQ0RFRg=="),
    ("credential", "'-----BEGIN RSA PRIVATE KEY-----'"),
]
FORBIDDEN_KEYS = [
    *[("credential", key) for key in ("password", "apiKey", "api_key", "API-Key", "token", "access_token")],
    *[("credential", key) for key in ("secret", "client_secret", "authorization", "bearer", "private_key")],
    *[("url", key) for key in ("url", "base_url", "endpoint", "host", "port")],
    *[("parameter", key) for key in ("parameters", "params", "options", "settings", "config", "model")],
    *[("parameter", key) for key in ("temperature", "chunk_size", "chunkSize", "batch_size", "max_tokens")],
]


def first(text: str) -> tuple[str, int, int]:
    """The reason and position of the refusal that load raises."""
    with pytest.raises(TemplateError) as caught:
        load(text, "t.yaml", CATALOGUE)
    position = caught.value.position
    assert position.file == "t.yaml"
    assert caught.value.remedy
    return caught.value.reason, position.line, position.column


@pytest.mark.parametrize(("reason", "text", "line", "column"), REFUSALS)
def test_refusal_names_reason_line_and_column(reason: str, text: str, line: int, column: int) -> None:
    """A template that breaks a rule would be accepted, or the author sent to the wrong place."""
    assert first(text) == (reason, line, column)


@pytest.mark.parametrize(("reason", "value"), FORBIDDEN)
def test_forbidden_value_is_refused_wherever_it_stands(reason: str, value: str) -> None:
    """A secret or an address could travel in a template, or its message could repeat it into logs."""
    inside = f"    extra: [{{deep: {value}}}]\n"
    assert first(f"id: a\ndescription: {value}\n{BOTH[6:]}") == (reason, 2, 14)
    assert first(HEAD + INGEST + inside) == (reason, 5, 20)
    assert first(HEAD + f"  - stage: ingest\n    handlers: [{value}]\n") == (reason, 4, 16)
    assert first(f"id: {value}\n{BOTH[6:]}") == (reason, 1, 5)
    assert first(f"id: a\n? {value}\n: x\n{BOTH[6:]}") == (reason, 2, 3)
    [error] = problems(HEAD + INGEST + inside, "t.yaml", CATALOGUE)
    assert value.strip("'") not in str(error)


@pytest.mark.parametrize(("reason", "key"), FORBIDDEN_KEYS)
def test_forbidden_field_is_refused_by_its_name(reason: str, key: str) -> None:
    """A field that is meant for a secret, an address or a parameter would get the wrong explanation."""
    assert first(f"id: a\n{key}: x\n{BOTH[6:]}") == (reason, 2, 1)
    assert first(f"{HEAD}{INGEST}    {key}: 3\n") == (reason, 5, 5)
    [error] = problems(f"{HEAD}{INGEST}    {key}: {{a: [b]}}\n", "t.yaml", CATALOGUE)
    assert error.reason == reason
    assert "settings" in error.remedy
    assert "environment" in error.remedy


@pytest.mark.parametrize(
    ("handler", "column"),
    [
        ("{embed: {batch_size: 3}}", 25),
        ("{embed: 3}", 16),
        ("{name: embed}", 16),
        ("embed(batch=1)", 16),
        ("embed?batch", 16),
        ("embed=3", 16),
    ],
)
def test_handler_with_values_is_a_parameter(handler: str, column: int) -> None:
    """Parameter values could be slipped into a handler's name."""
    assert first(f"{HEAD}  - stage: ingest\n    handlers: [{handler}]\n") == ("parameter", 4, column)


def test_the_most_specific_refusal_wins() -> None:
    """An address under a parameter's or unknown field's name would be reported as a mere unknown field."""
    assert first(f"{HEAD}{INGEST}    model: https://models.example\n") == ("url", 5, 12)
    assert first(f"{HEAD}{INGEST}    params: {{api_key: x, temperature: 1}}\n") == ("credential", 5, 14)
    reasons = [error.reason for error in problems(f"{HEAD}{INGEST}    model: https://m.example\n", "f", CATALOGUE)]
    assert reasons == ["url"]


@pytest.mark.parametrize(
    "text",
    [
        "Splits 500/50 at 10:30, 3:1 odds; token counts, the key a::b (v1.2.3), e.g. sk-learn, and/or",
        "recursive-character-text-splitter-with-overlap-and-sections-2",
        "문서를 나눕니다 😀: 조각과 벡터 — task-management, risk-aware",
    ],
)
def test_plain_descriptions_are_not_mistaken(text: str) -> None:
    """Ordinary words in a description would be refused as addresses or credentials."""
    assert load(f'id: a\ndescription: "{text}"\n{BOTH[6:]}', "t.yaml", CATALOGUE).description == text


JSON_REFUSALS = [
    ("syntax", '{\n  "id": "a",\n  "stages": [\n', 4, 1),
    ("duplicate-key", '{\n\t"id": "a",\n\t"id": "b", "stages": []}', 3, 2),
    ("unknown-field", '{"id": "a",\n  "stagse": [], "stages": []}', 2, 3),
    ("type", '{"id": null, "stages": []}', 1, 8),
    ("missing-field", ' {"stages": []}', 1, 2),
    ("empty-stages", '{"id": "a",\n\t"stages":\t[]}', 2, 12),
    ("bad-id", '{"id":"A","stages":[]}', 1, 7),
    ("branch", '{"id":"a","stages":[{"stage":"ingest","handlers":["mask"]},\n[]]}', 2, 1),
    ("merge", '{"id":"a","stages":[{"stage":"ingest","handlers":["mask"],\n"after":["a","b"]}]}', 2, 9),
    ("cycle", '{"id":"a","stages":[{"stage":"ingest","handlers":["mask"],\n"after":"ingest"}]}', 2, 9),
    ("unreachable", '{"id":"a","stages":[{"stage":"ingest","handlers":["mask"],\n"after":"x"}]}', 2, 9),
    ("stage-twice", '{"id":"a","stages":[{"stage":"s","handlers":["h"]},\n{"stage":"s","handlers":["h"]}]}', 2, 10),
    ("unknown-stage", '{"id":"a","stages":[{"stage":\n"x","handlers":["h"]}]}', 2, 1),
    ("unknown-handler", '{"id":"a","stages":[{"stage":"ingest","handlers":[\r\n "h"]}]}', 2, 2),
    ("handler-stage", '{"id":"a","stages":[{"stage":"ingest","handlers":[\r\n "embed"]}]}', 2, 2),
    ("types", '{"id":"a","stages":[{"stage":"ingest","handlers":["change-event",\n "mask", "change-event"]}]}', 2, 10),
    ("url", '{"id":"a","stages":[],"x":\n{"y":"http:\\/\\/m"}}', 2, 6),
    ("credential", '{"id":"a","stages":[],\n"password":1}', 2, 1),
    ("parameter", '{"id":"a","stages":[{"stage":"ingest","handlers":[\n{"mask":1}]}]}', 2, 1),
]


@pytest.mark.parametrize(("reason", "text", "line", "column"), JSON_REFUSALS)
def test_json_has_the_same_refusals_and_positions(reason: str, text: str, line: int, column: int) -> None:
    """Templates in JSON would lose their positions, or escape a rule."""
    found = [
        (error.reason, error.position.line, error.position.column) for error in problems(text, "t.json", CATALOGUE)
    ]
    assert (reason, line, column) in found


def test_the_numbers_of_stages_and_handlers_are_bounded() -> None:
    """A template could name more stages or handlers than a pipeline can run."""
    stages = [f"  - {{stage: s{number}, handlers: [h]}}\n" for number in range(33)]
    [error] = problems(HEAD + "".join(stages), "t", None)
    assert (error.reason, error.position.line, error.position.column) == ("too-many-stages", 35, 5)
    assert problems(HEAD + "".join(stages[:32]), "t", None) == []
    line = f"{HEAD}  - stage: ingest\n    handlers: [%s]\n"
    [error] = problems(line % ("h, " * 33), "t", None)
    assert (error.reason, error.position.line, error.position.column) == ("too-many-handlers", 4, 16 + 3 * 32)
    assert problems(line % ("h, " * 32), "t", None) == []


def test_lines_are_counted_as_editors_count_them() -> None:
    """A byte order mark, CR LF or a Unicode line separator would shift every position."""
    text = "\ufeffid: A\r\ndescription: 'a\u2028b'\r\nstages: []\r\n"
    found = [(error.reason, error.position.line, error.position.column) for error in problems(text, "t", None)]
    assert found == [("bad-id", 1, 5), ("empty-stages", 3, 9)]


def test_all_problems_come_in_order_of_position() -> None:
    """Authors would have to fix a template one run at a time."""
    text = (
        "id: A\nurl: x\nstages:\n  - stage: ingest\n    handlers: [chnge-event]\n"
        "  - stage: chunkr\n    handlers: [sections]\n    after: ingest\n    modle: x\n"
        "  - stage: indexer\n    handlers: [embed]\n    after: ingest\n"
    )
    found = [(error.reason, error.position.line) for error in problems(text, "t.yaml", CATALOGUE)]
    assert found == [
        ("bad-id", 1),
        ("url", 2),
        ("unknown-handler", 5),
        ("unknown-stage", 6),
        ("unknown-field", 9),
        ("handler-stage", 11),
        ("branch", 12),
    ]
    assert first(text) == ("bad-id", 1, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id: a\nstagse: []\n", ["t.yaml:2:1", "'stagse'", "Did you mean 'stages'?"]),
        (
            HEAD + "  - stage: ingest\n    handlers: [chnge-event]\n",
            ["Its handlers: change-event, mask.", "Did you mean 'change-event'?", "'headrace.handlers'"],
        ),
        (HEAD + INGEST + "  - stage: indexer\n    handlers: [index]\n", ["'vectors'", "'documents'"]),
        (HEAD + INGEST + "    after: chunker\n" + CHUNKER, ["ingest → chunker → ingest"]),
        (HEAD + "  - stage: ingest\n    handlers: [sections]\n", ["belongs to stage 'chunker', not to 'ingest'"]),
    ],
)
def test_messages_say_what_to_do(text: str, words: list[str]) -> None:
    """A refusal would leave its reader without the names and the way out."""
    message = "\n".join(str(error) for error in problems(text, "t.yaml", CATALOGUE))
    assert [word for word in words if word not in message] == []


def test_without_handlers_only_stages_are_checked() -> None:
    """A client without the handler packages could not check a template at all."""
    client = Catalogue(STAGES, None)
    assert load(HEAD + "  - stage: ingest\n    handlers: [own-handler]\n", "t", client).stages[0].handlers
    with pytest.raises(TemplateError, match="Stage 'x' does not exist"):
        load(HEAD + "  - stage: x\n    handlers: [own-handler]\n", "t", client)


def test_check_applies_a_catalogue_to_a_located_template() -> None:
    """A server that parsed a template first could not check it afterwards with positions."""
    located = locate(HEAD + INGEST + "  - stage: indexer\n    handlers: [index]\n", "t.yaml")
    with pytest.raises(TemplateError) as caught:
        check(located, CATALOGUE)
    assert (caught.value.reason, str(caught.value.position)) == ("types", "t.yaml:5:12")
    check(locate(BOTH, "t.yaml"), CATALOGUE)


def test_the_guide_lists_every_refusal_with_a_message_that_is_given() -> None:
    """The guide would miss a refusal, or show messages that nobody gets."""
    texts = [text for _, text, _, _ in REFUSALS]
    texts += [f"{HEAD}{INGEST}    {line}\n" for line in ("endpoint: https://m.example", "api_key: x", "batch_size: 3")]
    texts.append(HEAD + "".join(f"  - {{stage: s{number}, handlers: [h]}}\n" for number in range(33)))
    texts.append(f"{HEAD}  - stage: ingest\n    handlers: [{'h, ' * 33}]\n")
    given = [error for text in texts for error in problems(text, "t.yaml", CATALOGUE)]
    guide = GUIDE.read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (.*) \|$", guide.partition("## Refusals")[2], re.MULTILINE)
    assert {reason for reason, _ in rows} == {error.reason for error in given}
    assert set(rows) - {(error.reason, error.message) for error in given} == set()
    [full] = re.findall(r"```text\n(.*)\n```", guide)
    assert full in {str(error) for error in given}
