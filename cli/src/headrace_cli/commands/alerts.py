"""``alerts test|watch``: tell Slack and Discord what needs somebody."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from headrace import lag
from headrace.avro.codec import Codec
from headrace.costs import CostSettings, read_book
from headrace.errors import HeadraceError
from headrace.settings import KafkaSettings
from headrace.store.pool import StoreSettings
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.commands.embeddings import spending
from headrace_cli.context import clients, owner_store
from headrace_cli.failures import CommandError, UsageError
from headrace_cli.ingest.following import stopping
from headrace_cli.state import find_state_dir, read_services
from headrace_operations.alerts.alerter import Alert, Alerter, AlertSettings, Watch
from headrace_operations.alerts.conditions import ErrorShare, is_new, of_caps, of_stages
from headrace_operations.dead_letters.log import DeadLetterLog, Found
from headrace_operations.dead_letters.model import ANY_STATE, Selection

commands = commands_of("alerts", "Alerts to Slack and Discord, by the webhooks of HEADRACE_ALERTS_.")
_ASK_S = 4.0
_MOST_BODY = 64 * 1024


@command(commands, "test", "Send a test alert to every webhook that is set.")
def send_test(as_json: options.Json = False) -> None:
    """Send a test alert to every webhook that is set, and say which took it."""
    output.quiet_logs()
    alerter = Alerter(AlertSettings())
    alerter.require()
    found = alerter.send(Alert("test", "this is a test", "sent by `headrace alerts test`", good=True))
    alerter.close()
    if as_json:
        output.emit([{"channel": name, "error": failure} for name, failure in found.items()])
    else:
        for name, failure in found.items():
            typer.echo(f"{name}: {failure or 'sent'}")
    wrong = [name for name, failure in found.items() if failure is not None]
    if wrong:
        raise CommandError(
            f"the alert did not arrive: {', '.join(wrong)}",
            remedy="Check the webhook's URL in HEADRACE_ALERTS_…_URL, and whether this machine may reach it.",
        )


@command(commands, "watch", "Watch caps, stages and errors, and alert, until Ctrl-C.")
def watch(
    every: Annotated[
        float, typer.Option("--every", envvar="HEADRACE_ALERTS_EVERY_S", min=0.1, help="Seconds between two looks.")
    ] = 30.0,
    status_url: Annotated[
        list[str] | None,
        typer.Option(
            "--status-url", envvar="HEADRACE_ALERTS_STATUS_URL", metavar="NAME=URL", show_default=False,
            help="A process whose /readyz is asked, as embedder-0=http://host:port; may be repeated. Without any, "
            "those of the local stack.",
        ),
    ] = None,
    looks: Annotated[
        int | None,
        typer.Option("--looks", envvar="HEADRACE_ALERTS_LOOKS", min=1, help="End after so many.", show_default=False),
    ] = None,
    postgres: options.PostgresDsn = None,
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    registry: options.RegistryUrl = None,
) -> None:  # fmt: skip
    """Look again and again at the spending caps, the processes and the embedder's errors; alert what becomes true.

    An alert is said once, again after HEADRACE_ALERTS_REPEAT_S while it stays true, and when it is over. What the
    watcher cannot reach is an alert as well.
    """
    settings = AlertSettings()
    alerter = Alerter(settings)
    alerter.require()
    own, codec = clients(state_dir, kafka, registry)
    store = owner_store(state_dir, postgres)
    share = ErrorShare(settings.error_share)
    stop = threading.Event()
    sources: dict[str, Callable[[], list[Alert]]] = {
        "caps": lambda: _caps(store),
        "stages": lambda: _stages(_urls(status_url, state_dir)),
        "errors": lambda: _errors(own, codec, share),
    }
    processes = _urls(status_url, state_dir)
    output.say(f"watching {', '.join(sources)}; alerts go to {', '.join(alerter.channels)}")
    if not processes:
        output.say("no process is known, so none is watched: name them with --status-url, or a stack with --state-dir")
    told_of = Watch(alerter)
    seen: dict[str, list[Alert]] = {name: [] for name in sources}
    with stopping(stop):
        for done in itertools.count(1):
            told_of.take(_looked(sources, seen))
            if done == looks or stop.wait(every):
                break
    alerter.close()


def _looked(sources: Mapping[str, Callable[[], list[Alert]]], seen: dict[str, list[Alert]]) -> list[Alert]:
    """Return what all sources tell; of one that cannot be seen an alert, with what was ``seen`` of it last.

    Nothing is over because nobody could look.
    """
    alerts: list[Alert] = []
    for name, look in sources.items():
        try:
            seen[name] = look()
        except HeadraceError as error:
            alerts.append(Alert(f"blind/{name}", f"the watcher cannot see {name}", error.message))
        alerts += seen[name]
    return alerts


def _caps(store: StoreSettings) -> list[Alert]:

    book = read_book(CostSettings().file)
    _, _, reached = asyncio.run(spending(store, book, None, frozenset()))
    return of_caps(reached)


def _stages(urls: dict[str, str]) -> list[Alert]:

    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="readyz") as pool:
        return of_stages(dict(zip(urls, pool.map(_readyz, urls.values()), strict=True)))


def _readyz(url: str) -> dict[str, Any] | None:
    """Return what a process says of itself; None where it does not answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=_ASK_S)
    try:
        connection.request("GET", "/readyz")
        found = json.loads(connection.getresponse().read(_MOST_BODY))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) else None


def _errors(own: KafkaSettings, codec: Codec, share: ErrorShare) -> list[Alert]:

    progress = lag.progress(lag.LogReader(own), "embedder")
    since, records = share.window(datetime.now(UTC), progress.total - progress.pending)
    lately = Selection(stage="embedder", since=since, states=ANY_STATE)
    failed = 0

    def one(found: Found) -> None:
        nonlocal failed
        failed += found.letter is not None and is_new(found.letter)

    DeadLetterLog(own, codec).read(lately, one)
    return share.alerts(records, failed)


def _urls(given: list[str] | None, state_dir: Any) -> dict[str, str]:
    if given:
        pairs = [text.partition("=") for text in given]
        wrong = [text for text, (name, _, url) in zip(given, pairs, strict=True) if not (name and urlsplit(url).port)]
        if wrong:
            raise UsageError(f"{wrong[0]!r} is no process", where="--status-url", remedy="Write NAME=http://host:port.")
        return {name: url for name, _, url in pairs}
    known = read_services(find_state_dir(state_dir))
    return dict(known.status_urls) if known else {}
