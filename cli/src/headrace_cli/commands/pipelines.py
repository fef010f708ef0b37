"""``pipeline apply|list|show`` and ``topics``: what speaks to Kafka and the registry itself."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace import pipeline as templates
from headrace import pipelines_log, registry
from headrace.errors import sentences
from headrace.pipeline import Catalogue, HandlerInfo, StageTypes, dump, parse
from headrace.records import PipelineVersion
from headrace.stage import STAGES
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import clients
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import CommandError, NotFound

commands = commands_of("pipeline", "Pipelines: which stages run, with which handlers.")


@command(commands, "apply", "Publish templates as the next versions.")
def apply(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Templates, YAML or JSON.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Check the files, publish nothing.")
    ] = False,
    handler_check: Annotated[
        bool,
        typer.Option(
            "--handler-check/--no-handler-check",
            envvar="HEADRACE_HANDLER_CHECK",
            help="Whether the named handlers must be installed here; a client without them checks all else.",
        ),
    ] = True,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Publish templates as the next versions of their pipelines; nothing is published where one file is refused."""
    texts = {str(path): _text_of(path) for path in files if path.is_file()}
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise NotFound(f"there is no file {', '.join(missing)}", remedy="Check the path.")
    known = catalogue() if handler_check else _without_handlers()
    refusals = [error for name, text in texts.items() for error in templates.problems(text, name, known)]
    if refusals:
        for error in refusals:
            output.say(sentences(f"{error.position}: {error.reason}: {error.message}", error.remedy))
        if as_json:
            output.emit([_refusal(error) for error in refusals])
        raise typer.Exit(ExitCode.FAILED)
    settings, codec = clients(state_dir, kafka, registry)
    results = []
    for name, text in texts.items():
        template = templates.load(text, name, known)
        applied = pipelines_log.apply(settings, codec, template, applied_by=getpass.getuser(), dry_run=dry_run)
        results.append({**_listed(applied.version), "changed": applied.changed, "file": name})
        if not as_json:
            verb = "unchanged at" if not applied.changed else "would become" if dry_run else "is now"
            typer.echo(f"{name}: pipeline {template.id} {verb} version {applied.version.version}")
    if as_json:
        output.emit(results)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f"the template cannot be read: {error}", where=str(path), remedy="Save it as UTF-8."
        ) from error


def catalogue() -> Catalogue:
    """Return the stages, and the handlers that are installed here; with none installed, handlers are not checked."""
    handlers = {
        handler.name: HandlerInfo(handler.stage, handler.version, handler.consumes.__name__, handler.produces.__name__)
        for handler in registry.installed().all()
    }
    return Catalogue(_without_handlers().stages, handlers or None)


def _without_handlers() -> Catalogue:

    return Catalogue(
        {name: StageTypes(flow.consumes.__name__, flow.produces.__name__) for name, flow in STAGES.items()}
    )


@command(commands, "list")
def show_all(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """List the pipelines and their versions."""
    versions = pipelines_log.read_all(*clients(state_dir, kafka, registry)).all()
    if as_json:
        output.emit([_listed(version) for version in versions])
        return
    rows = [
        (one.pipeline_id, one.version, _stages_of(one), one.applied_by, one.applied_at.isoformat(timespec="seconds"))
        for one in versions
    ]
    columns = ("pipeline", "version", "stages", "applied by", "applied at")
    output.console().print(output.table(columns, rows, right=("version",)))


@command(commands, "show", "Print a pipeline's template as YAML.")
def show(
    pipeline_id: Annotated[str, typer.Argument(metavar="ID", help="The pipeline.")],
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_PIPELINE_VERSION", min=1, help="Without it, the newest.", show_default=False
        ),
    ] = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """Print a pipeline's template as YAML, to be edited and applied again."""
    known = pipelines_log.read_all(*clients(state_dir, kafka, registry)).all()
    found = [one for one in known if one.pipeline_id == pipeline_id and version in (None, one.version)]
    if not found:
        asked = pipeline_id if version is None else f"{pipeline_id} version {version}"
        raise NotFound(f"there is no pipeline {asked}", remedy="`headrace pipeline list` shows those that exist.")
    newest = found[-1]
    if as_json:
        output.emit({**_listed(newest), "template": newest.template})
    else:
        typer.echo(f"# {newest.pipeline_id} version {newest.version}, applied by {newest.applied_by}")
        typer.echo(dump(parse(newest.template, newest.pipeline_id)), nl=False)


def _listed(version: PipelineVersion) -> dict[str, Any]:
    return {
        "pipeline": version.pipeline_id,
        "version": version.version,
        "digest": version.digest,
        "applied_by": version.applied_by,
        "applied_at": version.applied_at.isoformat(),
    }


def _stages_of(version: PipelineVersion) -> str:

    template = parse(version.template, version.pipeline_id)
    return " → ".join(f"{stage.stage}({', '.join(stage.handlers)})" for stage in template.stages)


def _refusal(error: Any) -> dict[str, Any]:
    position = error.position
    return {"file": position.file, "line": position.line, "column": position.column, "reason": error.reason,
            "message": error.message, "remedy": error.remedy}  # fmt: skip
