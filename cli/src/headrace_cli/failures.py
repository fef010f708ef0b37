"""Errors of commands and their messages: what happened, where, what to do; a traceback only on demand."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import typer

from headrace.errors import ConfigurationError, DependencyDown, HeadraceError
from headrace_cli.exit_codes import ExitCode
from headrace_operations.errors import NotThere

P = ParamSpec("P")
R = TypeVar("R")
DEBUG = "HEADRACE_DEBUG"


UNKNOWN_DOCUMENT = (
    "Check the ID: a file's is its path below the ingested folder; `headrace search` shows IDs. For very recent "
    "failures run `headrace trace ID`."
)
"""What to do if the gateway does not know a document."""


class CommandError(HeadraceError):
    """The command cannot be carried out."""

    code = "command"
    exit_code = ExitCode.FAILED


class NotReachable(CommandError):
    """A service that the command needs does not answer."""

    code = "not-reachable"
    exit_code = ExitCode.UNREACHABLE
    default_remedy = "Start the local stack with `headrace up`, or pass --url or set HEADRACE_URL."


class NotFound(CommandError):
    """What the command names does not exist."""

    code = "not-found"
    exit_code = ExitCode.NOT_FOUND


class TimedOut(CommandError):
    """The command did not finish in time."""

    code = "timed-out"
    exit_code = ExitCode.TIMED_OUT


class SomeFailed(CommandError):
    """Some items failed, which the message names; the others succeeded."""

    code = "some-failed"
    exit_code = ExitCode.SOME_FAILED


class UsageError(CommandError):
    """A value on the command line is wrong."""

    code = "usage"
    exit_code = ExitCode.USAGE


class ProblemError(CommandError):
    """The gateway refused the request; ``document`` is its problem document (RFC 9457)."""

    code = "problem"

    def __init__(self, status: int, document: dict[str, Any], *, where: str) -> None:
        self.status = status
        self.document = document
        if status in (401, 403):
            self.exit_code = ExitCode.DENIED
        elif status == 404:
            self.exit_code = ExitCode.NOT_FOUND
        elif status in (429, 502, 503, 504):
            self.exit_code = ExitCode.UNREACHABLE
        fields = "; ".join(f"{e.get('field', '?')}: {e.get('reason', '?')}" for e in document.get("errors", [])[:5])
        message = str(document.get("detail") or document.get("title") or f"HTTP {status}")
        super().__init__(f"{message} {fields}".strip(), where=where, remedy=str(document.get("remedy", "")))


def exit_code_of(error: HeadraceError) -> ExitCode:
    """Return the exit code for the error."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, DependencyDown):
        return ExitCode.UNREACHABLE
    if isinstance(error, NotThere):
        return ExitCode.NOT_FOUND
    return ExitCode.USAGE if isinstance(error, ConfigurationError) else ExitCode.FAILED


def show(error: HeadraceError) -> None:
    """Print an error to stderr: the message, then where it happened and what to do, each on a separate line."""
    typer.secho(f"error: {error.message}", fg="red", err=True)
    if error.where:
        typer.echo(f"where: {error.where}", err=True)
    if error.remedy:
        typer.echo(f"what to do: {error.remedy}", err=True)


def told(function: Callable[P, R]) -> Callable[P, R]:
    """Return the command with its errors printed by :func:`show` and turned into exit codes."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except HeadraceError as error:
            _trace()
            show(error)
            raise typer.Exit(exit_code_of(error)) from error
        except BrokenPipeError as error:  # the reader closed the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from error
        except Exception as error:
            _trace()
            show(
                CommandError(
                    f"unexpected error: {type(error).__name__}: {error}",
                    remedy=f"Run the command again with {DEBUG}=1 and report its output.",
                )
            )
            raise typer.Exit(ExitCode.FAILED) from error

    return run


def _trace() -> None:
    if os.environ.get(DEBUG) == "1":
        traceback.print_exc()
