"""The graph that is built from weights, beside the same arithmetic in NumPy, over tiny models that the tests make."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import numpy.typing as npt
import openvino
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from headrace_embedder.agreement import least_cosine
from headrace_embedder.model_folder import NotConverted, read
from headrace_embedder.openvino_model import built, runnable
from headrace_embedder.runnable import Facts, compiled, padded, runner
from headrace_embedder.settings import EmbedderSettings

pytestmark = pytest.mark.unit

Array = npt.NDArray[np.float32]
Exact = npt.NDArray[np.float64]
WIDTH, INNER, LAYERS, HEADS, POSITIONS = 12, 20, 2, 3, 24
WORDS = ["[PAD]", "<pad>", "[UNK]", "river", "dam", "bread", "flour"]
TEXTS = ["river", "dam river bread", "", "flour " * 40, "bread dam dam flour river " * 2]
BERT: dict[str, Any] = {
    "model_type": "bert", "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "pad_token_id": 0,
}  # fmt: skip
ROBERTA = BERT | {"model_type": "xlm-roberta", "pad_token_id": 1, "layer_norm_eps": 1e-5}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


def weights_of(seed: int = 7) -> dict[str, Array]:
    """Return random weights under the names of transformers."""
    numbers = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,), "embeddings.LayerNorm.bias": (WIDTH,),
    }  # fmt: skip
    for layer in range(LAYERS):
        linear = {f"attention.self.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH), "intermediate.dense": (INNER, WIDTH)}
        linear |= {"output.dense": (WIDTH, INNER)}
        for name, (rows, columns) in linear.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{layer}.{name}.bias"] = (rows,)
        for name in ("attention.output", "output"):
            shapes[f"encoder.layer.{layer}.{name}.LayerNorm.weight"] = (WIDTH,)
            shapes[f"encoder.layer.{layer}.{name}.LayerNorm.bias"] = (WIDTH,)
    return {name: numbers.normal(0, 0.7, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, weights: Mapping[str, Array], kind: str = "F32") -> None:
    """Write a file of weights in the format safetensors, with numbers of that kind."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, offset = [], 0
    for name, numbers in weights.items():
        if kind == "BF16":
            part = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            part = numbers.astype("<f2" if kind == "F16" else "<f4").tobytes()
        header[name] = {"dtype": kind, "shape": numbers.shape, "data_offsets": [offset, offset + len(part)]}
        parts.append(part)
        offset += len(part)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def model(folder: Path, config: Mapping[str, Any] = BERT, pooling: Mapping[str, Any] = MEAN) -> dict[str, Array]:
    """Write a model of sentence-transformers into a folder and return its weights."""
    weights = weights_of()
    write(folder, weights)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=9)  # the file of a real model may say so, and it must not count
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in kinds.items()]
    (folder / "1_Pooling").mkdir()
    for name, content in (("config.json", config), ("modules.json", modules), ("1_Pooling/config.json", pooling)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return weights


def expected(weights: Mapping[str, Array], config: Mapping[str, Any], ids: list[int], *, cls: bool) -> Array:
    """Return the vector of one text, in NumPy's float64 and with neither batch nor padding."""
    w = {name: numbers.astype(np.float64) for name, numbers in weights.items()}
    epsilon: float = config.get("layer_norm_eps", 1e-12)

    def normal(x: Exact, name: str) -> Exact:
        even: Exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return even * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: Exact, name: str) -> Exact:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    first = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
    x = normal(x + w["embeddings.position_embeddings.weight"][first : first + len(ids)], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{part}").reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(WIDTH // HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), WIDTH)
        x = normal(linear(mixed, f"{name}.attention.output.dense") + x, f"{name}.attention.output.LayerNorm")
        wide = _ACTIVATIONS[config["hidden_act"]](linear(x, f"{name}.intermediate.dense"))
        x = normal(linear(wide, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")
    vector = x[0] if cls else x.mean(0)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


_ACTIVATIONS: dict[str, Callable[[Exact], Exact]] = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def vectors_of(folder: Path, texts: list[str]) -> Array:
    """Return the vectors that the built graph gives in float32, all texts in one batch."""
    found = built(folder)
    return runner(compiled(openvino.Core(), found.graph, "f32"), found)(texts)


@pytest.mark.parametrize("config", [BERT, ROBERTA], ids=["bert", "xlm-roberta"])
@pytest.mark.parametrize("activation", sorted(_ACTIVATIONS))
@pytest.mark.parametrize("cls", [False, True], ids=["mean", "cls"])
def test_the_graph_computes_what_the_model_is(
    tmp_path: Path, config: dict[str, Any], activation: str, cls: bool
) -> None:
    """Broken: the index holds vectors of no model, for some architecture, activation, pooling, length or padding."""
    own = config | {"hidden_act": activation}
    weights = model(tmp_path, own, {"pooling_mode": "cls"} if cls else MEAN)
    texts = [text for text in TEXTS if text]
    limit = read(tmp_path).limit
    tokens = [[WORDS.index(word) for word in text.split()][:limit] for text in texts]
    assert max(map(len, tokens)) == limit == (POSITIONS if config is BERT else POSITIONS - 2)
    wanted = np.array([expected(weights, own, ids, cls=cls) for ids in tokens])
    found = vectors_of(tmp_path, texts)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_allclose(vectors_of(tmp_path, texts[:1]), wanted[:1], atol=2e-5)


@pytest.mark.parametrize(("kind", "cosine"), [("F16", 0.99999), ("BF16", 0.999)])
def test_short_numbers_and_names_with_a_prefix_are_read(tmp_path: Path, kind: str, cosine: float) -> None:
    """Broken: a model that was saved in half precision, or with a head, is refused or read as noise."""
    weights = model(tmp_path)
    named = {"bert." + name: numbers for name, numbers in weights.items()}
    write(tmp_path, named | {"cls.predictions.bias": np.zeros(7, np.float32)}, kind)
    wanted = np.array([expected(weights, BERT, [3, 4, 5], cls=False)])
    assert least_cosine(vectors_of(tmp_path, ["river dam bread"]), wanted) > cosine


def test_an_empty_text_is_no_error(tmp_path: Path) -> None:
    """Broken: a text without a token divides by zero for its whole batch, or hits the padding of the file."""
    model(tmp_path)
    found = vectors_of(tmp_path, ["river", ""])
    np.testing.assert_allclose(found[:1], vectors_of(tmp_path, ["river"]), atol=2e-5)


def test_rows_are_filled_up_to_multiples_of_eight_and_never_beyond_the_limit(tmp_path: Path) -> None:
    """Broken: each length is a shape of its own, which costs memory, or a row is longer than the table of positions."""
    model(tmp_path)
    inputs = padded((tmp_path / "tokenizer.json").read_text(), Facts(limit=10, pad_id=1))
    few, many = inputs(["river", "dam bread"]), inputs(["river " * 50])
    assert few["input_ids"].tolist() == [[3, *[1] * 7], [4, 5, *[1] * 6]]
    assert few["attention_mask"].tolist() == [[1, *[0] * 7], [1, 1, *[0] * 6]]
    assert many["input_ids"].shape == (1, 10)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", BERT | {"model_type": "mpnet"}, "architecture is mpnet; supported: bert, roberta, xlm-roberta"),
        ("config.json", BERT | {"hidden_act": "mish"}, "hidden_act is mish"),
        ("config.json", BERT | {"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ("config.json", BERT | {"is_decoder": True}, "it is a decoder"),
        ("config.json", BERT | {"auto_map": {"AutoModel": "jina.Bert"}}, "requires custom code"),
        ("config.json", BERT | {"quantization_config": {"bits": 4}}, "weights are quantized"),
        ("config.json", BERT | {"num_attention_heads": 5}, "not divisible by 5 attention heads"),
        ("config.json", BERT | {"hidden_size": "wide"}, "hidden_size: Input should be a valid integer"),
        ("config.json", BERT | {"hidden_size": 6}, r"has shape \(7, 12\); config.json requires \(7, 6\)"),
        ("config.json", BERT | {"num_hidden_layers": 1}, "tensors of another architecture: encoder.layer.1"),
        ("config.json", BERT | {"num_hidden_layers": 3}, r"has no tensor encoder.layer.2.attention.self.query.weight"),
        ("modules.json", [{"path": "", "type": "a.Transformer"}, {"type": "a.Dense"}], "are Transformer, Dense; "),
        ("modules.json", "{", "modules.json is not JSON"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling is max_tokens; supported: mean, cls"),
        ("1_Pooling/config.json", MEAN | {"pooling_mode_cls_token": True}, "pooling is cls_token, mean_tokens"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "sets do_lower_case"),
        ("model.safetensors", "x" * 40, "cannot read model.safetensors: its header claims"),
    ],
)  # fmt: skip
def test_what_the_graph_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, file: str, content: Any, reason: str
) -> None:
    """Broken: another architecture's weights are taken for BERT's, and searches find noise."""
    model(tmp_path)
    (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(NotConverted, match=reason):
        built(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    """Broken: a model that has only pytorch_model.bin ends in a stack trace."""
    model(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(NotConverted, match=f"its folder has no file {file}"):
        built(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """Broken: a download that broke off gives vectors of what memory holds behind it."""
    model(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(NotConverted, match=r"is damaged: encoder\.layer.1.output.LayerNorm.bias has 44 bytes"):
        built(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "limit"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 17, "do_lower_case": False}, 17),
        ("sentence_bert_config.json", {"max_seq_length": 900, "transformer_task": "feature-extraction"}, POSITIONS),
        ("tokenizer_config.json", {"model_max_length": 19}, 19),
        ("tokenizer_config.json", {"model_max_length": 1e30}, POSITIONS),
    ],
)
def test_the_limit_is_the_models_own(tmp_path: Path, file: str, content: dict[str, Any], limit: int) -> None:
    """Broken: texts are cut where the model reads on, or a token has no position."""
    model(tmp_path)
    (tmp_path / file).write_text(json.dumps(content), encoding="utf-8")
    assert read(tmp_path).limit == limit


def test_a_bare_transformer_is_pooled_by_the_mean(tmp_path: Path) -> None:
    """Broken: a folder of transformers alone is refused, or pooled as sentence-transformers would not."""
    model(tmp_path)
    whole = vectors_of(tmp_path, ["river dam"])
    (tmp_path / "modules.json").unlink()
    bare = vectors_of(tmp_path, ["river dam"])
    assert np.linalg.norm(bare) != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(bare / np.linalg.norm(bare), whole, atol=2e-5)


def test_of_a_named_model_only_what_is_read_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a start downloads the same weights in three formats, or not the file that the graph needs."""
    model(tmp_path)
    asked = []

    def download(name: str, allow_patterns: Sequence[str] | None) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    core = openvino.Core()
    assert runnable(core, EmbedderSettings(model="some/name", dimensions=WIDTH)).facts.limit == POSITIONS
    ((name, patterns),) = asked
    assert name == "some/name"
    assert patterns is not None
    offered = [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()]
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in offered)
    assert not any(fnmatch(file, pattern) for file in ("pytorch_model.bin", "onnx/model.onnx") for pattern in patterns)
