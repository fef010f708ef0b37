"""Templates that are accepted: what they say, their order, and that writing and reading agree."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import TemplateError
from headrace.pipeline import (
    Call,
    Catalogue,
    HandlerInfo,
    Protocol,
    Review,
    StageBinding,
    StageTypes,
    Template,
    canonical,
    digest,
    dump,
    load,
    parse,
    problems,
)

pytestmark = pytest.mark.unit

SHIPPED = Path(__file__).parents[2] / "pipelines"
CATALOGUE = Catalogue(
    {
        "ingest": StageTypes("changes", "documents"),
        "chunker": StageTypes("documents", "chunks"),
        "embedder": StageTypes("chunks", "vectors"),
        "indexer": StageTypes("vectors", "indexed"),
        "generator": StageTypes("generation-requests", "artifacts"),
    },
    {
        "change-event": HandlerInfo("ingest", "1", "changes", "documents"),
        "sections": HandlerInfo("chunker", "1", "documents", "chunks"),
        "embed": HandlerInfo("embedder", "1", "chunks", "vectors"),
        "index": HandlerInfo("indexer", "1", "vectors", "indexed"),
        "answer": HandlerInfo("generator", "1", "generation-requests", "artifacts"),
    },
)
WORDS = ["ingest", "parse", "mask", "chunker", "embedder", "rank", "indexer", "v2", "on", "null", "true", "a"]
NAMES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("-".join)
STAGE_BINDINGS = st.builds(
    StageBinding,
    NAMES,
    st.lists(NAMES, min_size=1, max_size=4).map(tuple),
    st.builds(Protocol, st.booleans(), st.sampled_from(Call)),
    st.sampled_from(Review),
)
DESCRIPTIONS = st.text(st.sampled_from("ab Z,#-'\"\\\n\t{}[]&*!|>%é한글😀\x7f\x85\u2028"), max_size=80)
TEMPLATES = st.builds(
    Template,
    NAMES,
    DESCRIPTIONS,
    st.lists(STAGE_BINDINGS, min_size=1, max_size=8, unique_by=lambda binding: binding.stage).map(tuple),
)


def shuffled_json(template: Template, order: list[int], *, indent: int | str | None) -> str:
    """The template with its stages written in another order, each naming the one before it."""
    entries = []
    for place in order:
        binding = template.stages[place]
        entries.append(
            {
                "handlers": list(binding.handlers),
                "after": template.stages[place - 1].stage if place else None,
                "protocol": {"call": str(binding.protocol.call), "streaming": binding.protocol.streaming},
                "stage": binding.stage,
                "review": str(binding.review),
            }
        )
    content = {"stages": entries, "description": template.description, "id": template.id}
    return json.dumps(content, indent=indent)


def test_the_shipped_templates_load() -> None:
    """A fresh stack would have no pipelines to apply."""
    loaded = {path.name: load(path.read_text("utf-8"), path.name, CATALOGUE) for path in SHIPPED.glob("*.yaml")}
    assert {name: template.id for name, template in loaded.items()} == {
        "index.yaml": "default",
        "answer.yaml": "answer",
    }
    assert [binding.stage for binding in loaded["index.yaml"].stages] == ["ingest", "chunker", "embedder", "indexer"]
    assert loaded["answer.yaml"].stages == (
        StageBinding("generator", ("answer",), Protocol(streaming=True, call=Call.HTTP)),
    )


def test_defaults_are_no_description_and_local_calls_at_once() -> None:
    """The shortest template would be refused, or get another protocol than the documented one."""
    template = load("id: a\nstages:\n- stage: ingest\n  handlers: [change-event]", "t.yaml", CATALOGUE)
    assert template == Template("a", "", (StageBinding("ingest", ("change-event",), Protocol(False, Call.LOCAL)),))


def test_a_stage_is_reviewed_only_where_the_template_says_so() -> None:
    """A review gate would be forgotten, stand at another stage, or change the digest of templates without one."""
    text = "id: a\nstages:\n- {stage: ingest, handlers: [h]}\n- {stage: chunker, handlers: [h], review: required}"
    template = parse(text, "t")
    assert [binding.review for binding in template.stages] == [Review.NONE, Review.REQUIRED]
    without = parse(text.replace(", review: required", ""), "t")
    assert digest(template) != digest(without) == digest(parse(text.replace("required", "none"), "t"))


def test_after_orders_stages_that_are_written_in_another_order() -> None:
    """`after` would be ignored, or a stage without it would not follow the one above."""
    text = (
        "id: a\nstages:\n"
        "  - {stage: ingest, handlers: [h]}\n"
        "  - {stage: embedder, handlers: [h], after: chunker}\n"
        "  - {stage: indexer, handlers: [h]}\n"
        "  - {stage: chunker, handlers: [h], after: ingest}\n"
    )
    assert [binding.stage for binding in parse(text, "t").stages] == ["ingest", "chunker", "embedder", "indexer"]


@given(template=TEMPLATES)
@settings(max_examples=60, derandomize=True)
def test_dumped_and_canonical_templates_load_as_they_were(template: Template) -> None:
    """A template that is stored or shown could not be read back, or would change by it."""
    assert load(dump(template), "dump.yaml") == template
    assert load(canonical(template), "canonical.json") == template


@given(template=TEMPLATES, data=st.data(), indent=st.sampled_from([None, 2, "\t"]))
@settings(max_examples=60, derandomize=True)
def test_shuffled_stages_are_resolved_by_after(
    template: Template, data: st.DataObject, indent: int | str | None
) -> None:
    """The order of stages would depend on the order in which they are written, in any layout of JSON."""
    order = data.draw(st.permutations(range(len(template.stages))))
    loaded = load(shuffled_json(template, list(order), indent=indent), "t.json")
    assert loaded == template
    assert digest(loaded) == digest(template)


def test_the_digest_follows_content_not_writing() -> None:
    """Applying the same template again would give a new version, or a changed one would not."""
    text = (SHIPPED / "index.yaml").read_text("utf-8")
    template = parse(text, "index.yaml")
    rewritten = json.dumps(json.loads(canonical(template)), indent=4)
    assert digest(parse("# note\n" + text, "a")) == digest(parse(rewritten, "b")) == digest(template)
    assert digest(parse(text.replace("[sections]", "[sections, extra]"), "c")) != digest(template)
    assert len(digest(template)) == 64


SNIPPETS = st.sampled_from(
    [
        "\n",
        " ",
        "\t",
        ":",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "!!x ",
        "---\n",
        "%YAML 1.2\n",
        '"',
        "'",
        "|",
        ">",
        "after: ingest\n",
        "id: b",
        "? ",
        "<<: ",
        "http://x",
        "sk-a1b2c3d4",
        "\\ud800",
        "\x00",
        "�",
        "~",
        "::1",
    ]
)


@given(
    base=st.sampled_from(["index.yaml", "answer.yaml", "canonical"]),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 6), st.one_of(SNIPPETS, st.text(max_size=3))), min_size=1, max_size=6
    ),
)
@settings(max_examples=300, derandomize=True)
def test_mutations_never_raise_anything_but_template_errors(base: str, edits: list[tuple[float, int, str]]) -> None:
    """A broken file would crash the command or the gateway instead of being explained."""
    text = (SHIPPED / ("index.yaml" if base == "canonical" else base)).read_text("utf-8")
    if base == "canonical":
        text = canonical(parse(text, "index.yaml"))
    for where, removed, inserted in edits:
        start = int(where * len(text))
        text = text[:start] + inserted + text[start + removed :]
    found = problems(text, "t", CATALOGUE)
    lines = max(1, len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n")))
    places = [(error.position.line, error.position.column) for error in found]
    assert places == sorted(places)
    assert all(1 <= line <= lines and column >= 1 for line, column in places)
    if found:
        with pytest.raises(TemplateError) as caught:
            load(text, "t", CATALOGUE)
        assert (caught.value.position.line, caught.value.position.column) == places[0]
    else:
        template = load(text, "t", CATALOGUE)
        assert load(canonical(template), "t", CATALOGUE) == template


@given(text=st.text(max_size=200))
@settings(max_examples=100, derandomize=True)
def test_any_text_is_explained(text: str) -> None:
    """Arbitrary bytes sent as a template would crash the reader."""
    assert all(error.reason for error in problems(text, "t", None))


@pytest.mark.parametrize(
    "unit",
    ["a", "A", "a.", "a-", "a:", "1.", "1:", ":", "_", "sk-", "eyJ", "eyJaaaa.", "ab.c-", "bearer ", "-----BEGIN "],
)
def test_hostile_text_takes_no_longer_than_its_length_allows(unit: str) -> None:
    """A small file could hold up whoever reads it: some search patterns take quadratic time."""
    text = "id: a\ndescription: '" + unit * (60_000 // len(unit)) + "'\n"
    begin = time.process_time()
    assert problems(text, "t", CATALOGUE)
    assert time.process_time() - begin < 2.0


def test_many_keys_take_no_longer_than_their_number_allows() -> None:
    """A small file with thousands of keys could hold up whoever reads it."""
    text = "".join(f"k{number}:\n" for number in range(9_000))
    begin = time.process_time()
    assert len(problems(text, "t", CATALOGUE)) == 9_002
    assert time.process_time() - begin < 6.0
