"""Personal data: found as far as a labelled set tells, masked before anything is published, and stable over edits."""

from __future__ import annotations

import itertools
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from headrace.envelope import Operation
from headrace.errors import ConfigurationError
from headrace.payloads import ChangeEvent
from headrace_ingest.masking import Masker, make_masker
from headrace_ingest.personal_data import DETECTORS, Kind, plain
from headrace_ingest.settings import IngestSettings

pytestmark = pytest.mark.unit

LABELLED = Path(__file__).parent / "data" / "personal_data.jsonl"
MASKER = make_masker(IngestSettings())
TAG = r"[A-Z2-7]{6}"


def event(content: str, document_id: str = "a.md", **fields: object) -> ChangeEvent:
    """An upsert with this text."""
    values = {"title": None, "attributes": {}} | fields
    return ChangeEvent("acme", document_id, Operation.UPSERT, 1, content=content, **values)  # type: ignore[arg-type]


def masked(content: str, document_id: str = "a.md", masker: Masker = MASKER) -> str:
    """The text without personal data."""
    return masker.event(event(content, document_id)).event.content or ""


def test_the_same_value_has_the_same_placeholder_in_a_document_and_its_versions() -> None:
    """Broken: an edit changes chunks that it did not touch, or the reader cannot tell one person from another."""
    text = masked("Ask kim@example.com or lee@example.com; KIM@example.com knows.")
    found = re.fullmatch(rf"Ask (\[EMAIL-{TAG}\]) or (\[EMAIL-{TAG}\]); (\[EMAIL-{TAG}\]) knows\.", text)
    assert found is not None
    assert found[1] == found[3] != found[2]
    assert masked("New: new@example.com. Ask kim@example.com").endswith(found[1])


def test_a_placeholder_tells_nothing_across_documents_or_keys() -> None:
    """Broken: whoever reads two documents, or tries values, learns who is behind a placeholder."""
    secret = make_masker(IngestSettings(mask_key=SecretStr("k")))
    one = {masked("010-1234-5678", name) for name in ("a.md", "b.md")} | {masked("010-1234-5678", "a.md", secret)}
    assert len(one) == 3
    assert masked("010-1234-5678", masker=secret) == masked("01012345678", masker=secret)


def test_title_text_and_attributes_are_masked_and_what_names_things_is_not() -> None:
    """Broken: what search returns or stores beside the text still tells who it is, or readers lose their access."""
    given = event(
        "주민번호 900101-1234567", "kim@example.com.md", title="For kim@example.com", source="mailto:kim@example.com",
        attributes={"owner": "kim@example.com", "lang": "ko"}, acl=("user:kim@example.com",),
    )  # fmt: skip
    found = MASKER.event(given)
    assert found.counts == {"email": 2, "resident-number": 1}
    assert "kim@" not in f"{found.event.title}{found.event.attributes}"
    assert found.event.attributes["lang"] == "ko"
    assert replace(found.event, title=given.title, content=given.content, attributes=given.attributes) == given


@pytest.mark.parametrize(
    "text",
    [
        "서울 강남구 역삼동 010-1234-5678",
        "서울특별시 강남구 테헤란로 4111-1111-1111-1111",
        "Tel.02-123-4567 / M.010-1234-5678",
        "(010) 1234-5678",
        "-010-1234-5678",
        "010·1234·5678",
        "821012345678",
        "1234 4111 1111 1111 1111",
        "4111  1111  1111  1111",
        "010\u200b-1234-5678",
        "900101\u00ad-1234567",
        "4111\u202f1111\u202f1111\u202f1111",
        "ho\u200bng@example.com",
        "josé@example.com",
        "hong@example.com-업무",
        "hong@example.xn--3e0b707e",
        "900101  1234567",
        "name\ttel\n홍길동\t010\t1234\t5678",
    ],
)
def test_usual_spellings_and_hidden_characters_let_nothing_through(text: str) -> None:
    """Broken: a signature, a table or a character that nobody sees keeps a number from being found, or half of it."""
    left = re.sub(rf"\[[A-Z-]+-{TAG}\]", "", masked(text))
    assert not re.search(r"\d{4}|@|hong|josé", left.removeprefix("1234 ")), masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "서버는 기본 포트로 8080 을 쓴다",
        "코드로 404 응답",
        "다시 기본값으로 10초",
        "즉시 기본으로 100 MB",
        "연구 결과로 30",
        "자동 1-2 단계",
        "동시 접속으로 1000 을",
        "요구 사항으로 300-2 항",
        "Table 3 Header Row",
        "Add 1 New Row",
        "Section 4 Right Way",
        "shape (224 224 1024)",
        "200-300-4000",
        "1500-2000 rpm",
        "grew +10485760",
        "W@x.reshape(1)",
        "240517-1000001.log",
        "S00000001 and G00001234",
        "d123e4567",
        "# 강남구\n\n테헤란로 1 이야기",
        "Chapter 2\nThe Long Road\n====",
        "@dataclass numpy@1.26",
    ],
)
def test_prose_code_and_headings_stay(text: str) -> None:
    """Broken: ordinary text becomes placeholders, which nobody can search for or get back."""
    assert masked(text) == text


def test_an_attribute_is_read_behind_its_name() -> None:
    """Broken: a number that only its column's name explains is published as metadata and indexed."""
    given = {"phone": "0212345678", "rrn": "2110113456789", "passport_no": "AB1234567", "order": "0212345678", "n": "7"}
    found = MASKER.event(event("text", attributes=given)).event.attributes
    assert {name for name in given if found[name] != given[name]} == {"phone", "rrn", "passport_no"}
    assert all(re.fullmatch(rf"\[[A-Z-]+-{TAG}\]", found[name]) for name in ("phone", "rrn", "passport_no"))


def test_what_overlaps_is_masked_as_a_whole(tmp_path: Path) -> None:
    """Broken: an own pattern within an address or a name switches the built-in kind off around it."""
    path = tmp_path / "own.yaml"
    path.write_text("unit: '\\d{3}호'\ncorp: 'Kim'\n")
    own = make_masker(IngestSettings(mask_patterns=path))
    assert re.fullmatch(
        rf"\[ADDRESS-{TAG}\], \[UNIT-{TAG}\]", masked("서울특별시 강남구 테헤란로 152, 301호", masker=own)
    )
    assert re.fullmatch(rf"\[CORP-{TAG}\]\[EMAIL-{TAG}\]", masked("KimLee@example.com", masker=own))


def test_two_spellings_of_one_value_are_one_and_two_values_are_two() -> None:
    """Broken: a reader takes two people for one, or one for two."""
    same = {masked(text) for text in ("010-1234-5678", "+82 10-1234-5678", "0082-10-1234-5678", "010 1234 5678")}
    assert len(same) == 1
    assert masked("a.b@x.com") != masked("ab@x.com")
    assert masked("서울 강남구 테헤란로 1-23") != masked("서울 강남구 테헤란로 12-3")


def test_what_holds_none_is_the_same_object() -> None:
    """Broken: every event is copied, or text changes by a byte and all its chunks with it."""
    given = event("A version 1.2.3 of 2026-11-21, see @property and 10.0.0.1.")
    assert MASKER.event(given).event is given
    assert make_masker(IngestSettings(mask="")).event(event("kim@example.com")).counts == {}


def test_own_patterns_come_first(tmp_path: Path) -> None:
    """Broken: what a company calls personal is published, or loses its own name."""
    path = tmp_path / "own.yaml"
    path.write_text("badge: 'B-\\d{6}'\ncompany-mail: '[a-z]+@corp\\.example'\n")
    own = make_masker(IngestSettings(mask="email", mask_patterns=path))
    found = own.event(event("B-123456 kim@corp.example lee@example.com"))
    assert found.counts == {"badge": 1, "company-mail": 1, "email": 1}
    assert re.fullmatch(rf"\[BADGE-{TAG}\] \[COMPANY-MAIL-{TAG}\] \[EMAIL-{TAG}\]", found.event.content or "")


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: '('", "does not compile"), ("a: 'x*'", "empty text"), ("A b: x", "invalid pattern name"),
     ("email: x", "invalid pattern name"),
     ("- x", "must be a mapping"), ("a: [", "cannot read the patterns"),
     ("a: '(?<=x)y'", "does not compile"), ("a: 3", "compile")],
)  # fmt: skip
def test_a_bad_pattern_is_named_at_the_start(tmp_path: Path, text: str, says: str) -> None:
    """Broken: a worker starts that masks less than it was told to."""
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        make_masker(IngestSettings(mask_patterns=path))


def test_an_unknown_kind_or_file_is_refused(tmp_path: Path) -> None:
    """Broken: a misspelt kind is not masked and nobody hears of it."""
    with pytest.raises(ConfigurationError, match="emial"):
        make_masker(IngestSettings(mask="emial,phone"))
    with pytest.raises(ConfigurationError, match="cannot read the patterns"):
        make_masker(IngestSettings(mask_patterns=tmp_path / "none.yaml"))


@given(st.text(max_size=200) | st.text("0123456789-. +()@a로길동서울시M", max_size=200))
def test_any_text_is_masked_once_and_for_all(text: str) -> None:
    """Broken: what is masked is masked again, so that a replay makes another text of it, or a text stops the stage."""
    once = masked(text)
    assert masked(once) == once
    found = MASKER.find(text)
    assert all(before[0].end <= after[0].start for before, after in itertools.pairwise(found))


@pytest.mark.parametrize(
    "unit",
    [
        "1-",
        "0",
        "a@",
        "a.",
        "@a.",
        "서울 ",
        "서울 강남구 ",
        "로 1",
        "(1",
        "+1 ",
        "1 A ",
        "1 Ab ",
        "M1",
        "12 ",
        "가1로 ",
    ],
)
def test_the_time_grows_with_the_length_only(unit: str) -> None:
    """Broken: one hostile document holds its partition up for minutes."""
    seconds = []
    for size in (50_000, 200_000):
        text = unit * (size // len(unit))
        started = time.process_time()
        MASKER.find(text)
        seconds.append(time.process_time() - started)
    assert seconds[1] < max(1.0, 12 * seconds[0]), seconds


def test_many_spans_of_many_kinds_cost_their_number_only(tmp_path: Path) -> None:
    """Broken: a text full of what two patterns find takes minutes, and its partition waits."""
    path = tmp_path / "own.yaml"
    path.write_text("one: a\ntwo: b\n")
    own = make_masker(IngestSettings(mask="", mask_patterns=path))
    seconds = []
    for size in (50_000, 400_000):
        started = time.process_time()
        assert len(own.find("ab" * (size // 2))) == size
        seconds.append(time.process_time() - started)
    assert seconds[1] < max(2.0, 24 * seconds[0]), seconds


def measured() -> dict[Kind, tuple[float, float, int]]:
    """Recall, precision and number of labelled spans of each kind; a span counts as found where most of it is."""
    hit, wanted, right, told = (dict.fromkeys(Kind, 0) for _ in range(4))
    for line in LABELLED.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        labelled = [(start, end, Kind(kind)) for start, end, kind in case["spans"]]
        found = [(span.start, span.end, Kind(kind)) for span, kind in MASKER.find(case["text"])]
        for kind in Kind:
            own = [one for one in labelled if one[2] is kind]
            mine = [one for one in found if one[2] is kind]
            wanted[kind] += len(own)
            told[kind] += len(mine)
            hit[kind] += sum(any(_covers(guess, one) for guess in mine) for one in own)
            right[kind] += sum(any(_covers(guess, one) or _covers(one, guess) for one in own) for guess in mine)
    return {kind: (hit[kind] / wanted[kind], right[kind] / max(1, told[kind]), wanted[kind]) for kind in Kind}


def _covers(outer: tuple[int, int, Kind], inner: tuple[int, int, Kind]) -> bool:
    """Whether at least nine tenths of ``inner`` lie in ``outer``."""
    return min(outer[1], inner[1]) - max(outer[0], inner[0]) >= 0.9 * (inner[1] - inner[0])


def test_what_people_labelled_is_found_and_little_else() -> None:
    """Broken: personal data is published, or readers lose what is none; the figures stand in the guide."""
    for kind, (recall, precision, spans) in measured().items():
        assert spans >= 100
        assert recall >= 0.98, (kind, recall)
        assert precision >= 0.95, (kind, precision)


def test_every_kind_has_its_detector() -> None:
    """Broken: a kind can be named in the settings and is not looked for."""
    assert set(DETECTORS) == set(Kind)
    assert plain("０１０－１２３４") == "010-1234"
