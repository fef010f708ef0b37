"""The OpenVINO backend: it runs the model on a CPU, without torch.

A BERT-family model is built from its weights at each start (:mod:`headrace_embedder.bert_graph`), which takes less time
than reading a converted model. Other models are read from the folder of :mod:`headrace_embedder.conversion`, which
requires torch once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from headrace_embedder.agreement import LEAST_COSINE, PROBES, fast_bfloat16, least_cosine
from headrace_embedder.conversion import converted
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_folder import FILES, NotConverted
from headrace_embedder.model_folder import read as read_folder
from headrace_embedder.runnable import FACTS, Facts, Runnable, compiled, runner, saved, streams_of
from headrace_embedder.settings import E5_FILE, EmbedderSettings, model_path
from headrace_embedder.torch_model import installed, too_far

if TYPE_CHECKING:
    import openvino

log = structlog.get_logger(__name__)

CAPS = Caps(32, 1024)


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model, built or converted.

    Raises :class:`NotConverted`, and :class:`headrace.errors.ConfigurationError` if bfloat16 is configured and
    disagrees with float32.
    """
    import openvino  # noqa: PLC0415

    core = openvino.Core()
    model = runnable(core, settings)
    chosen = compiled(core, model.graph, "f32", settings.threads, settings.streams)
    exact = runner(chosen, model)
    encode, precision, cosine = exact, "float32", model.facts.cosine
    if settings.precision == "bfloat16" or (settings.precision == "auto" and fast_bfloat16()):
        shorter = compiled(core, model.graph, "bf16", settings.threads, settings.streams)
        brief = runner(shorter, model)
        least = least_cosine(exact(list(PROBES)), brief(list(PROBES)))
        log.info("bfloat16 compared to float32", least_cosine=round(least, 6), needed=LEAST_COSINE)
        if least >= LEAST_COSINE:
            chosen, encode, precision = shorter, brief, "bfloat16"
            cosine = least if cosine is None else min(least, cosine)
        elif settings.precision == "bfloat16":
            raise too_far(least)
    details: dict[str, object] = {
        "backend": "openvino", "device": "cpu", "precision": precision,
        "threads": settings.threads or len(os.sched_getaffinity(0)), "streams": streams_of(chosen),
    }  # fmt: skip
    if cosine is not None:
        details["least_cosine"] = round(cosine, 6)
    limit = model.facts.limit
    return Loaded(encode, TokenCounter.of(model.tokenizer, limit), CAPS, limit, details, streams_of(chosen))


def runnable(core: openvino.Core, settings: EmbedderSettings) -> Runnable:
    """Return the configured model: converted earlier, else built here, else converted now.

    Raises :class:`NotConverted`.
    """
    if (Path(settings.model) / FACTS).is_file():
        return saved(core, Path(settings.model))
    model = model_path(settings.model)
    try:
        return built(fetched(model, FILES))
    except NotConverted as error:
        if not installed():
            raise NotConverted(f"{error}; torch, which converts other models, is not installed") from error
        log.info("cannot build the model from its weights; torch converts it", model=settings.model, reason=str(error))
    return saved(core, converted(fetched(model), settings))


def built(source: Path) -> Runnable:
    """Build the model from the weights in a folder, or in the file of the packaged multilingual-e5-small.

    Raises :class:`NotConverted` for other architectures, and :class:`headrace.errors.ConfigurationError` for a damaged
    file.
    """
    from headrace_embedder.bert_graph import WORDS, build  # noqa: PLC0415
    from headrace_embedder.weights import Weights  # noqa: PLC0415

    if source.name == E5_FILE:
        return _built_e5(source)
    folder = read_folder(source)
    weights = Weights(folder.weights, WORDS)
    graph = build(folder.config, weights, folder.pooling, normalised=folder.normalised)
    return Runnable(graph, folder.tokenizer, Facts(folder.limit, folder.config.pad_token_id))


def _built_e5(file: Path) -> Runnable:
    """Build the packaged multilingual-e5-small; raises :class:`headrace.errors.ConfigurationError`."""
    from headrace_embedder.bert_graph import build  # noqa: PLC0415
    from headrace_embedder.packaged_e5 import read as read_e5  # noqa: PLC0415
    from headrace_embedder.unigram import tokenizer_json  # noqa: PLC0415

    model = read_e5(file)
    graph = build(model.config, model.weights, "mean", normalised=True)
    facts = Facts(model.config.positions, model.vocabulary.pad)
    return Runnable(graph, tokenizer_json(model.vocabulary), facts)


def fetched(model: str, files: Sequence[str] | None = None) -> Path:
    """Return the model's folder or file; for a name, download the files that match the patterns, or all files.

    Raises :class:`NotConverted`.
    """
    if Path(model).is_dir() or Path(model).name == E5_FILE:
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model, allow_patterns=None if files is None else list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise NotConverted(f"cannot download {model}: {error}") from error
