"""Which names belong to one generation of the index alone, and how they are written; pure.

The stages that make vectors and index them have lanes of their own in each generation, so that a second one is built
beside the first and neither reads, retries or gives up what is the other's (ADR 12). Everything else is shared.
"""

from __future__ import annotations

GENERATION = r"[a-z][a-z0-9_]{0,30}"
"""What a generation may be called: a part of names of topics, groups and tables."""
GENERATION_STAGES = frozenset({"embedder", "indexer"})
"""Stages of which each generation has workers of its own."""
GENERATION_TOPICS = frozenset({"vectors", "indexed"})
"""What they write; their lanes (``retry.embedder`` and the like) are a generation's own as well."""


def is_own(name: str) -> bool:
    """Whether each generation has one of its own of the topic, or of the stage, that is called so."""
    return name in GENERATION_TOPICS or name.rpartition(".")[2] in GENERATION_STAGES


def in_generation(name: str, generation: str) -> str:
    """Return the name as that generation has it: ``vectors.g2``, ``retry.embedder.g2``, ``chunks``."""
    return f"{name}.{generation}" if is_own(name) else name


def without_generation(name: str, generation: str) -> str:
    """Return the name from which :func:`in_generation` made this one; another generation's name stays as it is."""
    base, _, tail = name.rpartition(".")
    return base if tail == generation and is_own(base) else name


def id_in_generation(identity: str, generation: str) -> str:
    """Return an id (``stage/partition/offset``) as that generation writes it beside those of others."""
    stage, mark, place = identity.partition("/")
    return f"{in_generation(stage, generation)}{mark}{place}"


def own_id(key: bytes | None, generation: str) -> str | None:
    """Return the id that a record's key has as :func:`id_in_generation` wrote it; None for another generation's."""
    name, mark, place = (key or b"").decode("utf-8", "replace").partition("/")
    stage = name.partition(".")[0]
    return f"{stage}{mark}{place}" if in_generation(stage, generation) == name else None
