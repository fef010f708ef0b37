"""The model in OpenVINO, on a processor: converted once from torch, kept in a folder, and run without torch.

Converting runs in a process of its own, so that the service never holds torch; what it makes is compared to torch in
float32 there, and bfloat16 to float32 at each start.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog
from tokenizers import Tokenizer

from headrace_embedder.agreement import LEAST_COSINE, PROBES, fast_bfloat16, least_cosine
from headrace_embedder.batching import Encode
from headrace_embedder.loaded import Caps, Loaded, TokenCounter
from headrace_embedder.provider import Vectors
from headrace_embedder.settings import EmbedderSettings, model_path
from headrace_embedder.torch_model import encoder, load_model, tokenizer_of, too_far

if TYPE_CHECKING:
    import openvino
    from sentence_transformers import SentenceTransformer

log = structlog.get_logger(__name__)

CAPS = Caps(32, 1024)
FACTS = "facts.json"
_FORMAT = "1"
"""Part of the folder's name: a change of what stands in it makes another."""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_CONVERTER = ("-m", "headrace_embedder.openvino_model")
_CONVERT_S = 1800.0
_LAST_LINES = 5
_PAD_TO = 8
"""Texts are padded to a multiple of so many tokens: OpenVINO keeps what it compiled for each shape, so that all lengths
would cost memory and time; measured, the padding itself costs nothing."""


class NotConverted(Exception):
    """The model cannot be converted; the message says why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is to be known of a converted model; ``cosine`` is the least to torch in float32."""

    limit: int
    pad_id: int
    pad_token: str
    cosine: float


def load(settings: EmbedderSettings) -> Loaded:
    """Return the model, converted where it was not yet.

    Raises :class:`NotConverted`, and :class:`headrace.errors.ConfigurationError` where bfloat16 is asked for and
    disagrees.
    """
    import openvino  # noqa: PLC0415

    home = converted(settings)
    facts = Facts(**json.loads((home / FACTS).read_text()))
    core = openvino.Core()
    graph = core.read_model(home / "model.xml")
    tokenizer = (home / "tokenizer.json").read_text(encoding="utf-8")
    compiled = _compiled(core, graph, "f32", settings.threads, settings.streams)
    exact = runner(compiled, tokenizer, facts)
    encode, precision, cosine = exact, "float32", facts.cosine
    if settings.precision == "bfloat16" or (settings.precision == "auto" and fast_bfloat16()):
        shorter = _compiled(core, graph, "bf16", settings.threads, settings.streams)
        brief = runner(shorter, tokenizer, facts)
        least = least_cosine(exact(list(PROBES)), brief(list(PROBES)))
        log.info("bfloat16 compared to float32", least_cosine=round(least, 6), needed=LEAST_COSINE)
        if least >= LEAST_COSINE:
            compiled, encode, precision, cosine = shorter, brief, "bfloat16", min(least, facts.cosine)
        elif settings.precision == "bfloat16":
            raise too_far(least)
    details = {
        "backend": "openvino", "device": "cpu", "precision": precision, "least_cosine": round(cosine, 6),
        "threads": settings.threads or len(os.sched_getaffinity(0)), "streams": _streams(compiled), "folder": str(home),
    }  # fmt: skip
    counter = TokenCounter.of(tokenizer, facts.limit)
    return Loaded(encode, counter, CAPS, facts.limit, details, _streams(compiled))


def converted(settings: EmbedderSettings) -> Path:
    """Return the folder of the converted model, made on the first call; raises :class:`NotConverted`.

    A folder that :mod:`headrace_embedder.convert` made is one already.
    """
    if (Path(settings.model) / FACTS).is_file():
        return Path(settings.model)
    if importlib.util.find_spec("torch") is None:
        raise NotConverted("it has to be converted first, and torch is not installed, which does that")
    source = fetched(model_path(settings.model))
    name = f"{source.name}-{_identity(source)}"
    try:
        home = settings.models_folder / name
        if (home / FACTS).exists():
            return home
        home.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=home.parent, prefix=".converting-"))
    except OSError as error:  # no home, or nothing can be kept there: it is made anew at each start
        log.warning("the converted model cannot be kept", error=str(error), setting="HEADRACE_EMBEDDER_CACHE_DIR")
        partial = home = Path(tempfile.mkdtemp(prefix="headrace-model-"))
    log.info("model is being converted", model=settings.model, folder=str(home))
    done = subprocess.run(
        [sys.executable, *_CONVERTER, str(source), str(partial)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_CONVERT_S,
    )  # fmt: skip
    if done.returncode != 0:
        shutil.rmtree(partial, ignore_errors=True)
        raise NotConverted(" ".join(done.stderr.strip().splitlines()[-_LAST_LINES:])[-1000:])
    if partial != home:
        try:
            partial.rename(home)
        except OSError:  # another process was first
            shutil.rmtree(partial, ignore_errors=True)
    return home


def runner(compiled: openvino.CompiledModel, tokenizer: str, facts: Facts) -> Encode:
    """Return texts → float32 vectors in one run of the compiled model; more threads than it has streams wait."""
    idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
    for _ in range(_streams(compiled)):
        idle.put(compiled.create_infer_request())
    wanted = {name for name in _INPUTS if any(name in one.names for one in compiled.inputs)}
    own = Tokenizer.from_str(tokenizer)
    own.enable_truncation(facts.limit)
    own.enable_padding(pad_id=facts.pad_id, pad_token=facts.pad_token, pad_to_multiple_of=_PAD_TO)

    def encode(texts: list[str]) -> Vectors:
        encodings = own.encode_batch(texts)
        columns: Mapping[str, Any] = {
            "input_ids": [one.ids for one in encodings],
            "attention_mask": [one.attention_mask for one in encodings],
            "token_type_ids": [one.type_ids for one in encodings],
        }
        inputs = {name: np.array(columns[name], np.int64) for name in wanted}
        request = idle.get()
        try:
            return np.array(request.infer(inputs)[0], np.float32)
        finally:
            idle.put(request)

    return encode


def _compiled(
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


def _streams(compiled: openvino.CompiledModel) -> int:
    """Return how many batches run beside each other."""
    return max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))


def fetched(model: str) -> Path:
    """Return the model's folder, fetched where it is a name; raises :class:`NotConverted`."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(model))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise NotConverted(f"{model} cannot be fetched: {error}") from error


def _identity(source: Path) -> str:
    """Return a digest of the model's files, and of what converts them."""
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

    Raises :class:`NotConverted` where the model has no fast tokenizer or no limit, or disagrees with torch.
    """
    import openvino  # noqa: PLC0415
    import torch  # noqa: PLC0415

    model = load_model(str(source), "cpu").float()
    tokenizer = tokenizer_of(model)
    if tokenizer is None or not model.max_seq_length:
        raise NotConverted("the model has no fast tokenizer, or no limit of tokens")

    class Sentences(torch.nn.Module):
        """Tokens to sentences' vectors, without the dictionaries around it."""

        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = model(dict(zip(names, tensors, strict=True)))["sentence_embedding"]
            return found

    example = {name: value for name, value in model.preprocess(list(PROBES)).items() if name in _INPUTS}
    names = list(example)
    wrapped = Sentences()
    wrapped.model = model
    with torch.inference_mode():
        graph = openvino.convert_model(wrapped.eval(), example_input=tuple(example.values()))
    for one, name in zip(graph.inputs, names, strict=True):
        one.get_tensor().set_names({name})
    openvino.save_model(graph, target / "model.xml", compress_to_fp16=False)
    (target / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    facts = _facts(model, tokenizer, openvino.Core(), graph)
    (target / FACTS).write_text(json.dumps(facts))


def _facts(model: SentenceTransformer, tokenizer: str, core: openvino.Core, graph: openvino.Model) -> dict[str, Any]:
    known = model.tokenizer
    facts = Facts(int(model.max_seq_length or 0), int(known.pad_token_id), str(known.pad_token), 0.0)
    ours = runner(_compiled(core, graph, "f32"), tokenizer, facts)
    cosine = least_cosine(encoder(model)(list(PROBES)), ours(list(PROBES)))
    if cosine < LEAST_COSINE:
        raise NotConverted(f"OpenVINO's vectors are too far from torch's: cosine {cosine:.6f}, needed {LEAST_COSINE}")
    return {"limit": facts.limit, "pad_id": facts.pad_id, "pad_token": facts.pad_token, "cosine": cosine}


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # noqa: BLE001  # told to the parent by its last lines
        sys.exit(f"{type(error).__name__}: {error}")
