"""The folders that ``headrace ingest --watch`` follows, as they are on the disk: which documents, in which state."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from headrace_cli.failures import CommandError, UsageError
from headrace_cli.ingest import sources
from headrace_cli.ingest.sources import Failure, FileSource, LineSource, Stamp

_GONE = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Root:
    """A folder as named, its absolute path, and the identity that the folder had at the start."""

    given: Path
    places: tuple[Path, ...]
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Everything:
    """The contents of the folders: document IDs, skipped files with the reason, and unreadable files."""

    ids: frozenset[str]
    skipped: Mapping[str, str]
    failures: tuple[Failure, ...]


class Folders:
    """The documents in some folders, by ID: the path within the folder; of two equal IDs, the first folder's counts.

    Raises :class:`UsageError` for anything that is not a folder.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self._given = tuple(given)
        self._roots = tuple(_root(name) for name in given)

    @property
    def watched(self) -> tuple[str, ...]:
        """Return the absolute paths of the folders."""
        return tuple(str(root.places[0]) for root in self._roots)

    def check(self) -> None:
        """Raise :class:`CommandError` if a folder was replaced or is gone; nothing in it counts as deleted."""
        for root in self._roots:
            try:
                identity = _identity(root.places[0])
            except OSError as error:
                reason = error.strerror or str(error)
            else:
                if identity == root.identity:
                    continue
                reason = "another folder replaced it"
            raise CommandError(
                f"cannot watch the folder any longer: {reason}",
                where=str(root.given),
                remedy="No documents were deleted. Restore the folder and start again; "
                "`headrace delete` removes documents from the index.",
            )

    def everything(self) -> Everything:
        """Scan all folders."""
        found = sources.find(self._given)
        skipped = dict.fromkeys(found.skipped, "unsupported file type")
        for source in found.sources:
            if isinstance(source, LineSource):
                skipped[source.path] = "JSON lines are not watched; send them once with `headrace ingest`"
        ids = frozenset(source.document_id for source in found.sources if isinstance(source, FileSource))
        return Everything(ids, skipped, found.failures)

    def touched(self, paths: Iterable[str], ids: Collection[str]) -> set[str]:
        """Return the documents that events on these paths may concern; ``ids`` are the known documents."""
        found: set[str] = set()
        above: set[str] = set()
        for path in map(Path, paths):
            for below in self._below(path):
                if any(sources.is_hidden(part) for part in below.parts):
                    continue
                if sources.is_document(below.as_posix()):
                    found.add(below.as_posix())
                else:
                    above.add(below.as_posix())
                found |= _documents(path, below)
        return found | beneath(ids, above)

    def look(self, ids: Iterable[str]) -> dict[str, Stamp | None]:
        """Return the state of each document, None for a missing one; unreadable ones are left out."""
        looked: dict[str, Stamp | None] = {}
        for identifier in ids:
            try:
                found = self._find(identifier)
            except OSError:
                continue
            looked[identifier] = None if found is None else found[1]
        return looked

    def source(self, identifier: str) -> FileSource | None:
        """Return the file of a document, or None if there is none."""
        try:
            found = self._find(identifier)
        except OSError:
            return None
        return None if found is None else FileSource(found[0], identifier)

    def _below(self, path: Path) -> Iterable[PurePath]:
        for root in self._roots:
            place = next((place for place in root.places if path.is_relative_to(place)), None)
            if place is not None:
                yield path.relative_to(place)

    def _find(self, identifier: str) -> tuple[Path, Stamp] | None:
        for root in self._roots:
            path = root.given / identifier
            try:
                facts = path.stat()
            except _GONE:
                continue
            if stat.S_ISREG(facts.st_mode) and not _through_link(root.given, identifier):
                return path, sources.stamp_of(facts)._replace(readable=os.access(path, os.R_OK))
        return None


def beneath(ids: Iterable[str], folders: Collection[str]) -> set[str]:
    """Return the IDs within one of the folders; ``.`` contains all."""
    if "." in folders:
        return set(ids)
    if not folders:
        return set()
    return {one for one in ids if any(parent.as_posix() in folders for parent in PurePath(one).parents)}


def _root(given: str) -> Root:
    path = Path(given)
    try:
        if not path.is_dir():
            raise UsageError(
                f"{given!r} is not a folder; --watch follows folders only",
                where=given,
                remedy="Pass the folder that contains it.",
            )
        place = Path(os.path.abspath(path))  # noqa: PTH100  # links stay as they are named
        return Root(path, tuple(dict.fromkeys((place, path.resolve()))), _identity(place))
    except OSError as error:
        raise UsageError(f"cannot watch {given!r}: {error.strerror or error}", where=given) from error


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    if not stat.S_ISDIR(facts.st_mode):
        raise NotADirectoryError(0, "it is no longer a folder", str(path))
    return facts.st_dev, facts.st_ino


def _documents(folder: Path, below: PurePath) -> set[str]:
    """Return the IDs of the documents in a new folder; empty if it is not a folder."""
    found: set[str] = set()
    if os.path.islink(folder) and below.parts:  # noqa: PTH114  # Path.is_symlink may raise
        return found
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not sources.is_hidden(name)]
        here = below / PurePath(parent).relative_to(folder)
        found |= {identifier for name in files if sources.is_document(identifier := (here / name).as_posix())}
    return found


def _through_link(root: Path, identifier: str) -> bool:
    """Whether a linked folder is part of the path; those are not followed."""
    return any((root / parent).is_symlink() for parent in PurePath(identifier).parents if parent.parts)
