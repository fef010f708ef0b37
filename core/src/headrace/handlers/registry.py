"""The registry of handlers: found by name at run time, filled by entry points."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import entry_points

from headrace.errors import ConfigurationError
from headrace.handler import Handler

ENTRY_POINT_GROUP = "headrace.handlers"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")


class HandlerRegistry:
    """Handler classes by stage and name."""

    def __init__(self, handlers: Iterable[type[Handler]] = ()) -> None:
        self._by_stage: dict[str, dict[str, type[Handler]]] = {}
        for handler in handlers:
            self.add(handler)

    def add(self, handler: type[Handler]) -> type[Handler]:
        """Add a class; raises :class:`ConfigurationError` if it breaks the contract or the name is taken."""
        where = f"{handler.__module__}:{handler.__qualname__}"
        parts = {"name": "name", "stage": "stage", "consumes": "record types"}
        missing = [words for part, words in parts.items() if not hasattr(handler, part)]
        if missing:
            raise ConfigurationError(f"handler does not declare {', '.join(missing)}", where=where)
        if not _NAME.fullmatch(handler.name):
            raise ConfigurationError(
                f"invalid handler name {handler.name!r}: use [a-z][a-z0-9-]*, at most 63 characters", where=where
            )
        stage = self._by_stage.setdefault(handler.stage, {})
        taken = stage.setdefault(handler.name, handler)
        if taken is not handler:
            raise ConfigurationError(
                f"handler {handler.name!r} of stage {handler.stage!r} exists twice",
                where=f"{where} and {taken.__module__}:{taken.__qualname__}",
                remedy="Uninstall one of the packages or rename one of the handlers.",
            )
        return handler

    def names(self, stage: str) -> list[str]:
        """Names of the stage's handlers, sorted."""
        return sorted(self._by_stage.get(stage, {}))

    def all(self) -> list[type[Handler]]:
        """Every handler class, by stage and name."""
        return [self._by_stage[stage][name] for stage in sorted(self._by_stage) for name in self.names(stage)]

    def find(self, stage: str, name: str) -> type[Handler]:
        """Return the class; raises :class:`ConfigurationError` naming the existing ones."""
        try:
            return self._by_stage[stage][name]
        except KeyError:
            raise ConfigurationError(
                f"stage {stage!r} has no handler {name!r}",
                remedy=f"Its handlers: {', '.join(self.names(stage)) or 'none'}. To add one, install its package where "
                f"the stage runs (entry-point group {ENTRY_POINT_GROUP!r}), then restart the stage.",
            ) from None


def installed(stage: str | None = None) -> HandlerRegistry:
    """Return a registry of the handlers in installed packages, of one stage or of all.

    An entry point is named ``stage.handler``, so that a service loads no module of another stage.
    Raises :class:`ConfigurationError` naming an entry point that cannot be loaded or has the wrong name.
    """
    registry = HandlerRegistry()
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if stage is not None and point.name.partition(".")[0] != stage:
            continue
        try:
            handler = point.load()
        except Exception as error:
            raise ConfigurationError(
                f"entry point {point.name!r} = {point.value!r} cannot be loaded: {type(error).__name__}: {error}",
                remedy="Fix or uninstall the package that declares it.",
            ) from error
        if not (isinstance(handler, type) and issubclass(handler, Handler)):
            raise ConfigurationError(f"entry point {point.name!r} = {point.value!r} is not a Handler class")
        registry.add(handler)
        if point.name != f"{handler.stage}.{handler.name}":
            raise ConfigurationError(
                f"entry point {point.name!r} loads the handler {handler.name!r} of stage {handler.stage!r}",
                remedy=f"Rename the entry point to {handler.stage}.{handler.name}.",
            )
    return registry
