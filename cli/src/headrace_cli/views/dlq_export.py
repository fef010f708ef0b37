"""Writes dead letters as JSON lines; the file appears only when complete, and only its owner may read it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO

from headrace_cli.failures import CommandError, UsageError
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import Selection
from headrace_operations.dead_letters.payload import full_document


def export(cluster: Cluster, selection: Selection, path: Path | None) -> int:
    """Write the selection to the file or stdout and return the count; raises :class:`UsageError` if the file exists."""
    if path is None:
        return _write(cluster, selection, sys.stdout)
    if path.exists():
        raise UsageError("the file already exists", where=str(path), remedy="Choose another name, or remove it.")
    partial = path.with_name(f"{path.name}.part")
    try:
        partial.unlink(missing_ok=True)  # left by a killed export, with unknown permissions
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            count = _write(cluster, selection, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
    except OSError as error:
        raise CommandError(
            f"cannot write the file: {error}", where=str(path), remedy="Check the folder and the free disk space."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def _write(cluster: Cluster, selection: Selection, stream: IO[str]) -> int:

    count = 0

    def take(found: Found) -> None:
        nonlocal count
        stream.write(json.dumps(full_document(cluster.codec, found), ensure_ascii=False) + "\n")
        count += 1

    cluster.dead_letters().read(selection, take)
    return count
