"""Chooses the batch size with a short measurement on this machine, and stores it for the next start."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter, process_time

import structlog

from headrace_embedder.loaded import Caps, Loaded
from headrace_embedder.model_batches import OutOfMemory, micro_batches
from headrace_embedder.settings import EmbedderSettings

log = structlog.get_logger(__name__)

CLEARLY = 1.10
"""A size other than the default must be faster by this factor: single runs vary by a few percent, and the result is
stored."""
LONGEST_S = 3.0
"""If one run takes longer than this, use the default size: measuring would take minutes."""
_FACTORS = (0.5, 1, 2)
_ROUNDS = 2
_CHARACTERS = 500


def sample(count: int) -> list[str]:
    """Return ``count`` distinct texts of 500 characters from Python's language reference."""
    whole = "\n".join(topics[name] for name in sorted(topics))
    starts = itertools.islice(itertools.cycle(range(0, len(whole) - _CHARACTERS, _CHARACTERS)), count)
    return [f"{number} {whole[start : start + _CHARACTERS]}" for number, start in enumerate(starts)]


def tuned(loaded: Loaded, settings: EmbedderSettings) -> Caps:
    """Return the fastest micro-batch on this machine, as stored by an earlier start or measured now."""
    name = f"batch-{_circumstances(loaded, settings.model)}.json"
    kept = _kept(settings, name)
    if kept is not None:
        return kept
    rates = measured(loaded)
    caps = fastest(rates, loaded.caps)
    log.info(
        "batch size measured", model=settings.model, texts=caps.texts, tokens=caps.tokens,
        texts_a_second={str(size.tokens): round(rate, 1) for size, rate in rates.items()},
    )  # fmt: skip
    try:
        settings.models_folder.mkdir(parents=True, exist_ok=True)
        (settings.models_folder / name).write_text(json.dumps(caps._asdict()), encoding="utf-8")
    except OSError as error:
        log.warning("cannot store the measured batch size", error=str(error), setting="HEADRACE_EMBEDDER_CACHE_DIR")
    return caps


def fastest(rates: Mapping[Caps, float], usual: Caps) -> Caps:
    """Return the size with the highest rate if it is clearly faster than the default, else the default."""
    best = max(rates, key=rates.__getitem__, default=usual)
    return best if rates.get(best, 0.0) > CLEARLY * rates.get(usual, 0.0) else usual


def measured(loaded: Loaded) -> dict[Caps, float]:
    """Return texts per second for half, once and twice the default size, over the same texts, run as the stage does.

    On a CPU, it measures CPU time, because other processes may use the CPU too, especially while a machine starts. It
    omits a size that does not fit into the device's memory, and all sizes if one run shows that the model is too slow.
    """
    sizes = [Caps(max(1, int(loaded.caps.texts * by)), int(loaded.caps.tokens * by)) for by in _FACTORS]
    texts, lengths = _texts_for(loaded, sizes[-1])
    clock = process_time if loaded.details.get("device") == "cpu" else perf_counter
    rates: dict[Caps, float] = {}
    with ThreadPoolExecutor(loaded.streams, "measure") as pool:
        seconds = _seconds(pool, loaded, texts, lengths, loaded.caps, perf_counter)
        if seconds is not None and seconds > LONGEST_S:
            return rates
        for turn in range(1 + _ROUNDS):  # the first turn compiles each shape; sizes alternate, as machine speed drifts
            for size in sizes:
                seconds = _seconds(pool, loaded, texts, lengths, size, clock)
                if turn > 0 and seconds is not None:
                    rates[size] = max(rates.get(size, 0.0), len(texts) / seconds)
    return rates


def _texts_for(loaded: Loaded, size: Caps) -> tuple[list[str], Sequence[int]]:
    """Return texts and their token counts that fill one batch of this size for each stream."""
    texts = sample(size.texts * loaded.streams)
    lengths, _ = loaded.counter.read(loaded.counter.whole(texts))
    room = size.tokens * loaded.streams
    count = sum(1 for total in itertools.accumulate(lengths) if total <= room)
    return texts[: max(1, count)], lengths[: max(1, count)]


def _seconds(
    pool: ThreadPoolExecutor, loaded: Loaded, texts: Sequence[str], lengths: Sequence[int], size: Caps,
    clock: Callable[[], float],
) -> float | None:  # fmt: skip
    batches = micro_batches(lengths, *size)
    begun = clock()
    try:
        list(pool.map(loaded.encode, ([texts[position] for position in batch] for batch in batches)))
    except OutOfMemory:
        return None
    return max(clock() - begun, 1e-6)


def _circumstances(loaded: Loaded, name: str) -> str:
    """Return a digest of everything that the measurement depends on."""
    said = {key: str(value) for key, value in loaded.details.items() if key != "least_cosine"}
    told = json.dumps([name, said, loaded.caps, loaded.streams, _processor()], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()


def _processor() -> str:
    """Return the CPU's name according to Linux."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _kept(settings: EmbedderSettings, name: str) -> Caps | None:
    try:
        found = Caps(**json.loads((settings.models_folder / name).read_text(encoding="utf-8")))
        return found if found.texts > 0 and found.tokens > 0 else None
    except (OSError, ValueError, TypeError):  # no file yet, or an incomplete one: measure again
        return None
