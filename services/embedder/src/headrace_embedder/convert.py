"""The command ``headrace-embedder-convert``: converts a model to OpenVINO, for machines and images without torch."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from headrace.embeddings.models import identity
from headrace.errors import ConfigurationError
from headrace_embedder.conversion import convert
from headrace_embedder.model_folder import FILES, NotConverted
from headrace_embedder.openvino_model import built, fetched
from headrace_embedder.runnable import save
from headrace_embedder.settings import model_path
from headrace_embedder.torch_model import installed


def converted_to(model: str, folder: Path) -> None:
    """Write the model in OpenVINO's format, its tokenizer and its facts to a new folder, completely or not at all.

    Raises :class:`NotConverted`, and :class:`ConfigurationError` if the folder exists or its name differs from the
    model's, which would change the model's identity in the index.
    """
    if folder.exists():
        raise ConfigurationError(
            f"{folder} already exists", where="FOLDER", remedy="Choose a new folder, or remove it."
        )
    if folder.name != identity(model):
        raise ConfigurationError(
            f"wrong folder name {folder.name!r}: it must be the model's identity in the index, {identity(model)!r}",
            where="FOLDER", remedy=f"Use {folder.parent / identity(model)}.",
        )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        _write(model_path(model), partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(model: str, partial: Path) -> None:
    """Write the model; build it from its weights if its architecture allows that, else convert it with torch."""
    try:
        save(built(fetched(model, FILES)), partial)
    except NotConverted as error:
        if not installed():
            raise NotConverted(f"{error}. Install headrace-embedder[torch] to convert other models.") from error
        convert(fetched(model), partial)


def main() -> int:
    """Convert; on failure, print the reason and return 1."""
    parser = argparse.ArgumentParser(prog="headrace-embedder-convert", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="name or folder of a sentence-transformers model")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder; its name must be the model's name")
    given = parser.parse_args()
    try:
        converted_to(given.model, given.folder)
    except (ConfigurationError, NotConverted, OSError) as error:
        print(f"conversion failed: {error}", file=sys.stderr)
        return 1
    print(f"HEADRACE_EMBEDDER_MODEL={given.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
