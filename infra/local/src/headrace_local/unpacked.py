"""Unpacks archives, and refuses an unpacked folder that was changed afterwards."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from headrace_local.model import StackError


def is_unpacked(home: Path, sha256: str) -> bool:
    """Return whether ``home`` contains the archive with this digest, file by file.

    Raises :class:`StackError` if a file was changed, added or removed since.
    """
    record = _record(home)
    if not home.exists() or not record.exists():
        return False
    known = json.loads(record.read_text(encoding="utf-8"))
    if known["sha256"] != sha256:
        return False
    found = _files(home)
    if found != known["files"]:
        names = sorted(name for name in {*found, *known["files"]} if found.get(name) != known["files"].get(name))
        raise StackError(
            f"{len(names)} unpacked files differ from the archive; the first is {names[0]}: "
            f"expected {_told(known['files'].get(names[0]))}, found {_told(found.get(names[0]))}",
            where=str(home),
            remedy="Delete the folder and start the stack again, which unpacks the archive again.",
        )
    return True


def unpack(archive: Path, sha256: str, home: Path) -> None:
    """Unpack next to ``home`` first, so that ``home`` is complete or missing."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archive) as tar:
            # Python before 3.11.4 has no filters; the archive is then unpacked as it is; its digest was checked.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
            tar.extractall(unpacked)  # noqa: S202
        record = Path(folder) / "record"
        record.write_text(json.dumps({"sha256": sha256, "files": _files(unpacked)}), encoding="utf-8")
        shutil.rmtree(home, ignore_errors=True)
        unpacked.rename(home)
        record.rename(_record(home))


def _record(home: Path) -> Path:
    return home.with_name(f"{home.name}.json")


def _files(folder: Path) -> dict[str, list[int]]:
    """Return each file's size and modification time."""
    return {
        path.relative_to(folder).as_posix(): [path.lstat().st_size, path.lstat().st_mtime_ns]
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def _told(status: list[int] | None) -> str:
    return "no such file" if status is None else f"{status[0]} bytes changed at {status[1]} ns"
