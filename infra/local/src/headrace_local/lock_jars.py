"""``python -m headrace_local.lock_jars`` resolves and downloads what the local stack needs, and writes the lock."""

from __future__ import annotations

import tempfile
from pathlib import Path

from headrace_local import maven
from headrace_local.artifacts import REQUESTS
from headrace_local.maven_lock import LOCK, written


def main() -> None:
    """Write ``maven.lock`` from freshly downloaded files, never from a cache."""
    with tempfile.TemporaryDirectory() as folder:
        parts = {part: (request, maven.resolve(request, Path(folder) / part)) for part, request in REQUESTS.items()}
    LOCK.write_text(written(parts), encoding="utf-8")
    for part, (_, files) in parts.items():
        print(f"{part}: {len(files)} files, {sum(file.size for file in files):,} bytes")


if __name__ == "__main__":
    main()
