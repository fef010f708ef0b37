"""From a change event with a file to the document: text without personal data, pages, and what is noted of the file."""

from __future__ import annotations

import asyncio
import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.envelope import Change, Context, Operation, Trace, check_transition
from headrace.errors import ConfigurationError, Deferred, HeadraceError, InvalidRecord, PermanentError
from headrace.kafka.broker_contract import Record
from headrace.payloads import ChangeEvent
from headrace_ingest.events import IngestDecoder, decode
from headrace_ingest.fetching import ForbiddenReference, ReferenceGone
from headrace_ingest.files import kinds
from headrace_ingest.files.blocks import Parsed
from headrace_ingest.masking import Edit, moved
from headrace_ingest.opening import File, OpenFile
from headrace_ingest.postal import Span
from headrace_ingest.settings import IngestSettings
from headrace_testing import files

pytestmark = pytest.mark.unit

CODEC = Codec(FixedIds())


def context(event: ChangeEvent) -> Context[ChangeEvent]:
    """Return the context of that event."""
    trace = Trace("r", "default", 1, datetime(2026, 1, 1, tzinfo=UTC))
    return Context(trace, Change(event.tenant, event.document_id, 1, Operation.UPSERT), event)


def event(document_id: str = "a", **fields: Any) -> ChangeEvent:
    """Return an upsert with these fields."""
    return ChangeEvent("acme", document_id, Operation.UPSERT, 1, **fields)


def opened(*events: ChangeEvent) -> list[Context[ChangeEvent] | HeadraceError]:
    """Return what the handler makes of the events, in one batch."""

    async def run() -> list[Context[ChangeEvent] | HeadraceError]:
        handler = OpenFile()
        try:
            return list(await handler.process_batch([context(one) for one in events]))
        finally:
            await handler.close()

    return asyncio.run(run())


def one(given: ChangeEvent) -> Context[ChangeEvent]:
    """Return what the handler makes of one event that is fine."""
    found = opened(given)[0]
    assert isinstance(found, Context), found
    check_transition(context(given), found, "ingest")
    return found


def text_of(context: Context[ChangeEvent]) -> str:
    """Return the event's text, which there must be."""
    assert context.payload.content is not None
    return context.payload.content


def test_an_event_with_its_text_passes_as_it_is() -> None:
    """Every plain document would pay for files, or be changed."""
    given = context(event(content="# text", media_type=kinds.MARKDOWN))
    assert asyncio.run(OpenFile().process_batch([given]))[0] is given


def test_what_a_file_holds_is_masked_and_its_pages_move_along() -> None:
    """Personal data of every PDF would be published; or pages be cited beside where they begin."""
    body = "words that fill the page and say nothing at all " * 6
    data = files.pdf(
        [
            [("BodyText", f"{body} write to hana.kim@example.co.kr or call 010-1234-5678")],
            [("BodyText", f"Second. {body}")],
        ],
        title="Kim hana.kim@example.co.kr",
    )
    found = one(event("a.pdf", data=data))
    text = text_of(found)
    assert "hana.kim" not in text
    assert "010-1234-5678" not in text
    assert found.payload.title is not None
    assert "hana.kim" not in found.payload.title
    assert found.metadata["ingest.file.masked.email"] == 2
    assert found.metadata["ingest.file.masked.phone"] == 1
    assert text[found.payload.pages[1] :].startswith("Second.")
    assert (found.payload.media_type, found.payload.data) == (kinds.PDF, None)
    assert found.metadata["ingest.file.kind"] == kinds.PDF
    assert found.metadata["ingest.file.bytes"] == len(data)


def test_what_upstream_states_comes_before_what_the_file_says() -> None:
    """A title that people gave would be lost to what a program wrote."""
    page = b"<html lang=en><title>Untitled 1</title><p>words</p></html>"
    found = one(event("a.html", data=page, title="Terms", language="en-GB"))
    assert (found.payload.title, found.payload.language) == ("Terms", "en-GB")
    found = one(event("a.html", data=page))
    assert (found.payload.title, found.payload.language) == ("Untitled 1", "en")


def test_html_and_json_are_read_from_text_too() -> None:
    """A table's column with HTML would be indexed with its tags."""
    found = one(event(content="<h1>한글</h1><p>글</p>", media_type=kinds.HTML))
    assert found.payload.content == "# 한글\n\n글\n"
    found = one(event(content='{"skills": ["Kafka"]}', media_type=kinds.JSON))
    assert found.payload.content == "# Skills\n\n- Kafka\n"


def test_a_text_file_is_taken_as_it_stands() -> None:
    """Offsets would point beside the passages of a Markdown file."""
    found = one(event("a.md", data="# 제목\r\n\r\n본문".encode("euc-kr"), media_type="text/markdown; charset=euc-kr"))
    assert (found.payload.content, found.payload.media_type) == ("# 제목\r\n\r\n본문", kinds.MARKDOWN)


def test_a_file_that_is_refused_is_refused_alone() -> None:
    """One broken PDF would send a whole batch to the dead letters."""
    first, broken, last = opened(event(content="a"), event("b.pdf", data=b"%PDF-1.7 broken"), event("c", data=b"text"))
    assert isinstance(first, Context)
    assert isinstance(broken, InvalidRecord)
    assert isinstance(last, Context)
    assert last.payload.content == "text"


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ({"data": b""}, "data", "is an empty file"),
        ({"data": b"a\x00b", "media_type": "text/plain"}, "data", "is neither text nor a known kind of file"),
        ({"data": b"x" * 3000}, "data", "has 3000 bytes; the limit is 2048"),
        ({"data": b"<html>" + b"word " * 300 + b"</html>"}, "content", "the file's text has"),
    ],
)
def test_a_file_beyond_the_limits_is_refused_naming_them(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], field: str, reason: str
) -> None:
    """A text of 200 MB would fill the memory of every stage after this one."""
    monkeypatch.setenv("HEADRACE_INGEST_MAX_FILE_BYTES", "2048")
    monkeypatch.setenv("HEADRACE_INGEST_MAX_CONTENT_BYTES", "1024")
    refusal = opened(event(**given))[0]
    assert isinstance(refusal, InvalidRecord)
    assert (refusal.field, refusal.reason.startswith(reason)) == (field, True), refusal


def test_a_file_is_fetched_from_where_the_event_refers_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Large files would have to travel through Kafka; or one that may not be read would be."""
    monkeypatch.setenv("HEADRACE_FETCH_FOLDERS", str(tmp_path))
    (tmp_path / "한글 안내.md").write_text("# 안내\n\nhana.kim@example.co.kr\n", encoding="utf-8")
    place = (tmp_path / "한글 안내.md").as_uri()
    found, outside, gone = opened(
        event("a", reference=place), event("b", reference="file:///etc/hostname"), event("c", reference=f"{place}x")
    )
    assert isinstance(found, Context)
    assert text_of(found).startswith("# 안내\n\n[EMAIL-")
    assert (found.payload.media_type, found.payload.reference) == (kinds.MARKDOWN, None)
    assert found.payload.source == found.metadata["ingest.file.reference"] == place
    assert isinstance(outside, ForbiddenReference)
    assert isinstance(gone, ReferenceGone)


def test_an_unforeseen_error_concerns_one_file_and_all_are_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch would be halved again and again, and every file of it be fetched each time."""
    read_files: list[str] = []
    parsed = OpenFile._parsed

    async def counted(self: OpenFile, file: File, name: str) -> tuple[str, Parsed]:
        read_files.append(name)
        if name == "b":
            raise RuntimeError("a bug")
        return await parsed(self, file, name)

    monkeypatch.setattr(OpenFile, "_parsed", counted)
    first, second, third = opened(*(event(name, data=b"text") for name in "abc"))
    assert isinstance(first, Context)
    assert isinstance(second, PermanentError)
    assert isinstance(third, Context)
    assert sorted(read_files) == ["a", "b", "c"]


def test_a_batch_takes_no_more_files_than_it_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred small files that hold much text would fill the memory of a stage."""
    monkeypatch.setattr("headrace_ingest.opening._BATCH_CHARACTERS", 15)
    outcomes = opened(*(event(str(number), data=b"ten letter") for number in range(8)), event("plain", content="text"))
    assert isinstance(outcomes[-1], Context)
    assert isinstance(outcomes[0], Context)
    assert isinstance(outcomes[-2], Deferred)


def test_personal_data_in_json_is_masked_behind_the_parser() -> None:
    """A number in JSON would be masked to what is no JSON, or not be masked at all."""
    body = json.dumps({"tenant": "acme", "id": "a", "op": "upsert", "version": 1, "media_type": kinds.JSON,
                       "title": "hana.kim@example.co.kr", "content": '{"order": 4111111111111111}'})  # fmt: skip
    latest = lambda name: (name, 1)  # noqa: E731
    decoder = IngestDecoder(CODEC, latest, IngestSettings())
    decoded = decoder(Record("changes", 0, 1, b"acme/a", body.encode(), (), 0)).payload
    assert decoded is not None
    assert (decoded.title or "").startswith("[EMAIL-")
    found = one(decoded)
    assert text_of(found).startswith("Order: [CARD-")


def test_a_cloud_event_may_hold_text_in_another_encoding() -> None:
    """A sender of Korean text in its older encoding would have to send it in another form."""
    headers = (
        ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"doc.upserted"),
        ("ce_subject", b"a"), ("ce_tenant", b"acme"), ("content-type", b"text/markdown; charset=EUC-KR"),
    )  # fmt: skip
    record = Record("changes", 0, 1, b"acme/a", "# 제목".encode("euc-kr"), headers, 0)
    found = one(decode(record, CODEC, IngestSettings())[1])
    assert (found.payload.content, found.payload.media_type) == ("# 제목", kinds.MARKDOWN)


def test_a_wrong_place_to_fetch_from_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest would start, and stand still with the first record."""
    monkeypatch.setenv("HEADRACE_FETCH_HOSTS", "*")
    with pytest.raises(ConfigurationError, match="HEADRACE_FETCH_HOSTS"):
        OpenFile()


def test_a_cloud_event_may_say_where_its_data_lies() -> None:
    """The standard's own claim check would be refused."""
    headers = (
        ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"doc.upserted"),
        ("ce_subject", b"a"), ("ce_tenant", b"acme"), ("ce_dataref", b"https://a/b.pdf"),
    )  # fmt: skip
    for content_type in ((), (("content-type", kinds.PDF.encode()),), (("content-type", b"text/plain"),)):
        record = Record("changes", 0, 1, b"acme/a", b"", (*headers, *content_type), 0)
        found = decode(record, CODEC, IngestSettings())[1]
        assert (found.reference, found.data, found.content) == ("https://a/b.pdf", None, None)
    record = Record("changes", 0, 1, b"acme/a", b"text", (*headers, ("content-type", b"text/plain")), 0)
    found = decode(record, CODEC, IngestSettings())[1]
    assert (found.reference, found.content) == (None, "text")


def test_every_form_of_event_can_carry_a_file() -> None:
    """A client of one form could not send what clients of another can."""
    data = b"%PDF-1.7\n\x00\xff"
    encoded = base64.b64encode(data).decode()
    plain = {"tenant": "acme", "id": "a", "op": "upsert", "content_base64": encoded, "media_type": kinds.PDF}
    cloud = {"specversion": "1.0", "id": "1", "source": "/s", "type": "doc.upserted", "subject": "a", "tenant": "acme",
             "datacontenttype": kinds.PDF, "data_base64": encoded}  # fmt: skip
    headers = (
        ("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"doc.upserted"),
        ("ce_subject", b"a"), ("ce_tenant", b"acme"), ("content-type", kinds.PDF.encode()),
    )  # fmt: skip
    stated = ChangeEvent("acme", "a", Operation.UPSERT, data=data, media_type=kinds.PDF)
    avro = CODEC.encode_plain(stated)
    values = ((json.dumps(plain).encode(), ()), (json.dumps(cloud).encode(), ()), (data, headers), (avro, ()))
    for value, given in values:
        found = decode(Record("changes", 0, 1, b"acme/a", value, given, 0), CODEC, IngestSettings())[1]
        assert (found.data, found.media_type, found.content) == (data, kinds.PDF, None)


def test_offsets_move_with_what_is_masked_before_them() -> None:
    """Every page after a masked number would be cited beside its beginning."""
    edits = [Edit(Span(2, 4), "[LONG]"), Edit(Span(6, 9), "")]
    assert moved((0, 2, 3, 4, 6, 7, 9, 12), edits) == (0, 2, 2, 8, 10, 10, 10, 13)
