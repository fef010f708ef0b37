"""What a template makes of a chunk, and by which key its vector goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.embeddings.preparation import FIELDS, NO_KEY, OverLong, Preparation, parse_template, text_hash
from headrace.errors import ConfigurationError
from headrace.payloads import Chunk, ChunkedDocument, DocumentFacts

pytestmark = pytest.mark.unit


def document(*texts: str, title: str = "T", section: tuple[str, ...] = ("A", "B"), tags: str = "") -> ChunkedDocument:
    """A document with a chunk for each text."""
    chunks = tuple(
        Chunk(bytes([number]) * 16, section, 0, len(text), text, text_hash(text)) for number, text in enumerate(texts)
    )
    return ChunkedDocument(
        DocumentFacts(title, "text/plain", bytes(16), attributes={"tags": tags} if tags else {}), chunks
    )


def rendered(template: str, **fields: str) -> str:
    """What the template makes of the fields; those not given are empty."""
    return parse_template(template).render(dict.fromkeys(FIELDS, "") | fields)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_by_default_a_vector_goes_by_the_chunks_own_hash(texts: list[str]) -> None:
    """Broken: an index of before is embedded anew, or texts that are the same are paid for twice."""
    for one, text in zip(Preparation().of(document(*texts)), texts, strict=True):
        assert one == ((NO_KEY if text.isspace() else text_hash(text)), text)


def test_a_template_puts_title_section_body_and_tags_together() -> None:
    """Broken: what was asked to be embedded is not what is embedded."""
    preparation = Preparation(r"{title} ({tags})\n{section}\n{{body}}: {body}")
    (one,) = preparation.of(document("words", tags="red, blue"))
    assert one.text == "T (red, blue)\nA > B\n{body}: words"
    assert one.key == text_hash(one.text)


def test_a_line_whose_fields_are_all_empty_is_left_out() -> None:
    """Broken: a document without a title is embedded with the leavings of the template."""
    assert rendered("Title: {title}\n\n{section} {tags}\n{body}", body="b") == "\nb"
    assert rendered("{title}|{body}", body="b") == "|b"


def test_a_change_of_title_changes_the_key_and_of_offsets_does_not() -> None:
    """Broken: a vector of the old title stays, or text that only moved is paid for."""
    preparation = Preparation("{title}\n{body}")
    keys = [preparation.of(document("x", "y", title=title)) for title in ("one", "two")]
    assert {one.key for one in keys[0]}.isdisjoint(one.key for one in keys[1])
    assert Preparation("{title}\n{body}").of(document("y", "x", title="one"))[1].key == keys[0][0].key


def test_what_makes_another_vector_of_the_same_text_is_part_of_the_key() -> None:
    """Broken: a vector from the cache is one of another prompt, or of a beginning instead of all parts."""
    ways = [
        Preparation(), Preparation(passage_prompt="p: "), Preparation(over_long=OverLong.SPLIT),
        Preparation(over_long=OverLong.SKIP),
    ]  # fmt: skip
    assert len({one.of(document("text"))[0].key for one in ways}) == len(ways)
    assert {one.of(document("text"))[0].text for one in ways} == {"text"}


def test_white_space_has_no_key_and_a_title_over_it_has_one() -> None:
    """Broken: a model is asked for a vector of nothing."""
    assert [one.key for one in Preparation().of(document("", " \n", "a"))][:2] == [NO_KEY, NO_KEY]
    assert Preparation(passage_prompt="passage: ").of(document(" "))[0].key == NO_KEY
    assert Preparation("{title}\n{body}").of(document(" "))[0].key != NO_KEY


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{titel} {body}", "unknown field 'titel'"),
        ("{0} {body}", "unknown field '0'"),
        ("{} {body}", "unknown field ''"),
        ("{body.text}", "unknown field 'body.text'"),
        ("{body!r}", "does not allow a format"),
        ("{body:>9}", "does not allow a format"),
        ("{title}", "does not contain {body}"),
        ("", "does not contain {body}"),
        ("{{body}}", "does not contain {body}"),
        ("{body", "expected '}'"),
        ("body}", "Single '}'"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused_with_the_fields_that_exist(template: str, reason: str) -> None:
    """Broken: every text is embedded with a typing error in it."""
    with pytest.raises(ConfigurationError) as caught:
        parse_template(template)
    assert reason in str(caught.value)
    assert "{title}, {section}, {body}, {tags}" in caught.value.remedy
