"""Downloads files from a Maven repository with jgo. It is imported only when needed, because jgo loads slowly."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.env import EnvironmentBuilder
from jgo.maven import MavenContext, PythonResolver

from headrace_local.maven_lock import LockedFile, Request, sha256_of
from headrace_local.model import Event, OnEvent

ProgressCallback = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called by jgo for each file, with its name and size; the result counts the bytes as they arrive."""


def download(file: LockedFile, folder: Path, progress: ProgressCallback | None = None) -> Path:
    """Download one file to ``folder``; raises what jgo raises."""
    group, artifact, version = file.coordinates.split(":")
    suffix = file.file.removeprefix(f"{artifact}-{version}")
    classifier, _, packaging = suffix.removeprefix("-").partition(".")
    component = _context(folder, progress).project(group, artifact).at_version(version)
    path: Path = component.artifact(classifier, packaging).resolve()
    return path


def resolve(request: Request, folder: Path) -> list[LockedFile]:
    """Return the files that a request needs today, downloaded to ``folder``; raises what jgo raises."""
    context = _context(folder / "repository")
    if not request.transitive:
        group, name, version, classifier, packaging = request.coordinates.split(":")
        component = context.project(group, name).at_version(version)
        return [_locked(f"{group}:{name}:{version}", component.artifact(classifier, packaging).resolve())]
    environment = EnvironmentBuilder(context, cache_dir=folder).from_endpoint(request.coordinates)
    lock = tomllib.loads((environment.path / "jgo.lock.toml").read_text(encoding="utf-8"))
    coordinates = {_name(entry): ":".join(entry[key] for key in _KEYS) for entry in lock["dependencies"]}
    return [_locked(coordinates[jar.name], jar) for jar in environment.all_jars]


_KEYS = ("groupId", "artifactId", "version")


def _name(entry: dict[str, str]) -> str:
    classifier = f"-{entry['classifier']}" if entry.get("classifier") else ""
    return f"{entry['artifactId']}-{entry['version']}{classifier}.{entry['packaging']}"


def _locked(coordinates: str, path: Path) -> LockedFile:
    return LockedFile(coordinates, path.name, path.stat().st_size, sha256_of(path))


def _context(repository: Path, progress: ProgressCallback | None = None) -> MavenContext:
    """Return jgo's access to the repositories in this user's settings; files are stored in ``repository``."""
    return MavenContext(
        resolver=PythonResolver(progress_callback=progress),
        repo_cache=repository,
        remote_repos=GlobalSettings.load().repositories or None,
        timeout=60,
    )


def counter(part: str, total: int, on_event: OnEvent) -> ProgressCallback:
    """Return a progress callback for jgo that adds up all files of a part and reports each further megabyte."""
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
