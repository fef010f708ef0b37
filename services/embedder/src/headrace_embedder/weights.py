"""Reads a file of weights (safetensors) through a memory map: https://huggingface.co/docs/safetensors, "Format"."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headrace_embedder.model_folder import NotConverted

Array = npt.NDArray[np.float32]
_KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How to read each type of number; bfloat16, which numpy lacks, is the upper half of a float32."""
_LENGTH = 8
_LONGEST_HEADER = 100_000_000
"""The limit of the format."""


class Tensors(Protocol):
    """The tensors of a model in float32 under the names of transformers; take each once."""

    def take(self, name: str, *shape: int) -> Array:
        """Return the tensor with that name and shape; the implementation raises its own error if there is none."""

    def rows(self, name: str) -> int:
        """Return the first dimension of a tensor that was not taken yet, or 0 if there is none."""

    def finish(self, *unused: str) -> None:
        """Raise an error if a tensor is left whose name does not start with one of ``unused``."""


class Weights:
    """The tensors of a model in float32; take each once. A tensor that is already float32 is not copied.

    Tensor names may have a prefix, as in models that were trained with a head; the name ``first`` reveals it.
    """

    def __init__(self, file: Path, first: str) -> None:
        """Read the file's list of tensors; raises :class:`NotConverted` if it is damaged or of a different format."""
        self._file = file.name
        try:
            length = file.stat().st_size
            with file.open("rb") as content:
                size = int.from_bytes(content.read(_LENGTH), "little")
                if size > min(_LONGEST_HEADER, length - _LENGTH):
                    raise ValueError(f"its header claims {size} bytes in a file of {length} bytes")
                self._left: dict[str, Any] = json.loads(content.read(size))
            # Copy-on-write, though nothing writes: OpenVINO does not share read-only memory.
            self._data = np.memmap(file, np.uint8, "c", offset=_LENGTH + size)
        except (OSError, ValueError) as error:
            raise NotConverted(f"cannot read {file.name}: {error}") from error
        self._left.pop("__metadata__", None)
        found = [name for name in self._left if name.endswith(first)]
        if len(found) != 1:
            raise NotConverted(f"{file.name} has {len(found)} tensors named {first}; expected 1")
        self._prefix = found[0].removesuffix(first)

    def take(self, name: str, *shape: int) -> Array:
        """Return the tensor with that name and shape; raises :class:`NotConverted` if there is none."""
        name = self._prefix + name
        entry = self._left.pop(name, None)
        if entry is None:
            raise NotConverted(f"{self._file} has no tensor {name}")
        kind, found = entry["dtype"], tuple(entry["shape"])
        if kind not in _KINDS:
            raise NotConverted(f"{self._file}: {name} has type {kind}; supported: {', '.join(_KINDS)}")
        if found != shape:
            raise NotConverted(f"{self._file}: {name} has shape {found}; config.json requires {shape}")
        start, end = entry["data_offsets"]
        raw = self._data[start:end]
        if raw.size != math.prod(shape) * np.dtype(_KINDS[kind]).itemsize:
            raise NotConverted(f"{self._file} is damaged: {name} has {raw.size} bytes")
        numbers = np.frombuffer(raw, _KINDS[kind]).reshape(shape)
        if kind == "BF16":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return np.require(numbers, np.float32, "A")

    def rows(self, name: str) -> int:
        """Return the first dimension of a tensor that was not taken yet, or 0 if there is none."""
        shape = self._left.get(self._prefix + name, {}).get("shape")
        return int(shape[0]) if shape else 0

    def finish(self, *unused: str) -> None:
        """Raise :class:`NotConverted` if a tensor is left whose name does not start with one of ``unused``.

        Then the file has a different architecture than its configuration says. Heads outside the model, without its
        prefix, do not count.
        """
        own = [name for name in self._left if name.startswith(self._prefix)]
        left = [name for name in own if not name.removeprefix(self._prefix).startswith(unused)]
        if left:
            raise NotConverted(f"{self._file} has tensors of another architecture: {', '.join(sorted(left)[:3])}")
