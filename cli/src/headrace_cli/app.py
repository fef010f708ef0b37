"""The command ``headrace``; each subcommand loads what it needs when it runs, so that the help is there at once."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace_cli import __version__
from headrace_cli.commands import alerts as alert_commands
from headrace_cli.commands import audit as audit_commands
from headrace_cli.commands import capture as capture_commands
from headrace_cli.commands import dlq as dlq_commands
from headrace_cli.commands import documents as document_commands
from headrace_cli.commands import embeddings as embedding_commands
from headrace_cli.commands import generations as generation_commands
from headrace_cli.commands import held as held_commands
from headrace_cli.commands import objects as object_commands
from headrace_cli.commands import orders as control_commands
from headrace_cli.commands import pipelines as pipeline_commands
from headrace_cli.commands import replay as replay_commands
from headrace_cli.commands import runs as run_commands
from headrace_cli.commands import search as search_commands
from headrace_cli.commands import stack as stack_commands
from headrace_cli.commands import trace as trace_commands
from headrace_cli.exit_codes import epilog

app = typer.Typer(
    name="headrace",
    help="Keep a pgvector index, and the documents generated from it, fresh from a stream of change events.",
    epilog=epilog(),
    no_args_is_help=True,
    rich_markup_mode=None,  # drawing boxes would take longer than all the rest of the help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    stack_commands,
    document_commands,
    search_commands,
    pipeline_commands,
    control_commands,
    held_commands,
    dlq_commands,
    replay_commands,
    trace_commands,
    run_commands,
    audit_commands,
    generation_commands,
    object_commands,
    embedding_commands,
    alert_commands,
    capture_commands,
):
    module.register(app)


def _version(given: bool) -> None:
    if given:
        typer.echo(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Keep a pgvector index, and the documents generated from it, fresh from a stream of change events."""


def run() -> None:
    """Run the command line; the process ends with one of :class:`headrace_cli.exit_codes.ExitCode`."""
    app()


if __name__ == "__main__":
    run()
