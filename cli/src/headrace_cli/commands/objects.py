"""``objects stats|gc``: payloads that were too large for their records, in the object store."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from headrace_cli import options, output
from headrace_cli.asking import require_yes
from headrace_cli.context import kafka_settings, object_settings
from headrace_cli.failures import UsageError, told
from headrace_cli.times import moment
from headrace_cli.views.tracking import tracked

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.objects.store import ObjectStore
    from headrace.settings import KafkaSettings
    from headrace_operations.objects.garbage import Amount

objects = typer.Typer(name="objects", help="The object store: payloads too large for a record.", no_args_is_help=True)
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def register(app: typer.Typer) -> None:
    """Add the commands."""
    objects.command("stats", short_help="Show what the store holds, by tenant.")(told(stats))
    objects.command("gc", short_help="Delete what no record refers to any more.")(told(gc))
    app.add_typer(objects, rich_help_panel="Operations")


def stats(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show what the object store holds, by tenant's folder. Lists every object; no topic is read."""
    from headrace_operations.objects.garbage import holdings  # noqa: PLC0415

    store, _ = _opened(state_dir, kafka)
    found = holdings(store)
    if as_json:
        output.emit({"url": store.url, "tenants": [asdict(one) for one in found]})
        return
    rows = [(one.folder, one.held.objects, _size(one.held.bytes), one.oldest, one.newest) for one in found]
    columns = ("tenant", "objects", "size", "oldest", "newest")
    output.console().print(output.table(columns, rows, right=("objects", "size")))
    typer.echo(f"{sum(one.held.objects for one in found)} objects, {_size(sum(one.held.bytes for one in found))} in "
               f"{store.url}")  # fmt: skip


def gc(
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", envvar="HEADRACE_OBJECTS_OLDER_THAN",
            help="Only what was written on days that have been over for so long: 36h, 7d; a day at least.",
        ),
    ] = "72h",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Say what would be deleted; delete nothing.")
    ] = False,
    yes: options.Yes = False,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Delete the objects that no record refers to any more: those of records that were compacted away or expired.

    Reads every topic that can carry a reference, of all generations, from its start; that is what it costs. The stages
    may run meanwhile.
    """
    from headrace_operations.objects.garbage import Amount, Collector  # noqa: PLC0415

    now = datetime.now(UTC)
    before = moment(older_than, "--older-than", now)
    assert before is not None
    store, settings = _opened(state_dir, kafka)
    collector = Collector(store, settings)
    with tracked("reading", None) as read:
        garbage = collector.find(before, now, read)
    found = garbage.found
    if not dry_run and found.objects:
        require_yes(f"Delete {_amount(found)} of {_amount(garbage.held)} in {store.url}?", yes=yes)
    deleted = Amount()
    if not dry_run:
        with tracked("deleting", found.objects) as advance:
            deleted = collector.delete(garbage, advance)
    if as_json:
        output.emit(
            {"url": store.url, "before": before.isoformat(), "dry_run": dry_run, "records_read": garbage.records,
             "held": asdict(garbage.held), "young": asdict(garbage.young), "garbage": asdict(found),
             "deleted": asdict(deleted)}
        )  # fmt: skip
        return
    typer.echo(f"{_amount(garbage.held)} held; {_amount(garbage.young)} too young to be looked at; "
               f"{garbage.records} records read")  # fmt: skip
    typer.echo(f"{_amount(found)} would be deleted" if dry_run else f"{_amount(deleted)} deleted")


def _opened(state_dir: Path | None, kafka: str | None) -> tuple[ObjectStore, KafkaSettings]:
    """Return the store that is configured; raises :class:`UsageError` where none is."""
    from headrace.objects.store import store_of  # noqa: PLC0415

    output.quiet_logs()
    settings = kafka_settings(state_dir, kafka)
    store = store_of(object_settings(state_dir), settings)
    if store is None:
        raise UsageError(
            "no object store is known", where="HEADRACE_OBJECTS_URL",
            remedy="Set it as for the stages; `headrace up` gives the local stack a folder.",
        )  # fmt: skip
    return store, settings


def _amount(amount: Amount) -> str:
    return f"{amount.objects} objects ({_size(amount.bytes)})"


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= _STEP and unit < len(_UNITS) - 1:
        size, unit = size / _STEP, unit + 1
    return f"{count} bytes" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
