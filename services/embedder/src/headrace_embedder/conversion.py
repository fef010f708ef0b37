"""Converts models that cannot be built from their weights: torch converts them once, and OpenVINO runs the result.

The conversion runs in a separate process, so that the service never loads torch. That process also compares the result
with torch in float32.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog

from headrace_embedder.agreement import LEAST_COSINE, PROBES, least_cosine
from headrace_embedder.model_folder import NotConverted
from headrace_embedder.runnable import FACTS, INPUTS, Facts, Runnable, compiled, runner, save
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.torch_model import encoder, load_model, tokenizer_of

log = structlog.get_logger(__name__)

_FORMAT = "2"
"""Part of the folder's name; increment it when the folder's content changes."""
_CONVERTER = ("-m", "headrace_embedder.conversion")
_CONVERT_S = 1800.0
_LEFT_OVER_S = 24 * 3600.0
"""Age of an unfinished conversion that no process can still be working on."""
_PREFIX = ".converting-"
_LAST_LINES = 5


def converted(source: Path, settings: EmbedderSettings) -> Path:
    """Return the folder of the converted model, and convert it on the first call; raises :class:`NotConverted`."""
    name = f"{source.name}-{_identity(source)}"
    try:
        home = settings.models_folder / name
        if (home / FACTS).exists():
            return home
        home.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(home.parent)
        partial = Path(tempfile.mkdtemp(dir=home.parent, prefix=_PREFIX))
    except OSError as error:  # no home or not writable: convert at each start
        log.warning(
            "cannot store the converted model; every start will convert it", error=str(error),
            setting="HEADRACE_EMBEDDER_CACHE_DIR",
        )  # fmt: skip
        partial = home = Path(tempfile.mkdtemp(prefix="headrace-model-"))
    log.info("converting the model", model=settings.model, folder=str(home))
    try:
        _run_converter(source, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if partial != home:
        try:
            partial.rename(home)
        except OSError:  # another process converted it first
            shutil.rmtree(partial, ignore_errors=True)
    return home


def _run_converter(source: Path, target: Path) -> None:
    """Convert the model in another process; raises :class:`NotConverted` if it fails or takes too long."""
    try:
        done = subprocess.run(
            [sys.executable, *_CONVERTER, str(source), str(target)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_CONVERT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotConverted(
            f"the conversion was stopped because it took longer than {_CONVERT_S:g} s. Convert the model once with "
            "`headrace-embedder-convert`, which has no time limit, and set HEADRACE_EMBEDDER_MODEL to its folder"
        ) from error
    if done.returncode != 0:
        raise NotConverted(" ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])[-1000:])


def _remove_left_over(folder: Path) -> None:
    """Remove what conversions left that were killed; those that may still run stay."""
    for partial in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another process may remove it at the same time
            if time.time() - partial.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(partial)
                log.info("removed an unfinished conversion", folder=str(partial))


def _identity(source: Path) -> str:
    """Return a digest of the model's files and of the converter's version."""
    import openvino  # noqa: PLC0415

    hasher = hashlib.blake2b(f"{_FORMAT} {openvino.__version__}".encode(), digest_size=8)
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        hasher.update(str(file.relative_to(source)).encode())
        with file.open("rb") as content:
            while part := content.read(1 << 20):
                hasher.update(part)
    return hasher.hexdigest()


def convert(source: Path, target: Path) -> None:
    """Write the model, its tokenizer and its facts into ``target``.

    Raises :class:`NotConverted` if the model has no fast tokenizer or no token limit, or if the result disagrees with
    torch.
    """
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415

    model = load_model(str(source), "cpu").float()
    tokenizer = tokenizer_of(model)
    if tokenizer is None or not model.max_seq_length:
        raise NotConverted("the model has no fast tokenizer or no token limit")

    class Sentences(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
        """Turns tokens into sentence vectors, without the dictionaries around them."""

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return model(dict(zip(names, tensors, strict=True)))["sentence_embedding"]

    example = {name: value for name, value in model.preprocess(list(PROBES)).items() if name in INPUTS}
    names = list(example)
    wrapped = Sentences()
    wrapped.model = model
    with torch.inference_mode():
        graph = openvino.convert_model(wrapped.eval(), example_input=tuple(example.values()))
    for one, name in zip(graph.inputs, names, strict=True):
        one.get_tensor().set_names({name})
    facts = Facts(int(model.max_seq_length), int(model.tokenizer.pad_token_id))
    ours = runner(compiled(openvino.Core(), graph, "f32"), Runnable(graph, tokenizer, facts))
    cosine = least_cosine(np.asarray(encoder(model)(list(PROBES))), ours(list(PROBES)))
    if cosine < LEAST_COSINE:
        raise NotConverted(
            f"OpenVINO's vectors differ too much from torch's: cosine {cosine:.6f}, required {LEAST_COSINE}"
        )
    save(Runnable(graph, tokenizer, Facts(facts.limit, facts.pad_id, cosine)), target)


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # noqa: BLE001  # the parent process reads the last lines of stderr
        sys.exit(f"{type(error).__name__}: {error}")
