"""Files that are broken or made to harm: each is refused for a reason that is told, and the next one is read."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator

import pytest

from headrace.errors import DependencyDown, InvalidRecord, TemporaryError
from headrace_ingest.files import kinds
from headrace_ingest.files.reader import Limits, Reader, _checked
from headrace_ingest.files.samples import samples
from headrace_testing import files

pytestmark = pytest.mark.unit

LIMITS = Limits(memory_mib=640, timeout_s=20, max_pages=500, text_bytes=1 << 20)
GOOD = samples()[kinds.DOCX]


def with_part(name: str, content: bytes) -> bytes:
    """Return a Word document with one part replaced."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.namelist():
            if part != name:
                new.writestr(part, old.read(part))
        new.writestr(name, content)
    return target.getvalue()


def zip_bomb() -> bytes:
    """Return a Word document of half a megabyte whose styles unpack to 512 MiB."""
    target = io.BytesIO(GOOD)
    with (
        zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("word/styles.xml", "w", force_zip64=True) as part,
    ):
        for _ in range(512):
            part.write(bytes(1 << 20))
    return target.getvalue()


LAUGHS = b"".join(
    [b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY l0 "lol">',
     *[b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10)],
     b']><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>',
     b"<w:t>&l9;</w:t></w:r></w:p></w:body></w:document>"]
)  # fmt: skip
SECRET_FILE = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/hostname">]><w:document xmlns:w="http://schemas.'
    b'openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>&x;</w:t></w:r></w:p></w:body></w:document>'
)
INSIDE = (
    b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>x</w:t>'
    b"</w:r></w:p><w:altChunk/></w:body></w:document>"
)
DEEP_WORD = (
    b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    + b"<w:sdt>" * 200_000
    + b"</w:sdt>" * 200_000
    + b"</w:body></w:document>"
)

HOSTILE = {
    "encrypted PDF": (files.encrypted_pdf, kinds.PDF, "requires a password"),
    "truncated PDF": (lambda: samples()[kinds.PDF][:40], kinds.PDF, "is a broken PDF"),
    "PDF of noise": (lambda: b"%PDF-1.7\n" + os.urandom(100_000), kinds.PDF, "is a broken PDF"),
    "10,000 pages": (lambda: files.many_pages(10_000), kinds.PDF, "has 10000 pages; the limit is 500"),
    "scan": (lambda: files.pdf([[("BodyText", "")]]), kinds.PDF, "contains no text"),
    "truncated DOCX": (lambda: GOOD[:-30], kinds.DOCX, "is a DOCX that cannot be read"),
    "other zip": (
        lambda: _zip_of("a.txt"),
        kinds.DOCX,
        "is a zip file without word/document",
    ),
    "zip bomb": (zip_bomb, kinds.DOCX, "needs more memory than 640 MiB"),
    "billion laughs": (lambda: with_part("word/document.xml", LAUGHS), kinds.DOCX, "entity amplification"),
    "foreign entity": (lambda: with_part("word/document.xml", SECRET_FILE), kinds.DOCX, "contains no text"),
    "deep DOCX": (lambda: with_part("word/document.xml", DEEP_WORD), kinds.DOCX, "Excessive depth"),
    "deep JSON": (lambda: b'{"a":' * 100_000, kinds.JSON, "is nested too deeply"),
    "deep JSON, closed": (lambda: b'{"a":' * 150 + b"1" + b"}" * 150, kinds.JSON, "is nested deeper than 100 levels"),
    "broken JSON": (lambda: b'{"a": }', kinds.JSON, "is not JSON: Expecting value at line 1, column 7"),
    "a name twice": (lambda: b'{"a": 1, "a": 2}', kinds.JSON, "contains the key 'a' twice in one object"),
    "a document inside": (lambda: with_part("word/document.xml", INSIDE), kinds.DOCX, "embeds another document"),
    "list": (lambda: b"[1]", kinds.JSON, "is not a JSON object"),
    "empty HTML": (lambda: b"<html><script>x</script></html>", kinds.HTML, "contains no text"),
    "wrong encoding": (lambda: b"<html><p>\xff", kinds.HTML, "is not utf-8: byte 9 is 0xff"),
    "more text than allowed": (lambda: b"<p>" + b"word " * 600_000, kinds.HTML, "contains more than"),
}


def _zip_of(name: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, "text")
    return target.getvalue()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop that the reader's process lives on from test to test."""
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def reader(runner: asyncio.Runner) -> Iterator[Reader]:
    """The real process that reads files, with small limits."""
    found = Reader(LIMITS)
    yield found
    runner.run(found.close())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_time_and_the_next_is_read(
    runner: asyncio.Runner, reader: Reader, name: str
) -> None:
    """One file would stop the stage, fill its memory, or be dropped without a word."""
    make, kind, reason = HOSTILE[name]
    data = make()
    begun = time.monotonic()
    with pytest.raises(InvalidRecord) as caught:
        runner.run(reader.read(data, kind, None))
    assert time.monotonic() - begun < LIMITS.timeout_s + 3
    assert reason in caught.value.reason
    assert caught.value.reason
    assert runner.run(reader.read(GOOD, kinds.DOCX, None)).text.startswith("word")


def test_a_foreign_entity_brings_no_file_along(runner: asyncio.Runner, reader: Reader) -> None:
    """A sender would read the files of the machine that ingest runs on."""
    part = SECRET_FILE.replace(b"<w:t>&x;</w:t>", b"<w:t>before &x; after</w:t>")
    text = runner.run(reader.read(with_part("word/document.xml", part), kinds.DOCX, None)).text
    assert text.startswith("before")
    with open("/etc/hostname", encoding="utf-8") as file:  # noqa: PTH123
        assert file.read().strip() not in text


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<p>שלום العالم mixed 한국어 \u202eright\u202c</p>", ["שלום", "العالم", "mixed", "한국어"]),
        ("<p>a&#xD800;b &#0; c</p>", ["a", "b", "c"]),
        ("<p>before</p>" + "<div>" * 200_000 + "deep", ["before"]),
        ("<p>" + "&amp;" * 200_000 + "end</p>", ["end"]),
        ('<img src="data:image/png;base64,' + "A" * 500_000 + '"><p>end</p>', ["end"]),
    ],
)
def test_strange_pages_are_read(runner: asyncio.Runner, reader: Reader, html: str, words: list[str]) -> None:
    """Text from right to left would be turned round, and one odd letter would lose a page."""
    text = runner.run(reader.read(html.encode(), kinds.HTML, None)).text
    assert [word for word in words if word not in text] == []
    text.encode()


def test_a_file_that_takes_too_long_is_ended(runner: asyncio.Runner) -> None:
    """One file would hold up all others of its partition."""
    slow = Reader(Limits(memory_mib=640, timeout_s=0.2, max_pages=20_000, text_bytes=1 << 20))
    try:
        # A machine that is busy itself is at fault, and has the file read again.
        with pytest.raises((InvalidRecord, TemporaryError), match=r"takes longer than 0\.2 s"):
            runner.run(slow.read(files.many_pages(10_000), kinds.PDF, None))
        assert runner.run(slow.read(GOOD, kinds.DOCX, None)).text.startswith("word")
    finally:
        runner.run(slow.close())


def test_a_reader_that_dies_is_started_anew(runner: asyncio.Runner, reader: Reader) -> None:
    """After the kernel ended the process, no file would be read, or a good file be blamed."""
    runner.run(reader.read(GOOD, kinds.DOCX, None))
    assert reader._process is not None
    os.kill(reader._process.pid, signal.SIGKILL)
    with pytest.raises(TemporaryError):
        runner.run(reader.read(GOOD, kinds.DOCX, None))
    assert runner.run(reader.read(GOOD, kinds.DOCX, None)).text.startswith("word")


def test_a_cancelled_reading_leaves_no_answer_for_the_next(runner: asyncio.Runner, reader: Reader) -> None:
    """After a rebalance one document would get another's text."""

    async def cancelled() -> str:
        task = asyncio.create_task(reader.read(files.many_pages(400), kinds.PDF, None))
        await asyncio.sleep(0.05)
        assert task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return (await reader.read(GOOD, kinds.DOCX, None)).text

    assert runner.run(cancelled()).startswith("word")


CONFINED = """
import os, socket, sys
from headrace_ingest.files import confine
attempts = {
    "open": lambda: open("/etc/hostname"), "write": lambda: open("/tmp/headrace-confined", "w"),
    "network": lambda: socket.socket(), "program": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(os.getppid(), 0), "remove": lambda: os.unlink("/tmp/headrace-confined"),
    "memory": lambda: bytearray(2 << 30),
}
confine.confine(1 << 30, 5)
try:
    attempts[sys.argv[1]]()
except (PermissionError, MemoryError) as error:
    print(type(error).__name__, flush=True)
    os._exit(0)
os._exit(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
@pytest.mark.parametrize("attempt", ["open", "write", "network", "program", "kill", "remove", "memory"])
def test_the_process_that_reads_can_do_nothing_else(attempt: str) -> None:
    """A hole in a parser would be a hole in the service: its files, its network, its neighbours."""
    done = subprocess.run([sys.executable, "-c", CONFINED, attempt], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("MemoryError" if attempt == "memory" else "PermissionError")


TAKEN_OVER = """
import os, sys, time
from headrace_ingest.files import child, extract
from headrace_ingest.files.framing import framed

def open_ends(head, data):
    found = []
    for end in (0, 1):
        try:
            os.fstat(end)
            found.append(end)
        except OSError:
            pass
    return {"open": found}, b""

def two_frames(head, data):
    real = os.write
    os.write = lambda end, answer: real(end, bytes(answer) + framed({"title": "forged"})) and len(answer)
    return {}, b""

def sleeps(head, data):
    time.sleep(60)

def spins(head, data):
    while True:
        pass

def is_killed(head, data):
    os.kill(os.getpid(), 9)

if sys.argv[1] == "killed":
    child.confine.confine = lambda *limits: None
extract.answer = {
    "ends": open_ends, "frames": two_frames, "sleeps": sleeps, "spins": spins, "killed": is_killed
}[sys.argv[1]]
answer = child._forked({"memory_bytes": 1 << 30, "timeout_s": 1, "text_bytes": 1000, "kind": "x"}, b"")
sys.stderr.write(answer[8:].decode())
"""


def taken_over(how: str) -> str:
    """Return the answer of a reader that does not do what it should."""
    done = subprocess.run(
        [sys.executable, "-c", TAKEN_OVER, how], capture_output=True, text=True, check=True, stdin=subprocess.PIPE
    )
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_a_reader_that_was_taken_over_reaches_neither_questions_nor_answers() -> None:
    """A hostile file would answer for the documents after it, or read them."""
    assert taken_over("ends") == '{"open": []}'
    assert "forged" not in taken_over("frames")
    assert '"error"' in taken_over("frames")


@pytest.mark.parametrize(("how", "temporary"), [("sleeps", True), ("killed", True), ("spins", False)])
def test_a_machine_that_gave_no_time_is_told_from_a_file_that_takes_it(how: str, temporary: bool) -> None:
    """Good files would be dead-lettered on a busy machine, or hostile ones be read eight times."""
    answer = json.loads(taken_over(how))
    if how == "spins" and answer["temporary"]:
        pytest.skip("this machine gave the reader less than half of its time")
    assert answer["temporary"] is temporary
    assert "takes longer than 1 s" in answer["error"] or how == "killed"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"title": 5, "language": None, "pages": []},
        {"title": "\ud800", "language": None, "pages": []},
        {"title": "", "language": 5, "pages": []},
        {"title": "", "language": None, "pages": [2, 1]},
        {"title": "", "language": None, "pages": [0, 99]},
        {"title": "", "language": None, "pages": [True]},
        {"title": "", "language": None, "pages": 5},
    ],
)
def test_an_answer_that_cannot_be_is_the_files_fault(answer: dict[str, object]) -> None:
    """A hostile file would stop the stage through the service's own code."""
    with pytest.raises(InvalidRecord, match="an invalid answer"):
        _checked(answer, b"text")


def test_an_answer_that_is_no_text_is_the_files_fault() -> None:
    """As above, for the text itself."""
    with pytest.raises(InvalidRecord, match="an invalid answer"):
        _checked({"title": "", "language": None, "pages": []}, b"\xff")


def test_a_machine_that_may_not_confine_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file would be refused for good on a kernel without seccomp, or be read without bounds."""

    async def run() -> None:
        async def answer(_process: object) -> tuple[dict[str, object], bytes]:
            return {"filtered": True, "refused": "not permitted"}, b""

        monkeypatch.setattr("headrace_ingest.files.reader._answer", answer)
        own = Reader(LIMITS)
        with pytest.raises(DependencyDown, match="cannot confine the file reader: not permitted"):
            await own.read(GOOD, kinds.DOCX, None)
        assert own._process is None

    asyncio.run(run())
