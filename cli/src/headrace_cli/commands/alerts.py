"""``alerts test|watch``: alerts to Slack and Discord."""

from __future__ import annotations

import itertools
import threading
from typing import Annotated

import typer

from headrace_cli import options, output
from headrace_cli.addresses import http_address
from headrace_cli.command import command, commands_of
from headrace_cli.context import InLogAndStore, Operator
from headrace_cli.failures import CommandError, UsageError
from headrace_cli.ingest.following import stopping

commands = commands_of("alerts", "Send alerts to Slack and Discord.")


@command(commands, "test", "Send a test alert to every configured webhook.")
def send_test(as_json: options.Json = False) -> None:
    """Send a test alert to every configured webhook and show which ones accepted it.

    The variables HEADRACE_ALERTS_SLACK_URL and HEADRACE_ALERTS_DISCORD_URL set the webhooks.
    """
    from headrace_cli.quiet import quiet_logs
    from headrace_operations.alerts.alerter import Alert, Alerter, AlertSettings

    quiet_logs()
    alerter = Alerter(AlertSettings())
    alerter.require()
    found = alerter.send(Alert("test", "test alert", "sent by `headrace alerts test`", good=True))
    alerter.close()
    if as_json:
        output.emit([{"channel": name, "error": failure} for name, failure in found.items()])
    else:
        for name, failure in found.items():
            typer.echo(f"{name}: {failure or 'sent'}")
    wrong = [name for name, failure in found.items() if failure is not None]
    if wrong:
        raise CommandError(
            f"could not deliver the alert to {', '.join(wrong)}",
            remedy="Check the URL in HEADRACE_ALERTS_…_URL and that this machine can reach it.",
        )


@command(commands, "watch", "Watch caps, stages and errors, and send alerts until Ctrl-C.")
def watch(
    every: Annotated[
        float, typer.Option("--every", envvar="HEADRACE_ALERTS_EVERY_S", min=0.1, help="Seconds between checks.")
    ] = 30.0,
    status_url: Annotated[
        list[str] | None,
        typer.Option(
            "--status-url", envvar="HEADRACE_ALERTS_STATUS_URL", metavar="NAME=URL", show_default=False,
            help="A process to check at /readyz, such as embedder-0=http://host:port; may be repeated. Default: the "
            "processes of the local stack.",
        ),
    ] = None,
    times: Annotated[
        int | None,
        typer.Option(
            "--looks", envvar="HEADRACE_ALERTS_LOOKS", min=1, help="Exit after this many checks.", show_default=False
        ),
    ] = None,
    *,
    operator: InLogAndStore,
) -> None:  # fmt: skip
    """Check the spending caps, the processes and the embedder's errors at intervals, and send alerts.

    The command sends an alert when a cause appears, repeats it every HEADRACE_ALERTS_REPEAT_S while the cause lasts,
    and sends another one when the cause ends. A process or server that it cannot reach is a cause too.
    HEADRACE_ALERTS_SLACK_URL and HEADRACE_ALERTS_DISCORD_URL set the webhooks.
    """
    from headrace.embeddings.costs import CostSettings, read_book
    from headrace_operations.alerts import looks
    from headrace_operations.alerts.alerter import Alerter, AlertSettings, Watch
    from headrace_operations.alerts.conditions import ErrorShare

    settings = AlertSettings()
    alerter = Alerter(settings)
    alerter.require()
    cluster, store = operator.cluster(), operator.owner_store()
    share = ErrorShare(settings.error_share)
    sources: dict[str, looks.Look] = {
        "caps": lambda: looks.caps(store, read_book(CostSettings().file)),
        "stages": lambda: looks.stages(_urls(status_url, operator)),
        "errors": lambda: looks.errors(cluster, share),
    }
    processes = _urls(status_url, operator)
    output.say(f"watching {', '.join(sources)}; alerts go to {', '.join(alerter.channels)}")
    if not processes:
        output.say("no processes known, so none are watched; pass --status-url or --state-dir")
    told_of, look, stop = Watch(alerter), looks.Looks(sources), threading.Event()
    with stopping(stop):
        for done in itertools.count(1):
            told_of.take(look())
            if done == times or stop.wait(every):
                break
    alerter.close()


def _urls(given: list[str] | None, operator: Operator) -> dict[str, str]:
    if given:
        pairs = [text.partition("=") for text in given]
        wrong = [text for text, (name, _, url) in zip(given, pairs, strict=True) if not (name and _names_port(url))]
        if wrong:
            raise UsageError(
                f"invalid process {wrong[0]!r}", where="--status-url",
                remedy="Use the form NAME=http://host:port or NAME=https://host:port.",
            )  # fmt: skip
        return {name: url for name, _, url in pairs}
    known = operator.running
    return dict(known.status_urls) if known else {}


def _names_port(url: str) -> bool:
    address = http_address(url)
    return address is not None and address.port is not None
