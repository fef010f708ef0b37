"""Reads files, folders and JSON lines for ``headrace ingest`` and turns them into changes, one at a time.

Text is sent as text. Other formats are sent as bytes, and the services extract their text. A file's content is read
when its turn comes; until then, only its name is kept. Items that cannot be read become a :class:`Failure`, and the
others continue.
"""

from __future__ import annotations

import base64
import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from headrace_cli.failures import UsageError

TEXT_SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".rest")
BYTES_SUFFIXES = (".pdf", ".docx", ".html", ".htm", ".xhtml", ".json")
"""Files that are sent as bytes; their content decides the format, not their name."""
LINE_SUFFIXES = (".jsonl", ".jsonl.xz", ".jsonl.gz")
MOST_CONTENT_BYTES = 4 * 1024 * 1024
"""The gateway's limit (HEADRACE_GATEWAY_MAX_CONTENT_BYTES), checked before a file is read.

Base64 makes it a third larger, 5.3 MiB, which is within the maximum body and record (8 MiB each).
"""
_READS = 5
"""How often to read a file that changes while it is read."""
MOST_LINE_BYTES = 8 * 1024 * 1024
STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Change:
    """A change to send; ``origin`` is its file, or its file and line."""

    item: dict[str, Any]
    origin: str

    @property
    def document_id(self) -> str:
        """The document's ID as text, whatever type the line has."""
        return str(self.item.get("id", self.item.get("document_id", "")))


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed item: its origin, its document if known, the reason, and what to do."""

    origin: str
    document_id: str | None
    reason: str
    remedy: str = ""


class Stamp(NamedTuple):
    """Identifies the state of a file."""

    mtime_ns: int
    size: int
    inode: int
    readable: bool = True


class Unsteady(OSError):
    """The file changed during every attempt to read it."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file, and the ID of its document."""

    path: Path
    document_id: str


@dataclass(frozen=True, slots=True)
class LineSource:
    """Change events, one per line; :data:`STANDARD_INPUT`, or a file that may be compressed with xz or gzip."""

    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """The result of reading the arguments: sources in order, skipped files, and unreadable arguments."""

    sources: tuple[FileSource | LineSource, ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]

    @property
    def total(self) -> int | None:
        """The number of changes, or None if there are sources of lines."""
        return None if any(isinstance(source, LineSource) for source in self.sources) else len(self.sources)


@dataclass(frozen=True, slots=True)
class Shape:
    """The options for every change: the prefix of IDs, and the version of files (None: their modification time)."""

    prefix: str = ""
    version: int | None = None


def find(paths: Sequence[str]) -> Found:
    """Return the contents of the arguments without hidden entries; raises :class:`UsageError` for two ``-``."""
    sources: list[FileSource | LineSource] = []
    skipped: list[str] = []
    failures: list[Failure] = []
    if list(paths).count(STANDARD_INPUT) > 1:
        raise UsageError("standard input can be read only once", where="-")
    for given in paths:
        path = Path(given)
        if given == STANDARD_INPUT:
            sources.append(LineSource(given))
        elif os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises below a folder that may not be entered
            for file in _walk(path, failures):
                _take(file, file.relative_to(path).as_posix(), sources, skipped, failures)
        elif os.path.isfile(path):  # noqa: PTH113
            _take(path, _own_id(path), sources, skipped, failures)
        else:
            failures.append(Failure(given, None, _reason(path), "Check the path."))
    return Found(tuple(_unique(sources, failures)), tuple(skipped), tuple(failures))


def read(source: FileSource | LineSource, shape: Shape) -> Iterator[Change | Failure]:
    """Yield the changes of a source, and a failure for each one that cannot be read."""
    if isinstance(source, FileSource):
        yield _read_file(source, shape)
    else:
        yield from _read_lines(source, shape)


def is_hidden(name: str) -> bool:
    """Whether to leave out an entry of a folder: a hidden file, or the lock file of an office program."""
    return name.startswith((".", "~$"))


def is_document(identifier: str) -> bool:
    """Whether a file at this path within a named folder is a document: it has a supported format and is not hidden."""
    named = identifier.lower().endswith((*TEXT_SUFFIXES, *BYTES_SUFFIXES))
    return named and not any(is_hidden(part) for part in identifier.split("/"))


def stamp_of(facts: os.stat_result) -> Stamp:
    """Return the state of a file."""
    return Stamp(facts.st_mtime_ns, facts.st_size, facts.st_ino)


def read_steady(path: Path) -> tuple[Stamp, bytes]:
    """Return the content of a file in one state, at most one byte more than may be sent, and that state.

    Raises :class:`Unsteady` if the file changes during every attempt, and :class:`OSError`.
    """
    for _ in range(_READS):
        with path.open("rb") as file:
            before = stamp_of(os.fstat(file.fileno()))
            raw = file.read(MOST_CONTENT_BYTES + 1)
            if stamp_of(os.fstat(file.fileno())) == before:
                return before, raw
    raise Unsteady(0, "kept changing while it was read", str(path))


def _take(
    path: Path,
    identifier: str,
    sources: list[FileSource | LineSource],
    skipped: list[str],
    failures: list[Failure],
) -> None:
    name = path.name.lower()
    if not name.endswith((*LINE_SUFFIXES, *TEXT_SUFFIXES, *BYTES_SUFFIXES)):
        skipped.append(str(path))
    elif not os.path.isfile(path):  # noqa: PTH113  # a pipe would be waited on for ever; Path.is_file may raise
        failures.append(Failure(str(path), identifier, _reason(path), "Check the path."))
    elif name.endswith(LINE_SUFFIXES):
        sources.append(LineSource(str(path)))
    else:
        sources.append(FileSource(path, identifier))


def _walk(folder: Path, failures: list[Failure]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        failures.append(
            Failure(str(error.filename), None, error.strerror or str(error), "Grant read permission for the folder.")
        )

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if not is_hidden(name):
                yield Path(parent) / name


def _own_id(path: Path) -> str:
    """Return the ID of a directly named file: its path within the current folder, else its name."""
    plain = PurePosixPath(os.path.normpath(path))
    return path.name if plain.is_absolute() or ".." in plain.parts else plain.as_posix()


def _unique(sources: list[FileSource | LineSource], failures: list[Failure]) -> Iterator[FileSource | LineSource]:
    """Yield the sources, each ID once, because two files with the same ID would overwrite each other."""
    seen: dict[str, Path] = {}
    for source in sources:
        if isinstance(source, FileSource):
            first = seen.setdefault(source.document_id, source.path)
            if first is not source.path:
                if first.resolve() != source.path.resolve():
                    failures.append(
                        Failure(
                            str(source.path),
                            source.document_id,
                            f"its ID is already used by {first}",
                            "Ingest the folders separately, each with its own --prefix.",
                        )
                    )
                continue
        yield source


def _reason(path: Path) -> str:
    try:
        path.stat()
    except OSError as error:
        return error.strerror or str(error)
    return "is neither a file nor a folder"


def _read_file(source: FileSource, shape: Shape) -> Change | Failure:
    try:
        stamp, raw = read_steady(source.path)
    except OSError as error:
        return unreadable(source, shape, error)
    return change_of(source, shape, stamp.mtime_ns, raw)


def unreadable(source: FileSource, shape: Shape, error: OSError) -> Failure:
    """Return the failure of a file that is unreadable, missing or always changing."""
    identifier = shape.prefix + source.document_id
    remedy = (
        "Send it when no program is writing to it."
        if isinstance(error, Unsteady)
        else "Grant read permission for the file."
    )
    return Failure(str(source.path), identifier, error.strerror or str(error), remedy)


def change_of(source: FileSource, shape: Shape, version: int, raw: bytes) -> Change | Failure:
    """Return the upsert of a file with this content; ``version`` is used if ``shape`` has none."""
    origin = str(source.path)
    identifier = shape.prefix + source.document_id
    number = version if shape.version is None else shape.version
    item: dict[str, Any] = {"id": identifier, "op": "upsert", "version": number, "source": origin}
    if len(raw) > MOST_CONTENT_BYTES:
        return Failure(
            origin, identifier, f"is larger than {MOST_CONTENT_BYTES // 2**20} MiB", "Split it into several documents."
        )
    if origin.lower().endswith(BYTES_SUFFIXES):
        return Change({**item, "content_base64": base64.b64encode(raw).decode("ascii")}, origin)
    try:
        return Change({**item, "content": raw.decode("utf-8")}, origin)
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}"
        return Failure(origin, identifier, reason, "Save it as UTF-8.")


def _read_lines(source: LineSource, shape: Shape) -> Iterator[Change | Failure]:
    name = "standard input" if source.path == STANDARD_INPUT else source.path
    try:
        with _opened(source.path) as lines:
            for number, raw in enumerate(_lines(lines), 1):
                if raw is None or raw.strip():
                    yield _read_line(raw, f"{name}:{number}", shape)
    except (OSError, lzma.LZMAError, EOFError, zlib.error) as error:
        yield Failure(name, None, f"reading failed: {error}", "The lines before this one were sent. Check the file.")


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yield lines; None for a line that is too long, which is not kept in memory."""
    while line := file.readline(MOST_LINE_BYTES + 1):
        if len(line) <= MOST_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)
        yield None


def _opened(path: str) -> AbstractContextManager[IO[bytes]]:
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    if path.lower().endswith(".xz"):
        return lzma.open(path, "rb")
    if path.lower().endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return Path(path).open("rb")


def _read_line(raw: bytes | None, origin: str, shape: Shape) -> Change | Failure:
    remedy = 'Each line is one change event: {"op": "upsert", "id": "…", "version": 1, "content": "…"}.'
    if raw is None:
        return Failure(origin, None, f"the line is larger than {MOST_LINE_BYTES // 2**20} MiB", remedy)
    try:
        item = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Failure(origin, None, f"is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}", remedy)
    except (ValueError, RecursionError) as error:
        return Failure(origin, None, f"is not valid JSON: {error}", remedy)
    if not isinstance(item, dict):
        return Failure(origin, None, "is not a JSON object", remedy)
    if shape.prefix:
        name = "document_id" if "document_id" in item else "id"
        item[name] = f"{shape.prefix}{item.get(name, '')}"
    return Change(item, origin)
