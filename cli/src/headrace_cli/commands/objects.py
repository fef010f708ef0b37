"""``objects stats|gc``: the object store, with payloads too large for a record."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, output, tables
from headrace_cli.asking import require_yes
from headrace_cli.command import command, commands_of
from headrace_cli.context import InKafka
from headrace_cli.times import moment
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from headrace_operations.objects.garbage import Amount

commands = commands_of("objects", "Inspect and clean up the object store.")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


@command(commands, "stats", "Show objects and bytes by tenant.")
def stats(*, operator: InKafka, as_json: options.Json = False) -> None:
    """Show the number and size of objects by tenant. Lists every object; reads no topic."""
    from headrace_operations.objects.garbage import holdings

    store, _ = operator.objects()
    found = holdings(store)
    if as_json:
        output.emit({"url": store.url, "tenants": [asdict(one) for one in found]})
        return
    rows = [(one.folder, one.held.objects, _size(one.held.bytes), one.oldest, one.newest) for one in found]
    columns = ("tenant", "objects", "size", "oldest", "newest")
    tables.console().print(tables.table(columns, rows, right=("objects", "size")))
    typer.echo(f"{sum(one.held.objects for one in found)} objects, {_size(sum(one.held.bytes for one in found))} in "
               f"{store.url}")  # fmt: skip


@command(commands, "gc", "Delete objects that no record refers to.")
def gc(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", envvar="HEADRACE_OBJECTS_OLDER_THAN",
            help="Only objects written on days that ended at least this long ago: 36h, 7d; minimum one day.",
        ),
    ] = "72h",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show what would be deleted without deleting it."),
    ] = False,
    yes: options.Yes = False,
    *,
    operator: InKafka,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Delete objects that no record refers to, because their records were compacted away or expired.

    The command reads every topic that can carry a reference, of all generations, from its start, so it can take a
    while. The stages can keep running.
    """
    from headrace_operations.objects.collect import GcRequest, collect, plan_gc
    from headrace_operations.objects.garbage import Amount

    before = moment(older_than, "--older-than", datetime.now(UTC))
    assert before is not None
    store, settings = operator.objects()
    with tracked("reading", None) as read:
        planned = plan_gc(store, settings, GcRequest(before), read)
    garbage, found = planned.garbage, planned.found
    if not dry_run and found.objects:
        require_yes(f"Delete {_amount(found)} of {_amount(garbage.held)} in {store.url}?", yes=yes)
    deleted = Amount()
    if not dry_run:
        with tracked("deleting", found.objects) as advance:
            deleted = collect(planned, advance)
    if as_json:
        output.emit(
            {"url": store.url, "before": before.isoformat(), "dry_run": dry_run, "records_read": garbage.records,
             "held": asdict(garbage.held), "young": asdict(garbage.young), "garbage": asdict(found),
             "deleted": asdict(deleted)}
        )  # fmt: skip
        return
    typer.echo(f"{_amount(garbage.held)} held; {_amount(garbage.young)} too young to check; "
               f"{garbage.records} records read")  # fmt: skip
    typer.echo(f"{_amount(found)} would be deleted" if dry_run else f"{_amount(deleted)} deleted")


def _amount(amount: Amount) -> str:
    return f"{amount.objects} objects ({_size(amount.bytes)})"


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{count} bytes" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
