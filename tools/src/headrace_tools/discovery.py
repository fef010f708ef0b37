"""Finds settings, metrics and errors in the code of all packages, loading only the modules that declare some."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram, Summary
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from headrace.errors import ConfigurationError, HeadraceError

ROOT = Path(__file__).resolve().parents[3]
"""The repository; these tools run on a checkout, never on an installed wheel."""

SOURCES = ("core/src", "cli/src", "operations/src", "infra/local/src", "benchmarks/src", "services/*/src")
METRIC_TYPES = (Counter, Gauge, Histogram, Summary)


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the workspace: its dotted name and its syntax tree."""

    name: str
    tree: ast.Module


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: the environment variable that carries it, and its field."""

    variable: str
    owner: type[BaseSettings]
    field: FieldInfo


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the workspace except test support and these tools, sorted by name."""
    found = []
    for source in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            if "migrations" in parts:
                continue
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def settings_classes() -> list[type[BaseSettings]]:
    """Return every settings class, by the prefix of its variables."""
    found = list(_subclasses(BaseSettings))
    return sorted(found, key=lambda cls: (str(cls.model_config.get("env_prefix")), cls.__name__))


def settings() -> list[Setting]:
    """Return every setting of every class."""
    return [setting for cls in settings_classes() for setting in settings_of(cls)]


def settings_of(cls: type[BaseSettings]) -> list[Setting]:
    """Return the settings of a class, in the order of its fields.

    Raises :class:`ConfigurationError` for a field without description or with another name than its variable's.
    """
    prefix = str(cls.model_config.get("env_prefix") or "")
    found = []
    for name, field in cls.model_fields.items():
        where = f"{cls.__module__}:{cls.__qualname__}.{name}"
        if not (field.description or "").strip():
            raise ConfigurationError(
                "a setting has no description",
                where=where,
                remedy="Give its Field a description that includes the unit.",
            )
        if field.validation_alias is not None:
            raise ConfigurationError(
                "a setting has an alias, which hides its variable",
                where=where,
                remedy="Give the field the name of its variable.",
            )
        found.append(Setting(f"{prefix}{name}".upper(), cls, field))
    return found


def metrics() -> list[Any]:
    """Return every Prometheus metric that a module declares, by name."""
    found = {}
    for module in modules():
        if any(_imports(node, "prometheus_client") for node in ast.walk(module.tree)):
            for value in vars(importlib.import_module(module.name)).values():
                if isinstance(value, METRIC_TYPES):
                    found[exposed_name(value)] = value
    return [found[name] for name in sorted(found)]


def exposed_name(metric: Any) -> str:
    """Return the metric's name in Prometheus: a counter ends in ``_total``."""
    name: str = metric.describe()[0].name
    return f"{name}_total" if isinstance(metric, Counter) else name


def errors() -> list[type[HeadraceError]]:
    """Return :class:`HeadraceError` and its subclasses, sorted by code and name."""
    found: set[type[HeadraceError]] = {HeadraceError, *_subclasses(HeadraceError)}
    return sorted(found, key=lambda cls: (cls.code, cls.__name__))


def _subclasses(base: type) -> Iterator[type[Any]]:
    """Yield the workspace's classes that derive from ``base``, at any depth."""
    known = {base.__name__}
    while True:
        holders = {module.name: names for module in modules() if (names := _derived(module.tree, known))}
        grown = known.union(*holders.values()) if holders else known
        if grown == known:
            break
        known = grown
    for name, classes in holders.items():
        loaded = importlib.import_module(name)
        for cls in sorted(classes):
            value = getattr(loaded, cls)
            if isinstance(value, type) and issubclass(value, base):
                yield value


def _derived(tree: ast.Module, known: set[str]) -> set[str]:
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_last_name(base) in known for base in node.bases)
    }


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _imports(node: ast.AST, package: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == package
    return isinstance(node, ast.Import) and any(alias.name == package for alias in node.names)
