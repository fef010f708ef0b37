"""A file of weights (safetensors), mapped into memory: https://huggingface.co/docs/safetensors, "Format"."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headrace_embedder.model_folder import NotConverted

Array = npt.NDArray[np.float32]
_KINDS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How each kind of number is read; bfloat16, which numpy lacks, as the upper half of a float32."""
_LENGTH = 8
_LONGEST_HEADER = 100_000_000
"""The format's own bound."""


class Weights:
    """The tensors of a model, in float32, each to be taken once; those in float32 already are not copied.

    Their names may have a prefix, as models that were trained with a head have; ``first`` is a name that shows it.
    """

    def __init__(self, file: Path, first: str) -> None:
        """Read the file's list of tensors; raises :class:`NotConverted` where it is damaged or another kind of file."""
        self._file = file.name
        try:
            length = file.stat().st_size
            with file.open("rb") as content:
                size = int.from_bytes(content.read(_LENGTH), "little")
                if size > min(_LONGEST_HEADER, length - _LENGTH):
                    raise ValueError(f"a header of {size} bytes in a file of {length}")
                self._left: dict[str, Any] = json.loads(content.read(size))
            # Copied when written to, which nothing does: OpenVINO shares no memory that may only be read.
            self._data = np.memmap(file, np.uint8, "c", offset=_LENGTH + size)
        except (OSError, ValueError) as error:
            raise NotConverted(f"{file.name} cannot be read: {error}") from error
        self._left.pop("__metadata__", None)
        found = [name for name in self._left if name.endswith(first)]
        if len(found) != 1:
            raise NotConverted(f"{file.name} has {len(found)} tensors of the name {first}, not one")
        self._prefix = found[0].removesuffix(first)

    def take(self, name: str, *shape: int) -> Array:
        """Return a tensor of that shape; raises :class:`NotConverted` where there is none."""
        name = self._prefix + name
        entry = self._left.pop(name, None)
        if entry is None:
            raise NotConverted(f"{self._file} has no tensor {name}")
        kind, found = entry["dtype"], tuple(entry["shape"])
        if kind not in _KINDS:
            raise NotConverted(f"{self._file}: {name} consists of {kind}; {', '.join(_KINDS)} can be read")
        if found != shape:
            raise NotConverted(f"{self._file}: {name} has the shape {found}; by config.json it is {shape}")
        start, end = entry["data_offsets"]
        raw = self._data[start:end]
        if raw.size != math.prod(shape) * np.dtype(_KINDS[kind]).itemsize:
            raise NotConverted(f"{self._file} is damaged: {name} has {raw.size} bytes")
        numbers = np.frombuffer(raw, _KINDS[kind]).reshape(shape)
        if kind == "BF16":
            return (numbers.astype(np.uint32) << 16).view(np.float32)
        return np.require(numbers, np.float32, "A")

    def rows(self, name: str) -> int:
        """Return the length of a tensor that stays to be taken, 0 without it."""
        shape = self._left.get(self._prefix + name, {}).get("shape")
        return int(shape[0]) if shape else 0

    def finish(self, *unused: str) -> None:
        """Raise :class:`NotConverted` where a tensor is left whose name does not start with one of those.

        Then the file is of another architecture, whatever its configuration says. Heads that stand beside the model,
        without its prefix, do not count.
        """
        own = [name for name in self._left if name.startswith(self._prefix)]
        left = [name for name in own if not name.removeprefix(self._prefix).startswith(unused)]
        if left:
            raise NotConverted(f"{self._file} has tensors that the architecture has not: {', '.join(sorted(left)[:3])}")
