"""The files from the Maven repository that the local stack runs, each with its size and SHA-256.

``make lock-jars`` writes ``maven.lock``. Only files in the lock are downloaded, and a file that differs is never used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from headrace_local.model import StackError

LOCK = Path(__file__).with_name("maven.lock")
_LOCK_AGAIN = "Run `make lock-jars`, review the changes, and commit the lock."
_COORDINATES = re.compile(r"[\w.-]+:[\w.-]+:[\w.-]+")
_FILE = re.compile(r"[\w.-]+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Request:
    """What a part of the stack needs: Maven coordinates joined by ``+``; ``transitive`` includes their dependencies."""

    coordinates: str
    transitive: bool = True


@dataclass(frozen=True, slots=True)
class LockedFile:
    """One file: ``coordinates`` are ``group:artifact:version``, ``size`` is in bytes."""

    coordinates: str
    file: str
    size: int
    sha256: str

    @property
    def path(self) -> PurePosixPath:
        """Return the file's path within a Maven repository."""
        group, artifact, version = self.coordinates.split(":")
        return PurePosixPath(*group.split("."), artifact, version, self.file)


def locked(part: str, request: Request, lock: Path = LOCK) -> list[LockedFile]:
    """Return a part's files in the order of its class path.

    Raises :class:`StackError` if the lock is damaged, or was written for another request.
    """
    entry = _parts(lock).get(part)
    if entry is None:
        raise StackError(f"the lock has no entry for {part!r}", where=str(lock), remedy=_LOCK_AGAIN)
    if entry.get("request") != request.coordinates:
        raise StackError(
            f"the lock entry for {part!r} was written for {entry.get('request')!r}, not {request.coordinates!r}",
            where=str(lock),
            remedy=_LOCK_AGAIN,
        )
    files = [_file(part, fields, lock) for fields in entry.get("files", ())]
    if not files:
        raise StackError(f"the lock entry for {part!r} has no files", where=str(lock), remedy=_LOCK_AGAIN)
    return files


def _parts(lock: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        return tomllib.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackError(f"cannot read the lock: {error}", where=str(lock), remedy=_LOCK_AGAIN) from error


def _file(part: str, fields: Mapping[str, Any], lock: Path) -> LockedFile:
    coordinates, file, size, sha256 = (fields.get(name) for name in ("coordinates", "file", "size", "sha256"))
    if (
        not (isinstance(coordinates, str) and _COORDINATES.fullmatch(coordinates))
        or not (isinstance(file, str) and _FILE.fullmatch(file))
        or not (isinstance(size, int) and size > 0)
        or not (isinstance(sha256, str) and _SHA256.fullmatch(sha256))
    ):
        raise StackError(f"the lock entry for {part!r} is damaged: {fields}", where=str(lock), remedy=_LOCK_AGAIN)
    return LockedFile(coordinates, file, size, sha256)


def written(parts: Mapping[str, tuple[Request, list[LockedFile]]]) -> str:
    """Return the text of a lock."""
    lines = ["# Written by `make lock-jars`; do not edit. The order of the files is the order of the class path."]
    for part, (request, files) in parts.items():
        lines += ["", f"[{part}]", f'request = "{request.coordinates}"', "files = ["]
        lines += [
            f'    {{ coordinates = "{file.coordinates}", file = "{file.file}", size = {file.size}, '
            f'sha256 = "{file.sha256}" }},'
            for file in files
        ]
        lines.append("]")
    return "\n".join(lines) + "\n"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(file: LockedFile, path: Path) -> str:
    """Return how the file at ``path`` differs from the lock; empty if it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"expected {file.size} bytes, found {size}"
    found = sha256_of(path)
    return "" if found == file.sha256 else f"expected SHA-256 {file.sha256}, found {found}"


class VerifiedFiles:
    """Remembers which files were checked against the lock, so that a start does not read 400 MB again.

    A file is checked again as soon as its size, its modification time or the lock's digest changes.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known = _known(record)
        self._changed = False

    def check(self, file: LockedFile, path: Path) -> None:
        """Raise :class:`StackError` if the file at ``path`` is not the one that the lock names."""
        status = path.stat()
        stamp: list[int | str] = [status.st_size, status.st_mtime_ns, file.sha256]
        if self._known.get(str(path)) == stamp:
            return
        problem = difference(file, path)
        if problem:
            raise StackError(
                f"{file.file} differs from the lock: {problem}",
                where=str(path),
                remedy="Delete the file and start again to fetch it again. If it still differs, do not use it, "
                "and find out who changed it.",
            )
        self._known[str(path)] = stamp
        self._changed = True

    def save(self) -> None:
        """Store which files were checked since the last call."""
        if not self._changed:
            return
        unfinished = self._record.with_name(f"{self._record.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        unfinished.replace(self._record)
        self._changed = False


def _known(record: Path) -> dict[str, list[int | str]]:
    """Return the earlier checks; if the file cannot be read, none, so all files are checked again."""
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
