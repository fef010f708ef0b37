"""Asks for confirmation before an action that cannot be undone."""

from __future__ import annotations

import sys

import typer

from headrace_cli.failures import UsageError


def require_yes(question: str, *, yes: bool) -> None:
    """Return if ``yes`` is set or the user agrees; raises :class:`typer.Abort` for a no.

    Raises :class:`UsageError` naming ``--yes`` if there is no terminal to ask on.
    """
    if yes:
        return
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort as error:
        if sys.stdin.isatty():  # Ctrl-C
            raise
        typer.echo(err=True)
        raise UsageError(
            "the command must ask for confirmation, but it does not run in a terminal; nothing was done", where="--yes",
            remedy="Run it with --yes, or in a terminal.",
        ) from error  # fmt: skip
    if not agreed:
        raise typer.Abort
