"""``pipeline apply|list|show`` and ``topics``: what speaks to Kafka and the registry itself."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.errors import sentences
from headrace_cli import options, output
from headrace_cli.context import clients, kafka_settings
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import CommandError, NotFound, told

if TYPE_CHECKING:
    from headrace.pipeline import Catalogue
    from headrace.records import PipelineVersion

pipelines = typer.Typer(name="pipeline", help="Pipelines: which stages run, with which handlers.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Pipelines and topics"
    pipelines.command("apply", short_help="Publish templates as the next versions.")(told(apply))
    pipelines.command("list")(told(show_all))
    pipelines.command("show", short_help="Print a pipeline's template as YAML.")(told(show))
    app.add_typer(pipelines, rich_help_panel=panel)
    app.command("topics", rich_help_panel=panel, short_help="Show the topics and how far their readers are.")(
        told(topics)
    )


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
    from headrace import pipeline as templates  # noqa: PLC0415
    from headrace import pipelines_log  # noqa: PLC0415

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
    from headrace import registry  # noqa: PLC0415
    from headrace.pipeline import Catalogue, HandlerInfo  # noqa: PLC0415

    handlers = {
        handler.name: HandlerInfo(handler.stage, handler.version, handler.consumes.__name__, handler.produces.__name__)
        for handler in registry.installed().all()
    }
    return Catalogue(_without_handlers().stages, handlers or None)


def _without_handlers() -> Catalogue:
    from headrace.pipeline import Catalogue, StageTypes  # noqa: PLC0415
    from headrace.stage import STAGES  # noqa: PLC0415

    return Catalogue(
        {name: StageTypes(flow.consumes.__name__, flow.produces.__name__) for name, flow in STAGES.items()}
    )


def show_all(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
    as_json: options.Json = False,
) -> None:
    """List the pipelines and their versions."""
    from headrace import pipelines_log  # noqa: PLC0415

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
    from headrace import pipelines_log  # noqa: PLC0415
    from headrace.pipeline import dump, parse  # noqa: PLC0415

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


def topics(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the topics: partitions, records' end offsets, and how far the stages that read them are behind."""
    from headrace import topics as declared  # noqa: PLC0415
    from headrace.lag import LogReader  # noqa: PLC0415

    settings = kafka_settings(state_dir, kafka)
    reader = LogReader(settings)
    known = declared.concrete()
    partitions = reader.partitions(topic.name for topic in known)
    ends = reader.ends(partitions)
    readers = {one.topic: one for one in reader.stages()}
    rows: list[dict[str, Any]] = [
        {
            "topic": topic.name,
            "exists": topic.name in partitions,
            "partitions": topic.partitions,
            "end": sum(end for (name, _), end in ends.items() if name == topic.name),
            "read_by": readers[topic.name].stage if topic.name in readers else None,
            "behind": readers[topic.name].behind if topic.name in readers else None,
        }
        for topic in known
    ]
    if as_json:
        output.emit(rows)
    else:
        columns = ("topic", "exists", "partitions", "end offsets", "read by", "records behind")
        cells = [(r["topic"], "yes" if r["exists"] else "no", *list(r.values())[2:]) for r in rows]
        output.console().print(output.table(columns, cells, right=("partitions", "end offsets", "records behind")))
    if len(partitions) < len(known):
        raise NotFound(
            f"{len(known) - len(partitions)} of the declared topics do not exist", remedy="Run `headrace bootstrap`."
        )


def _listed(version: PipelineVersion) -> dict[str, Any]:
    return {
        "pipeline": version.pipeline_id,
        "version": version.version,
        "digest": version.digest,
        "applied_by": version.applied_by,
        "applied_at": version.applied_at.isoformat(),
    }


def _stages_of(version: PipelineVersion) -> str:
    from headrace.pipeline import parse  # noqa: PLC0415

    template = parse(version.template, version.pipeline_id)
    return " → ".join(f"{stage.stage}({', '.join(stage.handlers)})" for stage in template.stages)


def _refusal(error: Any) -> dict[str, Any]:
    position = error.position
    return {"file": position.file, "line": position.line, "column": position.column, "reason": error.reason,
            "message": error.message, "remedy": error.remedy}  # fmt: skip
