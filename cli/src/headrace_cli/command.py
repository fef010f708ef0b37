"""Turns functions into commands: reports their errors and resolves connections from shared options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import typer
from typer.core import TyperGroup

from headrace_cli import options
from headrace_cli.failures import told


def commands_of(name: str | None = None, help: str | None = None, cls: type[TyperGroup] | None = None) -> typer.Typer:  # noqa: A002
    """Return the group for a module's commands; without a name, they are commands of ``headrace`` itself."""
    return typer.Typer(
        name=name, help=help, cls=cls, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
        add_completion=False,
    )  # fmt: skip


Function = Callable[..., None]


def command(app: typer.Typer, name: str, short_help: str | None = None) -> Callable[[Function], Function]:
    """Register the function as a command; without ``short_help``, lists show the start of its docstring."""

    def made(function: Function) -> Function:
        app.command(name, short_help=short_help)(told(with_options(function)))
        return function

    return made


def with_options(function: Function) -> Function:
    """Return the function with each parameter that is ``Annotated`` with ``Found`` replaced by its options.

    The values of the options become the fields of the parameter's class.
    """
    signature = inspect.signature(function, eval_str=True)
    found: dict[str, tuple[type, options.Found]] = {}
    shown: list[inspect.Parameter] = []
    for one in signature.parameters.values():
        by = next((part for part in get_args(one.annotation) if isinstance(part, options.Found)), None)
        if by is None:
            shown.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        found[one.name] = (get_args(one.annotation)[0], by)
        shown += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=options.BY_NAME[name], default=None)
            for name in by.names
        ]
    if not found:
        return function

    @functools.wraps(function)
    def run(**given: Any) -> None:
        made = {name: kind(**{field: given.pop(field) for field in by.names}) for name, (kind, by) in found.items()}
        function(**given, **made)

    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return run
