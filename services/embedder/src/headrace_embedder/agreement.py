"""Compares the vectors of two computations, and finds out whether the CPU computes bfloat16 fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headrace_embedder.types import Vectors

LEAST_COSINE = 0.9995
"""Another precision or backend is used only if the cosine of all probe sentences is at least this."""
PROBES = (
    "Kafka keeps records in partitions.",
    "벡터 색인은 문서가 바뀌면 갱신된다.",
    "def function(argument): return argument",
    "The quick brown fox jumps over the lazy dog. " * 8,
)


def least_cosine(first: Vectors, second: Vectors) -> float:
    """Return the smallest cosine between rows at the same position."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())


def fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively (AVX512-BF16 or AMX), according to Linux's list of its flags."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii", errors="replace") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
