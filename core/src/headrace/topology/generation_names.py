"""The names of stages and topics that each generation of the index has for itself; pure.

Each generation has its own embedder and indexer with their own lanes, so a second generation can be built beside the
first, and neither reads, retries or dead-letters the other's records (ADR 12). Everything else is shared.
"""

from __future__ import annotations

GENERATION = r"[a-z][a-z0-9_]{0,30}"
"""Pattern of a generation's name, which is a part of topic, group and table names."""
GENERATION_STAGES = frozenset({"embedder", "indexer"})
"""Stages of which each generation has its own workers."""
GENERATION_TOPICS = frozenset({"vectors", "indexed"})
"""The topics that these stages write. Their lanes (such as ``retry.embedder``) belong to one generation too."""


def is_own(name: str) -> bool:
    """Whether each generation has its own topic or stage with this name."""
    return name in GENERATION_TOPICS or name.rpartition(".")[2] in GENERATION_STAGES


def in_generation(name: str, generation: str) -> str:
    """Return the name within the generation: ``vectors.g2``, ``retry.embedder.g2``; ``chunks`` stays as it is."""
    return f"{name}.{generation}" if is_own(name) else name


def without_generation(name: str, generation: str) -> str:
    """Reverse :func:`in_generation`; the name of another generation is returned unchanged."""
    base, _, tail = name.rpartition(".")
    return base if tail == generation and is_own(base) else name


def id_in_generation(identity: str, generation: str) -> str:
    """Return the key for an ID (``stage/partition/offset``) of this generation in a topic that generations share."""
    stage, mark, place = identity.partition("/")
    return f"{in_generation(stage, generation)}{mark}{place}"


def own_id(key: bytes | None, generation: str) -> str | None:
    """Return the ID in a key that :func:`id_in_generation` returned, or None for a key of another generation."""
    name, mark, place = (key or b"").decode("utf-8", "replace").partition("/")
    stage = name.partition(".")[0]
    return f"{stage}{mark}{place}" if in_generation(stage, generation) == name else None
