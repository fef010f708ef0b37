"""The command ``headrace-embedder-convert``: a model made ready once, for machines and images without torch."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from headrace.embeddings.models import identity
from headrace.errors import ConfigurationError
from headrace_embedder.openvino_model import NotConverted, convert, fetched
from headrace_embedder.settings import model_path


def converted_to(model: str, folder: Path) -> None:
    """Write the model in OpenVINO's form, its tokenizer and its facts into a new folder, whole or not at all.

    Raises :class:`ConfigurationError` where the folder is there already or has another name than the model, whose
    identity in the index it would change, and :class:`NotConverted`.
    """
    if folder.exists():
        raise ConfigurationError(f"{folder} is there already", where="FOLDER", remedy="Name a new one, or remove it.")
    if folder.name != identity(model):
        raise ConfigurationError(
            f"a folder's name is its model's identity in the index, and {folder.name!r} is not {identity(model)!r}",
            where="FOLDER", remedy=f"Name it {folder.parent / identity(model)}.",
        )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        convert(fetched(model_path(model)), partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def main() -> int:
    """Convert; the exit code is 1 where that fails, with the reason."""
    parser = argparse.ArgumentParser(prog="headrace-embedder-convert", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="name or folder of a model of sentence-transformers")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="new folder, named as the model")
    given = parser.parse_args()
    try:
        converted_to(given.model, given.folder)
    except ImportError as error:
        print(f"not converted: {error}. Install headrace-embedder[torch].", file=sys.stderr)
        return 1
    except (ConfigurationError, NotConverted, OSError) as error:
        print(f"not converted: {error}", file=sys.stderr)
        return 1
    print(f"HEADRACE_EMBEDDER_MODEL={given.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
