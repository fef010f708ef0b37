"""Measures the configured provider: ``python -m headrace_embedder.benchmark --sizes 1,8,32 --texts 128``.

Prints a JSON line for each size. It runs the same code as the stage: the provider's ``embed``, in batches of the given
size. For a local model, that size is also the largest micro-batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import structlog
from pydantic import ValidationError

from headrace.config.settings import EXIT_CONFIGURATION, wrong_settings
from headrace.errors import HeadraceError
from headrace_embedder.factory import build
from headrace_embedder.provider import Provider
from headrace_embedder.settings import EmbedderSettings
from headrace_embedder.tuning import sample
from headrace_embedder.types import Kind


async def rate(provider: Provider, texts: list[str], size: int) -> dict[str, float]:
    """Return texts and tokens per second in batches of a size, after one batch for warm-up."""
    await provider.embed(texts[:size], Kind.PASSAGE)
    begun = time.perf_counter()
    tokens = failed = 0
    for start in range(0, len(texts), size):
        result = await provider.embed(texts[start : start + size], Kind.PASSAGE)
        tokens += result.tokens
        failed += len(result.errors)
    seconds = time.perf_counter() - begun
    return {
        "batch": size, "texts": len(texts), "errors": failed, "seconds": round(seconds, 4),
        "texts_per_second": round(len(texts) / seconds, 2), "tokens_per_second": round(tokens / seconds, 1),
    }  # fmt: skip


async def measure(settings: EmbedderSettings, sizes: list[int], count: int) -> None:
    """Print the rates of each size; each size gets its own provider, so that none profits from another's memory."""
    texts = sample(count)
    for size in sizes:
        own = settings.model_copy(update={"batch_size": size, "request_texts": size})
        provider = build(own)
        try:
            print(json.dumps(await rate(provider, texts, size)), flush=True)
        finally:
            await provider.aclose()


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code is 78 for wrong settings and 1 if the provider fails."""
    parser = argparse.ArgumentParser(prog="headrace_embedder.benchmark")
    parser.add_argument("--sizes", default="1,8,32")
    parser.add_argument("--texts", type=int, default=128)
    given = parser.parse_args(arguments)
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))  # stdout is for the results
    try:
        sizes = [int(size) for size in given.sizes.split(",")]
        asyncio.run(measure(EmbedderSettings(), sizes, given.texts))
    except ValidationError as error:
        print(f"the benchmark cannot start: {wrong_settings(error)}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except HeadraceError as error:
        print(f"the benchmark failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
