"""What ingest reads."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from headrace_cli.failures import UsageError
from headrace_cli.ingest import sources
from headrace_cli.ingest.sources import Change, Failure, Shape

pytestmark = pytest.mark.unit


def read_all(*paths: str | Path, shape: Shape | None = None) -> tuple[list[Change], list[Failure], sources.Found]:
    """Return everything that the paths hold."""
    found = sources.find([str(path) for path in paths])
    items = [item for source in found.sources for item in sources.read(source, shape or Shape())]
    failures = [*found.failures, *(item for item in items if isinstance(item, Failure))]
    return [item for item in items if isinstance(item, Change)], failures, found


def test_a_folder_gives_relative_ids_and_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    """Broken: ids depend on where the folder lies, or a .git folder is indexed."""
    for name in ("a.md", "sub/b.rst", "sub/c.TXT", ".hidden.md", ".git/d.md", "e.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {name}")
    changes, failures, found = read_all(tmp_path)
    assert [change.document_id for change in changes] == ["a.md", "sub/b.rst", "sub/c.TXT"]
    assert found.skipped == (str(tmp_path / "e.png"),)
    assert failures == []
    assert found.total == 3


def test_a_file_has_its_time_as_version_unless_one_is_given(tmp_path: Path) -> None:
    """Broken: an edited file is taken for an older one and never shows."""
    path = tmp_path / "a.md"
    path.write_text("한국어 🌊")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    changes, _, _ = read_all(path)
    assert changes[0].item == {
        "id": "a.md", "op": "upsert", "version": 1_700_000_000_123_456_789, "content": "한국어 🌊", "source": str(path),
    }  # fmt: skip
    changes, _, _ = read_all(path, shape=Shape("x/", 7))
    assert (changes[0].document_id, changes[0].item["version"]) == ("x/a.md", 7)


def test_line_ends_and_byte_order_marks_are_kept(tmp_path: Path) -> None:
    """Broken: offsets of citations do not fit the file."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r")
    assert read_all(path)[0][0].item["content"] == "\ufeffa\r\nb\r"


@pytest.mark.timeout(20)
def test_a_pipe_in_a_folder_is_listed_and_never_waited_for(tmp_path: Path) -> None:
    """Broken: a named pipe among the files stops an ingest for ever."""
    os.mkfifo(tmp_path / "pipe.txt")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "good.md").write_text("good")
    changes, failures, _ = read_all(tmp_path)
    assert [change.document_id for change in changes] == ["good.md"]
    assert {failure.reason for failure in failures} == {"is neither a file nor a folder"}


def test_what_cannot_be_read_is_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    """Broken: one bad file stops an ingest of thousands, or is passed over in silence."""
    (tmp_path / "good.md").write_text("good")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "large.txt").write_bytes(b"x" * (sources.MOST_CONTENT_BYTES + 1))
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    changes, failures, _ = read_all(tmp_path, tmp_path / "missing")
    assert [change.document_id for change in changes] == ["good.md"]
    told = {Path(failure.origin).name: failure.reason for failure in failures}
    assert told["latin.txt"] == "is not UTF-8: byte 3 is 0xe9"
    assert told["large.txt"] == "is larger than 4 MiB"
    assert "No such file" in told["gone.md"]
    assert "No such file" in told["missing"]
    assert all(failure.remedy for failure in failures)


def test_two_files_under_one_id_are_not_both_sent(tmp_path: Path) -> None:
    """Broken: one of two documents silently overwrites the other."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text(folder)
    changes, failures, _ = read_all(tmp_path / "one", tmp_path / "two", tmp_path / "one")
    assert len(changes) == 1
    assert [failure.document_id for failure in failures] == ["a.md"]


@pytest.mark.parametrize("pack", ["plain", "xz", "gz"])
def test_lines_are_read_one_by_one_packed_or_not(tmp_path: Path, pack: str) -> None:
    """Broken: an export of change events cannot be replayed."""
    raw = b'{"op": "upsert", "id": "a", "content": "x"}\n\n{"op": "delete", "document_id": "b"}\n'
    suffix, packed = {
        "plain": ("", raw), "xz": (".xz", lzma.compress(raw)), "gz": (".gz", gzip.compress(raw)),
    }[pack]  # fmt: skip
    path = tmp_path / f"changes.jsonl{suffix}"
    path.write_bytes(packed)
    changes, failures, found = read_all(path, shape=Shape("p/"))
    assert [change.document_id for change in changes] == ["p/a", "p/b"]
    assert [change.origin for change in changes] == [f"{path}:1", f"{path}:3"]
    assert (failures, found.total) == ([], None)


def test_bad_lines_are_named_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a damaged export is refused as a whole, or nobody knows which line is bad."""
    monkeypatch.setattr(sources, "MOST_LINE_BYTES", 60)
    good = json.dumps({"op": "delete", "id": "b"}).encode()
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join([b"{", b"[1]", b'"\xff"', b"x" * 200, good]))
    changes, failures, _ = read_all(path)
    assert [failure.origin.rpartition(":")[2] for failure in failures] == ["1", "2", "3", "4"]
    assert [failure.reason.split(":")[0] for failure in failures] == [
        "is not valid JSON", "is not a JSON object", "is not UTF-8", "the line is larger than 0 MiB",
    ]  # fmt: skip
    assert [change.origin for change in changes] == [f"{path}:5"]


def test_a_cut_archive_gives_what_it_held(tmp_path: Path) -> None:
    """Broken: a half downloaded export shows a traceback."""
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"op": "delete", "id": "b"}\n' * 9)[:-9])
    _, failures, _ = read_all(path)
    assert "reading failed" in failures[0].reason


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a pipe into ingest sends nothing."""
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b'{"op": "delete", "id": "b"}')))
    changes, _, _ = read_all("-")
    assert [(change.document_id, change.origin) for change in changes] == [("b", "standard input:1")]
    with pytest.raises(UsageError):
        sources.find(["-", "-"])


def test_files_that_are_no_plain_text_are_sent_as_their_bytes(tmp_path: Path) -> None:
    """Broken: a PDF is skipped, or its bytes are changed on the way."""
    raw = bytes(range(256))
    for name in ("a.pdf", "b.DOCX", "c.html", "d.htm", "e.xhtml", "f.json"):
        (tmp_path / name).write_bytes(raw)
    changes, failures, found = read_all(tmp_path)
    assert (failures, found.skipped) == ([], ())
    assert [change.document_id for change in changes] == ["a.pdf", "b.DOCX", "c.html", "d.htm", "e.xhtml", "f.json"]
    for change in changes:
        assert set(change.item) == {"id", "op", "version", "source", "content_base64"}
        assert base64.b64decode(change.item["content_base64"], validate=True) == raw


def test_the_largest_file_of_bytes_fits_a_request_and_a_larger_one_is_named(tmp_path: Path) -> None:
    """Broken: a PDF that we call small enough is refused by the gateway for the size of its base64."""
    (tmp_path / "fits.pdf").write_bytes(b"x" * sources.MOST_CONTENT_BYTES)
    (tmp_path / "large.pdf").write_bytes(b"x" * (sources.MOST_CONTENT_BYTES + 1))
    changes, failures, _ = read_all(tmp_path)
    assert len(json.dumps({"changes": [change.item for change in changes]})) < 6 * 1024 * 1024
    assert [(failure.document_id, failure.reason) for failure in failures] == [("large.pdf", "is larger than 4 MiB")]


def test_the_notes_of_office_programs_are_left_out(tmp_path: Path) -> None:
    """Broken: while a document is open in an office program, its lock file becomes a dead letter."""
    (tmp_path / "~$report.docx").write_bytes(b"who has it open")
    (tmp_path / "report.docx").write_bytes(b"PK")
    changes, _, found = read_all(tmp_path)
    assert ([change.document_id for change in changes], found.skipped) == (["report.docx"], ())


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: half of the old text and half of the new one are indexed under one version."""
    path = tmp_path / "a.md"
    path.write_text("old")
    real, looks = os.fstat, []

    def fstat(number: int) -> os.stat_result:
        facts = real(number)
        looks.append(facts)
        if len(looks) == 1:
            path.write_text("new text")
            os.utime(path, ns=(1, 7))
        return facts

    monkeypatch.setattr("headrace_cli.ingest.sources.os.fstat", fstat)
    changes, failures, _ = read_all(path)
    assert [(change.item["content"], change.item["version"]) for change in changes] == [("new text", 7)]
    assert (failures, len(looks)) == ([], 4)


def test_a_file_that_never_rests_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a log that grows all the time holds an ingest up for ever."""
    path = tmp_path / "a.txt"
    path.write_text("line")
    real = os.fstat

    def fstat(number: int) -> os.stat_result:
        with path.open("a") as file:
            file.write("line")
        return real(number)

    monkeypatch.setattr("headrace_cli.ingest.sources.os.fstat", fstat)
    _, failures, _ = read_all(path)
    assert "kept changing" in failures[0].reason
