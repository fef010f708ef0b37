"""Shows reindexing: what is built, how far it is, what was verified, switched and dropped."""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import typer
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from headrace.payloads import ReplayRun
from headrace.store.dense_index import Told
from headrace.store.rows import Generation
from headrace_cli import output, tables
from headrace_operations.cluster import Cluster
from headrace_operations.reindex.drop import Dropped
from headrace_operations.reindex.progress import Progress, progress
from headrace_operations.reindex.switch import Switched
from headrace_operations.reindex.target import Target
from headrace_operations.reindex.verify import Verified
from headrace_operations.replay.copier import Progress as Filled
from headrace_operations.replay.plan import Estimate
from headrace_operations.replay.runs import in_all, to_read

_WATCH_S = 2.0
_LEAST_SHARE = 20
"""Counting documents may take at most one part in this many of the time."""
_SHOWN = 10


def show_plan(
    found: Target, estimated: Estimate | None, deploy: Mapping[str, Mapping[str, str]], *, local: bool, as_json: bool
) -> None:
    """Print what would be built."""
    one = found.generation
    documents, calls = (0, 0) if estimated is None else (estimated.documents, estimated.model_calls or 0)
    if as_json:
        output.emit({
            "dry_run": True, "exists": found.exists, **asdict(one), "documents": documents, "model_calls": calls,
            "deploy": {} if local else deploy,
        })  # fmt: skip
        return
    typer.echo(f"{'continue' if found.exists else 'build'} generation {_described(one)}")
    typer.echo(f"{documents} documents to fill it from, {calls} texts to embed")
    if not local:
        say_deploy(one, deploy)


def _described(one: Generation) -> str:
    return f"{one.name}: {one.model}, {one.dimensions} dimensions, {one.storage}, text {one.template!r}, {one.analyzer}"


def say_begun(one: Generation, *, exists: bool) -> None:
    """Report which generation is built."""
    output.say(f"{'continuing' if exists else 'created'} generation {_described(one)}")


def say_deploy(generation: Generation, deploy: Mapping[str, Mapping[str, str]]) -> None:
    """Report which services to deploy, with their settings."""
    for stage, settings in deploy.items():
        output.say(f"deploy one more {stage} (headrace-{stage}) with the settings of the others, except:")
        for name, value in settings.items():
            output.say(f"  {name}={shlex.quote(value)}")
    if generation.embedder_url is None:
        output.say(
            "gateway and generator must reach both embedders: their HEADRACE_…_EMBEDDER_URL needs {generation}, or "
            "pass --embedder-url here"
        )


@contextmanager
def filled(cluster: Cluster, name: str) -> Iterator[Filled]:
    """Show documents done of all, rate and remaining time: a bar on a terminal, a line every ten seconds elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TextColumn("{task.fields[more]}"), TimeRemainingColumn())  # fmt: skip
    terminal = sys.stderr.isatty()
    with Bar(*columns, console=tables.messages(), disable=not terminal) as bar:
        task = bar.add_task(f"filling {name}", total=None, more="")
        begun = time.monotonic()
        counted, first, said = "", -1, 0.0
        due = begun

        def told(run: ReplayRun, waiting: int) -> None:
            nonlocal counted, first, said, due
            now = time.monotonic()
            first = run.sent if first < 0 else first
            if now >= due:
                counted = _counted(cluster, name)
                spent = time.monotonic() - now
                due = now + max(_WATCH_S, _LEAST_SHARE * spent)
            rate = (run.sent - first) / max(0.1, now - begun)
            left = to_read(run)
            more = f"{counted}, {run.sent} sent, {rate:.0f}/s, {waiting} under way"
            bar.update(task, total=max(1, in_all(run)), completed=in_all(run) - left, more=more)
            if not terminal and now - said > 5 * _WATCH_S:
                said = now
                remaining = f", {left / rate:.0f} s left" if rate and left else ""
                output.say(f"filling {name}: {more}{remaining}")

        yield told


def _counted(cluster: Cluster, name: str) -> str:
    """Return documents done of all, in words."""
    from headrace.store.reindex import coverage  # noqa: PLC0415
    from headrace_operations.generations.rights import owner  # noqa: PLC0415

    async def counted() -> str:
        async with owner(cluster.known_store()) as connection:
            found = await coverage(connection, name)
        return f"{sum(one.covered for one in found)} of {sum(one.documents for one in found)} documents"

    return asyncio.run(counted())


@contextmanager
def built(name: str) -> Iterator[Told]:
    """Show how far the build of an index is."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"),
               TextColumn("{task.fields[phase]}"))  # fmt: skip
    with Bar(*columns, console=tables.messages(), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task(f"index of {name}", total=1.0, phase="")
        yield lambda at: bar.update(task, completed=at.share, phase=at.phase)


def watched(cluster: Cluster, name: str | None, *, watch: bool, as_json: bool) -> None:
    """Print the progress, again and again with ``watch``, as long as a generation is being filled."""
    while True:
        found = asyncio.run(progress(cluster, name))
        show_progress(found, as_json=as_json)
        if not watch or not any(one.phase.startswith(("filling", "waiting")) for one in found):
            return
        time.sleep(_WATCH_S)


def show_progress(found: Sequence[Progress], *, as_json: bool) -> None:
    """Print how far generations are."""
    if as_json:
        output.emit([one.document() for one in found])
        return
    columns = ("Generation", "Model", "State", "Documents", "Filling", "Left", "Index", "Workers")
    rows = [
        (one.generation.name, one.generation.model, one.phase, f"{one.covered} of {one.documents}", _filling(one),
         _left(one), _index(one), ", ".join(f"{stage} {count}" for stage, count in one.workers.items()))
        for one in found
    ]  # fmt: skip
    tables.console().print(tables.table(columns, rows) if rows else "No generations yet.")


def _filling(one: Progress) -> str | None:
    at = one.filling
    if at is None:
        return None
    limit = "" if at.limit is None else f" (limit {at.limit}/s)"
    return f"{at.state.lower()}, {at.percent} %, {at.per_second:.0f}/s{limit}"


def _left(one: Progress) -> str | None:
    seconds = None if one.filling is None else one.filling.remaining_s
    return None if seconds is None else f"{seconds:.0f} s"


def _index(one: Progress) -> str | None:
    if one.index is None:
        return None
    return f"{one.index.kind}, {one.index.bytes / 2**20:.1f} MiB{'' if one.index.valid else ', not valid'}"


def show_verified(found: Verified, *, as_json: bool) -> None:
    """Print what was verified."""
    if as_json:
        output.emit(found.document())
        return
    documents = sum(one.documents for one in found.tenants)
    covered = sum(one.covered for one in found.tenants)
    typer.echo(f"coverage: {covered} of {documents} documents in {len(found.tenants)} tenants")
    for lost in found.missing[:_SHOWN]:
        output.say(
            f"missing: {lost.tenant}/{lost.document_id} version {lost.version}; repair: headrace replay --stage "
            f"embedder --tenant {lost.tenant} --document {shlex.quote(lost.document_id)} --into {found.generation}"
        )
    typer.echo(f"digests: {len(found.report.findings)} differences, {len(found.report.pending)} on their way")
    if found.before is not None and found.after is not None:
        columns = ("Generation", "nDCG@10", "recall@10", "MRR@10", "p50 ms")
        rows = [(name, *asdict(one).values()) for name, one in
                ((found.against, found.before), (found.generation, found.after))]  # fmt: skip
        typer.echo(f"quality: {found.questions} questions")
        tables.console().print(tables.table(columns, rows, right=columns[1:]))
    for problem in found.problems:
        output.say(f"problem: {problem}")
    typer.echo("verified" if not found.problems else "not as it must be")


def show_switched(found: Switched, *, as_json: bool) -> None:
    """Print which generation is searched now."""
    if as_json:
        output.emit(found.document())
        return
    said = found.document()
    before = "as before" if found.before == found.active else f"before: {found.before or 'none'}"
    typer.echo(f"search now uses generation {found.active} ({before}); {said['missing']} documents are on their way")


def show_dropped(found: Dropped, *, as_json: bool) -> None:
    """Print what a drop removed."""
    if as_json:
        output.emit(found.document())
        return
    typer.echo(
        f"dropped {found.generation}: its tables, {len(found.topics)} topics, {len(found.groups)} groups, "
        f"{found.cached_vectors} cached vectors, and its name in {found.documents} documents"
    )
