"""The model in OpenVINO, on a processor and without torch.

A model of the BERT family is built from its weights at each start (:mod:`headrace_embedder.bert_graph`), in less than
the time that reading a converted one takes. Others are read from the folder of
:mod:`headrace_embedder.conversion`, which needs torch once.
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from tokenizers import Tokenizer

from headrace_embedder.agreement import LEAST_COSINE, PROBES, fast_bfloat16, least_cosine
from headrace_embedder.batching import Encode
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.model_folder import FILES, NotConverted
from headrace_embedder.model_folder import read as read_folder
from headrace_embedder.provider import Vectors
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.torch_model import installed, too_far

if TYPE_CHECKING:
    import openvino

log = structlog.get_logger(__name__)

CAPS = Caps(32, 1024)
FACTS = "facts.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PAD_TO = 8
"""Texts are padded to a multiple of so many tokens: OpenVINO keeps what it compiled for each shape, so that all lengths
would cost memory and time; measured, the padding itself costs nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The most tokens of a text, the id that fills shorter rows, and the least cosine to torch, if it was compared."""

    limit: int
    pad_id: int
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Runnable:
    """A graph that is not compiled yet, the tokenizer in JSON, and what is to be known of the model."""

    graph: openvino.Model
    tokenizer: str
    facts: Facts


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model, built or converted.

    Raises :class:`NotConverted`, and :class:`headrace.errors.ConfigurationError` where bfloat16 is asked for and
    disagrees.
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
        "threads": settings.threads or len(os.sched_getaffinity(0)), "streams": _streams(chosen),
    }  # fmt: skip
    if cosine is not None:
        details["least_cosine"] = round(cosine, 6)
    limit = model.facts.limit
    return Loaded(encode, TokenCounter.of(model.tokenizer, limit), CAPS, limit, details, _streams(chosen))


def runnable(core: openvino.Core, settings: EmbedderSettings) -> Runnable:
    """Return the model that the settings name: one converted before, else built here, else converted now.

    Raises :class:`NotConverted`.
    """
    if (Path(settings.model) / FACTS).is_file():
        return saved(core, Path(settings.model))
    model = model_path(settings.model)
    try:
        return built(fetched(model, FILES))
    except NotConverted as error:
        if not installed():
            raise NotConverted(f"{error}, and torch, which converts other models, is not installed") from error
        log.info("the model is not built from its weights; torch converts it", model=settings.model, reason=str(error))
    from headrace_embedder.conversion import converted  # noqa: PLC0415

    return saved(core, converted(fetched(model), settings))


def built(source: Path) -> Runnable:
    """Return the model of a folder, built from its weights; raises :class:`NotConverted` for other architectures."""
    from headrace_embedder.bert_graph import build  # noqa: PLC0415

    folder = read_folder(source)
    return Runnable(build(folder), folder.tokenizer, Facts(folder.limit, folder.config.pad_token_id))


def saved(core: openvino.Core, folder: Path) -> Runnable:
    """Return the model that :func:`save` wrote."""
    facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    return Runnable(
        core.read_model(folder / "model.xml"), (folder / "tokenizer.json").read_text(encoding="utf-8"), facts
    )


def save(model: Runnable, folder: Path) -> None:
    """Write the model, its tokenizer and its facts into a folder."""
    import openvino  # noqa: PLC0415

    openvino.save_model(model.graph, folder / "model.xml", compress_to_fp16=False)
    (folder / "tokenizer.json").write_text(model.tokenizer, encoding="utf-8")
    (folder / FACTS).write_text(json.dumps(asdict(model.facts)), encoding="utf-8")


def runner(model: openvino.CompiledModel, of: Runnable) -> Encode:
    """Return texts → float32 vectors in one run of the compiled model; more threads than it has streams wait."""
    idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
    for _ in range(_streams(model)):
        idle.put(model.create_infer_request())
    wanted = {name for name in INPUTS if any(name in one.names for one in model.inputs)}
    inputs_of = padded(of.tokenizer, of.facts)

    def encode(texts: list[str]) -> Vectors:
        columns = inputs_of(texts)
        inputs = {name: columns[name] for name in wanted}
        request = idle.get()
        try:
            return np.array(request.infer(inputs)[0], np.float32)
        finally:
            idle.put(request)

    return encode


def padded(tokenizer: str, facts: Facts) -> Callable[[list[str]], Mapping[str, Any]]:
    """Return texts → the model's inputs, each of the shape (texts, tokens), cut at the limit and never beyond it."""
    own = Tokenizer.from_str(tokenizer)
    own.no_padding()
    own.enable_truncation(facts.limit)
    fillers = {name: facts.pad_id if name == "input_ids" else 0 for name in INPUTS}

    def inputs(texts: list[str]) -> Mapping[str, Any]:
        encodings = own.encode_batch(texts)
        longest = max(len(one.ids) for one in encodings)
        shape = len(texts), min(-(-longest // _PAD_TO) * _PAD_TO, facts.limit)
        columns = {name: np.full(shape, filler, np.int64) for name, filler in fillers.items()}
        for row, one in enumerate(encodings):
            for name, numbers in zip(INPUTS, (one.ids, one.attention_mask, one.type_ids), strict=True):
                columns[name][row, : len(numbers)] = numbers
        return columns

    return inputs


def compiled(
    core: openvino.Core, graph: openvino.Model, precision: str, threads: int | None = None, streams: int | None = None
) -> openvino.CompiledModel:
    """Compile for throughput: batches run beside each other, each on a core of its own.

    Threads that share a batch wait for each other after each step: on two cores that took 15 % more processor time.
    """
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if streams:
        config["NUM_STREAMS"] = streams
    return core.compile_model(graph, "CPU", config)


def _streams(model: openvino.CompiledModel) -> int:
    """Return how many batches run beside each other."""
    return max(1, int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))


def fetched(model: str, files: Sequence[str] | None = None) -> Path:
    """Return the model's folder; if it is a name, download the files of these patterns, or all.

    Raises :class:`NotConverted`.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model, allow_patterns=None if files is None else list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise NotConverted(f"{model} cannot be fetched: {error}") from error
