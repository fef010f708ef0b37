"""The pages about the command line: every command with its options, and every exit code."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

from headrace.errors import ConfigurationError
from headrace_tools.markdown import table

Command = tuple[tuple[str, ...], Any]
"""A command's words and its Typer object."""


def commands() -> list[Command]:
    """Return every command of ``headrace`` by name, with the members of groups."""
    typer = importlib.import_module("typer")
    root = typer.main.get_command(importlib.import_module("headrace_cli.app").app)
    return sorted(_leaves((), root), key=lambda command: command[0])


def _leaves(words: tuple[str, ...], command: Any) -> Iterator[Command]:
    members = getattr(command, "commands", None)
    if members is None:
        yield words, command
        return
    for name, member in members.items():
        if not member.hidden:
            yield from _leaves((*words, name), member)


def commands_page(shown: list[Command]) -> str:
    """Return the page of every command; raises :class:`ConfigurationError` for an option without help."""
    parts = ["# Commands\n\nEach option has an environment variable; the command line takes precedence.\n"]
    for words, command in shown:
        rows = [_row(words, option) for option in command.params if option.name != "help"]
        arguments = " ".join(_argument(option) for option in command.params if option.param_type_name == "argument")
        title = " ".join(("headrace", *words, arguments)).strip()
        body = table(("Option", "Variable", "Description"), rows) if rows else "It has no options.\n"
        parts.append(f"## `{title}`\n\n{(command.help or '').strip()}\n\n{body}")
    return "\n".join(parts)


def _row(words: tuple[str, ...], option: Any) -> tuple[str, str, str]:
    text = getattr(option, "help", None)
    if not text:
        raise ConfigurationError(
            "an option has no help", where=f"headrace {' '.join(words)} {option.name}", remedy="Describe what it does."
        )
    shown = _argument(option) if option.param_type_name == "argument" else ", ".join(option.opts)
    variable = option.envvar if isinstance(option.envvar, str) else " ".join(option.envvar or ())
    return f"`{shown}`", f"`{variable}`" if variable else "–", text


def _argument(option: Any) -> str:
    name = str(option.metavar or option.name.upper())
    if option.nargs == -1:
        name += "…"
    return name if option.required else f"[{name}]"


def exit_codes_page() -> str:
    """Return the page of exit codes: of the command and of a stage's process."""
    meanings = importlib.import_module("headrace_cli.exit_codes").MEANINGS
    rows = [(f"`{int(code)}`", meaning) for code, meaning in meanings.items()]
    return (
        "# Exit codes\n\n## `headrace`\n\n"
        + table(("Code", "Meaning"), rows)
        + "\n## A stage's process\n\nIts supervisor restarts it after every code except 0.\n\n"
        + table(("Code", "Meaning"), _process_codes())
    )


def _process_codes() -> list[tuple[str, str]]:
    lifecycle = importlib.import_module("headrace.runtime.loop.lifecycle")
    service = importlib.import_module("headrace.stage_process.main")
    settings = importlib.import_module("headrace.config.settings")
    watchdog = importlib.import_module("headrace.runtime.watchdog")
    meanings = {
        lifecycle.EXIT_DONE: "stopped on request, after draining",
        lifecycle.EXIT_BUG: "a batch failed for a reason that concerns no record: a bug in Headrace",
        lifecycle.EXIT_FENCED: "another worker has the same slot (HEADRACE_WORKER_SLOT)",
        lifecycle.EXIT_OFFSETS_LOST: "a committed offset is outside the log; nothing was skipped, see the message",
        settings.EXIT_CONFIGURATION: "a setting is missing or wrong; the message names it",
        service.EXIT_SIDE_TASK: "a task beside the worker (the endpoint for queries) ended",
        watchdog.EXIT_HUNG: "a Kafka call hung longer than HEADRACE_WORKER_CALL_BOUND_S",
    }
    found = {
        value
        for module in (lifecycle, service, settings, watchdog)
        for name, value in vars(module).items()
        if name.startswith("EXIT_")
    }
    if found != set(meanings):
        raise ConfigurationError(
            f"exit codes without a meaning: {sorted(found ^ set(meanings))}",
            where=__name__,
            remedy="Add its meaning here.",
        )
    return [(f"`{code}`", meaning) for code, meaning in sorted(meanings.items())]
