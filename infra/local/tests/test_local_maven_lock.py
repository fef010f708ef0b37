"""Files from Maven's repository are those that the lock names, or they are not used."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from headrace_local import artifacts, maven, maven_lock, unpacked
from headrace_local.maven_lock import LOCK, LockedFile, Request, VerifiedFiles, locked, written
from headrace_local.model import Event, StackError

pytestmark = pytest.mark.unit

REQUEST = Request("g.h:a:1")
CONTENT = b"a jar"


def _entry(content: bytes = CONTENT, file: str = "a-1.jar") -> LockedFile:
    return LockedFile("g.h:a:1", file, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What the repository serves, by file name; the lock names one file of it, and the cache is empty."""
    files = {"a-1.jar": CONTENT}

    def download(file: LockedFile, folder: Path, progress: maven.ProgressCallback | None = None) -> Path:
        if file.file not in files:
            raise ConnectionError("no network")
        path = folder / file.file
        path.write_bytes(files[file.file])
        return path

    lock = tmp_path / "maven.lock"
    lock.write_text(written({"kafka": (REQUEST, [_entry()])}), encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(maven, "download", download)
    monkeypatch.setattr(artifacts, "REQUESTS", {"kafka": REQUEST})
    monkeypatch.setattr(artifacts, "locked", lambda part, request: locked(part, request, lock))
    return files


def _kafka() -> list[Path]:
    return artifacts.kafka_jars(lambda _: None)


def test_the_lock_names_every_file_that_the_code_asks_for() -> None:
    """A version was changed without `make lock-jars`, and every start would be refused."""
    counts = {part: len(locked(part, request)) for part, request in artifacts.REQUESTS.items()}
    assert (counts["debezium"], counts["registry"], counts["s3proxy"]) == (1, 1, 1)
    assert min(counts["kafka"], counts["connect"]) > 40
    assert set(maven_lock._parts(LOCK)) == set(artifacts.REQUESTS)


def test_the_lock_names_no_place_to_fetch_from() -> None:
    """A company with a mirror would have to change the lock, and could no longer compare it with ours."""
    text = LOCK.read_text(encoding="utf-8")
    assert "//" not in text
    parts = {part: (request, locked(part, request)) for part, request in artifacts.REQUESTS.items()}
    assert written(parts) == text
    for _, files in parts.values():
        for file in files:
            _, artifact, version = file.coordinates.split(":")
            assert re.fullmatch(r"(-[\w-]+)?\.(jar|tar\.gz)", file.file.removeprefix(f"{artifact}-{version}"))


def test_a_file_is_fetched_once(served: dict[str, bytes]) -> None:
    """Every start would need the network."""
    (path,) = _kafka()
    assert path.read_bytes() == CONTENT
    served.clear()
    assert _kafka() == [path]


def test_what_a_repository_serves_in_place_of_a_file_is_refused(served: dict[str, bytes]) -> None:
    """A repository or a mirror that was broken into would run its code on every developer's machine."""
    served["a-1.jar"] = b"a bad"
    with pytest.raises(
        StackError, match=r"a-1\.jar differs from the lock .*expected SHA-256 \w{64}, found \w{64}"
    ) as caught:
        _kafka()
    assert hashlib.sha256(b"a bad").hexdigest() in str(caught.value)
    assert "mirror" in str(caught.value)
    served["a-1.jar"] = CONTENT
    assert _kafka()[0].read_bytes() == CONTENT


def test_a_file_changed_on_disk_is_refused(served: dict[str, bytes]) -> None:
    """A file that was changed after it was fetched would be run."""
    (path,) = _kafka()
    before = path.stat()
    path.write_bytes(b"a bad")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(StackError, match=r"expected SHA-256 .*Delete the file and start again"):
        _kafka()
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(StackError, match="expected 5 bytes, found 6"):
        _kafka()
    path.unlink()
    assert _kafka() == [path]


def test_a_verified_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start would read 300 MB to compare them; and a new digest in the lock must be compared."""
    path = tmp_path / "a-1.jar"
    path.write_bytes(CONTENT)
    verified = VerifiedFiles(tmp_path / "verified.json")
    verified.check(_entry(), path)
    verified.save()
    read: list[Path] = []

    def sha256_of(path: Path) -> str:
        read.append(path)
        return ""

    monkeypatch.setattr(maven_lock, "sha256_of", sha256_of)
    VerifiedFiles(tmp_path / "verified.json").check(_entry(), path)
    assert read == []
    with pytest.raises(StackError):
        VerifiedFiles(tmp_path / "verified.json").check(_entry(b"other"), path)
    assert read == [path]


def test_a_damaged_record_of_comparisons_is_made_again(served: dict[str, bytes]) -> None:
    """A full disk would leave a record that makes every later start fail."""
    (path,) = _kafka()
    (artifacts.cache_dir() / "verified.json").write_text("[")
    assert _kafka() == [path]


def test_a_part_that_the_lock_does_not_name_is_refused(served: dict[str, bytes]) -> None:
    """A part could be added, or its version changed, without a digest."""
    lock = artifacts.cache_dir().parent.parent / "maven.lock"
    with pytest.raises(StackError, match=r"no entry for 'connect'.*make lock-jars"):
        locked("connect", REQUEST, lock)
    with pytest.raises(StackError, match=r"written for 'g\.h:a:1', but 'g\.h:a:2' is needed.*make lock-jars"):
        locked("kafka", Request("g.h:a:2"), lock)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('sha256 = "', 'sha256 = "x'),
        ("size = 5", "size = 0"),
        ("size = 5, ", ""),
        ('file = "a-1.jar"', 'file = "../a-1.jar"'),
        ('coordinates = "g.h:a:1"', 'coordinates = "g.h:../a:1"'),
        ("files = [", "files = ["[:-1]),
        ('    { coordinates = "g.h:a:1", ', '    # { coordinates = "g.h:a:1", '),
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, old: str, new: str) -> None:
    """A slip of the hand in the lock would switch the comparison off, or write outside the cache."""
    lock = tmp_path / "maven.lock"
    text = written({"kafka": (REQUEST, [_entry()])})
    assert text.count(old) == 1
    lock.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(StackError, match="make lock-jars"):
        locked("kafka", REQUEST, lock)


def test_downloads_add_up_over_all_files_of_a_part() -> None:
    """The bar would start again with each of Kafka's 46 files."""
    events: list[Event] = []
    callback = maven.counter("kafka", 4_000_000, events.append)
    for name in ("a.jar", "b.jar"):
        with callback(name, 3_000_000) as count:
            for _ in range(3):
                count(1_000_000)
    assert [event.done for event in events] == [number * 1_000_000 for number in range(1, 7)]
    assert (events[0].total, events[-1].total) == (4_000_000, 6_000_000)
    assert events[-1].detail == "b.jar"


def test_a_download_cut_short_is_fetched_again(served: dict[str, bytes]) -> None:
    """Half a file, left by a killed start, would be taken for whole, and every later start would fail."""
    half = artifacts.cache_dir() / "unfinished" / "killed" / "a-1.jar"
    half.parent.mkdir(parents=True)
    half.write_bytes(CONTENT[:2])
    (path,) = _kafka()
    assert path.read_bytes() == CONTENT
    assert not half.exists()


def test_what_cannot_be_fetched_is_named_with_what_to_do(served: dict[str, bytes]) -> None:
    """A user without network would see the fetching library's stack trace."""
    served.clear()
    with pytest.raises(StackError, match=r"cannot fetch kafka: ConnectionError: no network .*jgo\.conf"):
        _kafka()


def _archive(path: Path) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for name in ("plugin/a.jar", "plugin/b.jar"):
            member = tarfile.TarInfo(name)
            member.size = len(CONTENT)
            tar.addfile(member, io.BytesIO(CONTENT))
    return maven_lock.sha256_of(path)


@pytest.mark.parametrize("change", ["tampered", "added", "removed"])
def test_a_changed_unpacked_folder_is_refused(tmp_path: Path, change: str) -> None:
    """A jar put into the folder of plugins would be loaded by Kafka Connect; a changed one would be run."""
    archive, home = tmp_path / "plugin.tar.gz", tmp_path / "home"
    sha256 = _archive(archive)
    unpacked.unpack(archive, sha256, home)
    assert unpacked.is_unpacked(home, sha256)
    if change == "tampered":
        (home / "plugin" / "b.jar").write_bytes(b"a bad jar")
    elif change == "added":
        (home / "plugin" / "c.jar").write_bytes(CONTENT)
    else:
        (home / "plugin" / "b.jar").unlink()
    with pytest.raises(StackError, match=r"differ from the archive, plugin/[bc]\.jar.*Delete the folder"):
        unpacked.is_unpacked(home, sha256)


def test_another_archive_of_the_same_name_is_unpacked_again(tmp_path: Path) -> None:
    """A corrected archive would never be unpacked, and what the old one alone held would stay."""
    archive, home = tmp_path / "plugin.tar.gz", tmp_path / "home"
    unpacked.unpack(archive, _archive(archive), home)
    (home / "old.jar").touch()
    assert not unpacked.is_unpacked(home, "0" * 64)
    unpacked.unpack(archive, "0" * 64, home)
    assert unpacked.is_unpacked(home, "0" * 64)
    assert not (home / "old.jar").exists()


def test_an_archive_that_cannot_be_unpacked_leaves_nothing(tmp_path: Path) -> None:
    """Half a folder would be taken for a whole one."""
    archive = tmp_path / "registry.tar.gz"
    archive.write_bytes(b"no archive")
    with pytest.raises(tarfile.TarError):
        unpacked.unpack(archive, "0" * 64, tmp_path / "home")
    assert list(tmp_path.iterdir()) == [archive]
