"""``pipeline apply|list|show``: which stages run, with which handlers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.errors import sentences
from headrace.payloads import PipelineVersion
from headrace.pipeline import dump, parse
from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLog
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import CommandError, NotFound

commands = commands_of("pipeline", "Manage pipelines: the stages and handlers that records pass.")


@command(commands, "apply", "Publish pipeline templates as new versions.")
def apply(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Pipeline templates, YAML or JSON.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Check the files without publishing them.")
    ] = False,
    handler_check: Annotated[
        bool,
        typer.Option(
            "--handler-check/--no-handler-check",
            envvar="HEADRACE_HANDLER_CHECK",
            help="Require the named handlers to be installed here; --no-handler-check skips only this check.",
        ),
    ] = True,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Publish templates as the next versions of their pipelines. If one file is refused, nothing is published."""
    from headrace_operations.pipelines import apply as operations
    from headrace_operations.pipelines.apply import ApplyRequest

    request = ApplyRequest(_texts_of(files), handler_check)
    refusals = request.problems()
    if refusals:
        for error in refusals:
            output.say(sentences(f"{error.position}: {error.reason}: {error.message}", error.remedy))
        if as_json:
            output.emit([_refusal(error) for error in refusals])
        raise typer.Exit(ExitCode.FAILED)
    results = []
    for done in operations.apply(operator.cluster(), request, dry_run=dry_run):
        results.append({**_listed(done.version), "changed": done.changed, "file": done.file})
        if not as_json:
            verb = "unchanged at" if not done.changed else "would become" if dry_run else "is now"
            typer.echo(f"{done.file}: pipeline {done.version.pipeline_id} {verb} version {done.version.version}")
    if as_json:
        output.emit(results)


@command(commands, "list")
def show_all(*, operator: InLog, as_json: options.Json = False) -> None:
    """List the pipelines and their versions."""
    versions = operator.cluster().pipelines().all()
    if as_json:
        output.emit([_listed(version) for version in versions])
        return
    rows = [
        (one.pipeline_id, one.version, _stages_of(one), one.applied_by, one.applied_at.isoformat(timespec="seconds"))
        for one in versions
    ]
    columns = ("pipeline", "version", "stages", "applied by", "applied at")
    tables.console().print(tables.table(columns, rows, right=("version",)))


@command(commands, "show", "Print a pipeline's template as YAML.")
def show(
    pipeline_id: Annotated[str, typer.Argument(metavar="ID", help="ID of the pipeline.")],
    version: Annotated[
        int | None,
        typer.Option(
            "--version",
            envvar="HEADRACE_PIPELINE_VERSION",
            min=1,
            help="Version of the pipeline. Default: the newest.",
            show_default=False,
        ),
    ] = None,
    *,
    operator: InLog,
    as_json: options.Json = False,
) -> None:
    """Print a pipeline's template as YAML, so that you can edit and apply it."""
    from headrace_operations.pipelines import apply as operations

    found = operations.find(operator.cluster(), pipeline_id, version)
    if as_json:
        output.emit({**_listed(found), "template": found.template})
    else:
        typer.echo(f"# {found.pipeline_id} version {found.version}, applied by {found.applied_by}")
        typer.echo(dump(parse(found.template, found.pipeline_id)), nl=False)


def _texts_of(files: list[Path]) -> dict[str, str]:
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise NotFound(f"file not found: {', '.join(missing)}", remedy="Check the path.")
    return {str(path): _text_of(path) for path in files}


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read the template: {error}", where=str(path), remedy="Save it as UTF-8.") from error


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
