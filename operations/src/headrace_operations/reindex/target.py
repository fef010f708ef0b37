"""Which generation a reindex builds: the active one with other properties, or the one that is being built. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from headrace.embeddings.models import KNOWN, identity
from headrace.embeddings.preparation import OverLong
from headrace.errors import ConfigurationError
from headrace.store.generations import check_generation
from headrace.store.rows import Generation
from headrace_operations.errors import Refused

_NUMBERED = re.compile(r"g([1-9]\d{0,8})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """The properties of the new generation that the caller names; None means those of the active one."""

    model: str | None = None
    dimensions: int | None = None
    distance: str | None = None
    template: str | None = None
    passage_prompt: str | None = None
    over_long: OverLong | None = None
    analyzer: str | None = None
    storage: str | None = None
    embedder_url: str | None = None

    def over(self, base: Generation) -> Generation:
        """Return the base with these properties; another model brings its own dimensions and prompt.

        Raises :class:`ConfigurationError` for a model of unknown dimensions.
        """
        given = {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not None}
        if self.model is not None and self.model != base.model:
            known = KNOWN.get(identity(self.model))
            if known is None and self.dimensions is None:
                raise ConfigurationError(
                    f"the dimensions of the model {self.model} are unknown", where="--model",
                    remedy="Pass the dimensions of its vectors with --dimensions, and its prompt with "
                    "--passage-prompt.",
                )  # fmt: skip
            own = {"passage_prompt": ""} if known is None else {
                "dimensions": known.dimensions, "passage_prompt": known.passage_prompt}  # fmt: skip
            given = {**own, **given}
        return replace(base, **given)


@dataclass(frozen=True, slots=True)
class Target:
    """The generation to build; ``exists`` if it is being built already."""

    generation: Generation
    exists: bool


def target(known: Sequence[Generation], taken: Sequence[str], name: str | None, wanted: Wanted) -> Target:
    """Return the generation to build, given those that exist and all names that were ever used.

    Without a name, it is the one that is being built, or a new one with the next number. Raises
    :class:`ConfigurationError`, and :class:`Refused` if nothing would change, several are being built, or the named one
    is not being built.
    """
    building = [one for one in known if one.state == "building"]
    active = next((one for one in known if one.state == "active"), None)
    if active is None:
        raise Refused("the index has no active generation to start from", remedy="Run `headrace bootstrap`.")
    if name is None and len(building) > 1:
        raise Refused(
            f"several generations are being built: {', '.join(one.name for one in building)}", where="--generation",
            remedy="Name the one to continue, or a new one.",
        )  # fmt: skip
    found = building[0] if name is None and building else next((one for one in known if one.name == name), None)
    if found is not None:
        return _continued(found, wanted)
    new = replace(
        wanted.over(active), name=name or following(taken), state="building", embedder_url=wanted.embedder_url
    )
    check_generation(new)
    if name is None and _properties(new) == _properties(active):
        raise Refused(
            f"the new generation would equal the active one, {active.name}",
            remedy="Pass what changes: --model, --template, --passage-prompt, --over-long, --analyzer or --storage. To "
            "build an equal one nevertheless, name it with --generation.",
        )
    return Target(new, exists=False)


def _continued(found: Generation, wanted: Wanted) -> Target:
    if found.state != "building":
        raise Refused(
            f"generation {found.name} is {found.state}, not being built", where="--generation",
            remedy="Choose another name for a new one. To search a retired one again, run `headrace reindex rollback`.",
        )  # fmt: skip
    new = wanted.over(found)
    if _properties(new) != _properties(found):
        raise Refused(
            f"generation {found.name} is being built with other properties", where="--generation",
            remedy=f"Continue it without options, drop it with `headrace reindex drop {found.name}`, or choose another "
            "name.",
        )  # fmt: skip
    return Target(new, exists=True)


def _properties(one: Generation) -> Generation:
    return replace(one, name="", state="", embedder_url=None)


def following(taken: Sequence[str]) -> str:
    """Return the name with the next number: g2 after g1, also if g2 was dropped."""
    numbers = [int(found[1]) for name in taken if (found := _NUMBERED.fullmatch(name))]
    return f"g{max(numbers, default=0) + 1}"
