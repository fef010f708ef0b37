"""A model for OpenVINO (graph, tokenizer and facts): reads, writes and compiles it."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headrace_embedder.loaded import tokenizer_from
from headrace_embedder.model_batches import Encode
from headrace_embedder.types import Vectors

if TYPE_CHECKING:
    import openvino

FACTS = "facts.json"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PAD_TO = 8
"""Texts are padded to a multiple of this number of tokens. OpenVINO keeps compiled code for each shape, so every length
would cost memory and time. In measurements, the padding itself cost nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Maximum tokens per text, the ID that pads shorter rows, and the smallest cosine to torch if it was compared."""

    limit: int
    pad_id: int
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Runnable:
    """A graph that is not compiled yet, the tokenizer in JSON, and the model's facts."""

    graph: openvino.Model
    tokenizer: str
    facts: Facts


def saved(core: openvino.Core, folder: Path) -> Runnable:
    """Return the model that :func:`save` wrote."""
    facts = Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    return Runnable(
        core.read_model(folder / "model.xml"), (folder / "tokenizer.json").read_text(encoding="utf-8"), facts
    )


def save(model: Runnable, folder: Path) -> None:
    """Write the model, its tokenizer and its facts to a folder."""
    import openvino  # noqa: PLC0415

    openvino.save_model(model.graph, folder / "model.xml", compress_to_fp16=False)
    (folder / "tokenizer.json").write_text(model.tokenizer, encoding="utf-8")
    (folder / FACTS).write_text(json.dumps(asdict(model.facts)), encoding="utf-8")


def runner(model: openvino.CompiledModel, of: Runnable) -> Encode:
    """Return a function from texts to float32 vectors; with more threads than streams, threads wait for a stream."""
    idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
    for _ in range(streams_of(model)):
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
    """Return a function from texts to the model's inputs, each of shape (texts, tokens), cut at the token limit."""
    own = tokenizer_from(tokenizer)
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
    """Compile for throughput: batches run concurrently, each on its own core.

    Threads that share a batch would wait for each other after each step; on two cores that took 15 % more CPU time.
    """
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if streams:
        config["NUM_STREAMS"] = streams
    return core.compile_model(graph, "CPU", config)


def streams_of(model: openvino.CompiledModel) -> int:
    """Return the number of batches that run concurrently."""
    return max(1, int(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
