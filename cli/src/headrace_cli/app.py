"""The command ``headrace``: knows all commands by name and loads only the module of the one that runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from headrace import __version__
from headrace_cli.exit_codes import epilog


class Entry(NamedTuple):
    """A command or group: its module below :mod:`headrace_cli.commands` and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "up": Entry("stack", "Start the local stack and wait until it is ready."),
    "down": Entry("stack", "Stop the local stack and keep its data."),
    "status": Entry("status", "Show the state of the stack, or of one document."),
    "logs": Entry("stack", "Show the logs of the local stack."),
    "bootstrap": Entry("stack", "Create topics, schemas, tables and pipelines."),
    "ingest": Entry("documents", "Send documents and change events."),
    "delete": Entry("documents", "Delete documents from the index."),
    "documents": Entry("documents", "List the documents with given attributes."),
    "search": Entry("search", "Find the passages that best match a query."),
    "ask": Entry("search", "Answer a question from the documents, with citations."),
    "keys": Entry("keys", "Create, list and revoke API keys."),
    "topics": Entry("topics", "Show the topics and the lag of the stages that read them."),
    "pause": Entry("orders", "Pause a stage, tenant, pipeline or replay."),
    "resume": Entry("orders", "Resume a stage, tenant, pipeline or replay."),
    "orders": Entry("orders", "Show the orders in force."),
    "trace": Entry("trace", "Show the path of a document or request through the stages."),
    "runs": Entry("runs", "Show the progress of runs."),
    "audit": Entry("audit", "Compare the log with the store, document by document."),
    "pipeline": Entry("pipelines", "Manage pipelines: the stages and handlers that records pass."),
    "held": Entry("held", "List held records."),
    "review": Entry("review", "Review the output of stages: approve or reject it."),
    "dlq": Entry("dlq", "List, redrive or discard dead letters."),
    "replay": Entry("replay", "Start and control replays: a stage reads its records again."),
    "generations": Entry("generations", "List and create generations of the index."),
    "reindex": Entry("reindex", "Change the model, template or analyzer of the index without downtime."),
    "index": Entry("index", "Inspect and rebuild the indexes of vectors."),
    "objects": Entry("objects", "Inspect and clean up the object store."),
    "embeddings": Entry("embeddings", "Show the cost and progress of embedding, or embed again."),
    "alerts": Entry("alerts", "Send alerts to Slack and Discord."),
    "capture": Entry("capture", "Capture PostgreSQL tables as documents."),
}
"""Every command and group, in the order of the help; a test compares it with the modules."""


class OnDemand(MutableMapping[str, Any]):
    """Maps names to commands; a lookup loads the module."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            module = importlib.import_module(f"headrace_cli.commands.{COMMANDS[name].module}")
            group = get_group(module.commands)
            self._loaded[name] = group if group.name == name else group.commands[name]
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]


class LazyGroup(TyperGroup):
    """Lists commands from :data:`COMMANDS` for help and completion, without loading their modules."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": OnDemand()})
        self._listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, or a placeholder with its help line while commands are being listed."""
        if self._listing and cmd_name in COMMANDS:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name].help)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return all names, in the order of the help."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands' lines of the help."""
        self._listing = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the names that a shell may complete, each with its line of the help."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False


app = typer.Typer(
    name="headrace",
    cls=LazyGroup,
    help="Keep a pgvector index, and the documents generated from it, fresh from a stream of change events.",
    epilog=epilog(),
    no_args_is_help=True,
    rich_markup_mode=None,  # drawing boxes would take longer than all the rest of the help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(given: bool) -> None:
    if given:
        typer.echo(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Keep a pgvector index, and the documents generated from it, fresh from a stream of change events."""


def run() -> None:
    """Run the command line; the process ends with one of :class:`headrace_cli.exit_codes.ExitCode`."""
    app()


if __name__ == "__main__":
    run()
