"""The one way to ask before something is done that cannot be taken back."""

from __future__ import annotations

import sys

import typer

from headrace_cli.failures import UsageError


def require_yes(question: str, *, yes: bool) -> None:
    """Go on where ``yes`` was given or a person agrees; raises :class:`typer.Abort` for a no.

    Raises :class:`UsageError` naming ``--yes`` where nobody is there to answer.
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
            "confirmation required, but there is no terminal to ask on; nothing was done", where="--yes",
            remedy="Run it with --yes, or in a terminal.",
        ) from error  # fmt: skip
    if not agreed:
        raise typer.Abort
