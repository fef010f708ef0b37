"""What a user provides: a distribution with a handler, and a pipeline that runs it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from headrace.pipeline import Review, StageBinding, Template
from headrace.topology.stages import CHUNKER, EMBEDDER, INDEXER, INGEST


def stream(identity: str, chunker: Sequence[str] = ("sections",), *, review: Review = Review.NONE) -> Template:
    """Return a pipeline of the four stages with these handlers, and optionally a review, in the chunker."""
    return Template(
        identity, "",
        (
            StageBinding(INGEST.name, ("change-event",)), StageBinding(CHUNKER.name, tuple(chunker), review=review),
            StageBinding(EMBEDDER.name, ("embed",)), StageBinding(INDEXER.name, ("index",)),
        ),
    )  # fmt: skip


def install(folder: Path, name: str, handler: str, code: str) -> Path:
    """Write the distribution ``name`` with the chunker's handler class ``handler`` to a folder, as an installer does.

    The entry point has the class's name in lower case. Returns the folder, for PYTHONPATH.
    """
    module = f"{name}_headrace"
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-headrace\nVersion: 1.0\n")
    entry = f"{CHUNKER.name}.{handler.lower()} = {module}:{handler}"
    (metadata / "entry_points.txt").write_text(f"[headrace.handlers]\n{entry}\n")
    return folder
