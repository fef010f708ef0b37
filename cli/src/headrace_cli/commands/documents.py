"""``ingest``, ``delete`` and ``documents``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from headrace.errors import sentences
from headrace_cli import options, output
from headrace_cli.client import Gateway
from headrace_cli.command import command, commands_of
from headrace_cli.commands.search import attributes_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import UsageError
from headrace_cli.ingest import sources
from headrace_cli.ingest.following import follow
from headrace_cli.ingest.sending import delete_of, send
from headrace_cli.ingest.sources import Change, Failure, Found
from headrace_cli.ingest.waiting import Arrivals, wait_until_searchable
from headrace_cli.state import connect
from headrace_cli.views.tracking import tracked

_PAGE = 1000
"""Documents asked for in one request, the most that the gateway gives."""
RETRY_S = 60.0
"""How long a request that finds the gateway, Kafka or the registry down is sent again."""


commands = commands_of()


@dataclass(slots=True)
class Outcome:
    """What a command did with its items; ``waited`` is None where it did not wait."""

    accepted: int = 0
    skipped: tuple[str, ...] = ()
    failures: list[Failure] = field(default_factory=list)
    waited: Arrivals | None = None
    run: str | None = None
    """What ``headrace runs`` knows it by; None where nothing was sent."""

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "accepted": self.accepted,
            "run": self.run,
            "indexed": None if self.waited is None else self.waited.indexed,
            "given_up": None if self.waited is None else self.waited.given_up,
            "pending": None if self.waited is None else self.waited.pending,
            "skipped": list(self.skipped),
            "failures": [asdict(failure) for failure in self.failures],
        }

    @property
    def exit_code(self) -> ExitCode:
        """Failures come before a wait that took too long."""
        if self.failures:
            return ExitCode.SOME_FAILED
        return ExitCode.TIMED_OUT if self.waited is not None and self.waited.pending else ExitCode.OK


@command(commands, "ingest", "Send documents and change events.")
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Files (.txt .md .markdown .rst .rest, .pdf .docx .html .htm .xhtml .json), folders, JSON lines of "
            "change events (.jsonl .jsonl.xz .jsonl.gz), or - for JSON lines from standard input.",
        ),
    ],
    prefix: Annotated[
        str, typer.Option("--prefix", envvar="HEADRACE_ID_PREFIX", help="Put before every document id.")
    ] = "",
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_FILE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the files; without it, the time of their last change in nanoseconds.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Read everything, send nothing.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", envvar="HEADRACE_INGEST_WATCH",
            help="Go on until Ctrl-C: send each file of the folders that is created or changed, and a delete for each "
            "that goes away while it is watched.",
        ),
    ] = False,
    wait: options.Wait = False,
    timeout: options.Timeout = 600.0,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Send documents and change events; the API key decides the tenant.

    A file's id is its path below the folder that was named. Hidden entries of folders are left out, other kinds of
    files are skipped and listed. What cannot be read or is refused is listed at the end; the rest is done.
    A file that went away while nobody watched is not noticed: `headrace delete` takes its document out.
    """
    if watch:
        _refuse_with_watch({"--dry-run": dry_run, "--version": version is not None, "--wait": wait})
        follow(paths, prefix, connect(url, api_key, state_dir), as_json=as_json)
        return
    found = sources.find(paths)
    shape = sources.Shape(prefix, version)
    changes = (change for source in found.sources for change in sources.read(source, shape))
    if dry_run:
        _finish(_dry(found, changes, as_json=as_json), as_json=as_json, verb="would be sent")
        return
    gateway = connect(url, api_key, state_dir, retry_s=RETRY_S)
    outcome = _deliver(gateway, changes, found.total, wait_s=timeout if wait else None)
    outcome.skipped = found.skipped
    outcome.failures = [*found.failures, *outcome.failures]
    _finish(outcome, as_json=as_json, verb="accepted")


@command(commands, "delete")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of documents.")],
    version: Annotated[
        int | None,
        typer.Option(
            "--version", envvar="HEADRACE_DELETE_VERSION", min=0, max=2**63 - 1, show_default=False,
            help="Version of the delete; without it, one above the document's newest known version.",
        ),
    ] = None,
    wait: options.Wait = False,
    timeout: options.Timeout = 600.0,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Delete documents from the index."""
    if not all(ids):
        raise UsageError("an id is empty", where="ID")
    gateway = connect(url, api_key, state_dir, retry_s=RETRY_S)
    changes = [delete_of(gateway, identifier, version) for identifier in dict.fromkeys(ids)]
    outcome = _deliver(gateway, changes, len(changes), wait_s=timeout if wait else None)
    _finish(outcome, as_json=as_json, verb="accepted", arrived="gone from search")


@command(commands, "documents", "List the documents that have attributes.")
def documents(
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", envvar="HEADRACE_WHERE", metavar="NAME=VALUE", show_default=False,
            help="Only documents with this attribute; may be repeated, all must fit.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant", envvar="HEADRACE_TENANT", show_default=False,
            help="Refused unless it is the API key's tenant, which decides.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", envvar="HEADRACE_DOCUMENTS_LIMIT", min=1, help="How many at most.")
    ] = 100,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """List the documents in the index that have attributes which their sender gave them, by id."""
    request: dict[str, Any] = {"attributes": attributes_of(where or (), "--where"), "tenant": tenant}
    gateway = connect(url, api_key, state_dir, retry_s=RETRY_S)
    found: list[dict[str, Any]] = []
    after: str | None = None
    while len(found) < limit:
        page = gateway.documents({**request, "after": after, "limit": min(limit - len(found), _PAGE)})
        found += page["documents"]
        after = page["next"]
        if after is None:
            break
    if as_json:
        output.emit({"documents": found, "more": after is not None})
        return
    rows = [
        (one["id"], one["version"], " ".join(f"{name}={value}" for name, value in sorted(one["attributes"].items())),
         one["title"], one["indexed_at"][:19])
        for one in found
    ]  # fmt: skip
    output.console().print(output.table(("document", "version", "attributes", "title", "indexed"), rows))
    output.say(f"{len(found)} documents{', and more: see --limit' if after is not None else ''}")


def _refuse_with_watch(given: dict[str, bool]) -> None:
    reasons = {
        "--dry-run": "a watch sends what it sees",
        "--version": "each change of a file needs a version of its own",
        "--wait": "a watch has no end to wait for; `headrace documents` and `headrace status` tell what arrived",
    }
    for option in (option for option, is_given in given.items() if is_given):
        raise UsageError(
            f"{option} cannot be used with --watch: {reasons[option]}", where=option, remedy="Leave one of them out."
        )


def _deliver(
    gateway: Gateway, changes: Iterable[Change | Failure], total: int | None, *, wait_s: float | None
) -> Outcome:
    """Send the changes and, where ``wait_s`` is given, wait until search sees them."""
    with tracked("sent", total) as progress:
        sent = send(gateway, changes, progress)
    outcome = Outcome(sent.accepted, failures=sent.failures, run=sent.run if sent.accepted else None)
    if wait_s is not None and sent.versions:
        with tracked("indexed", len(sent.versions)) as progress:
            outcome.waited = wait_until_searchable(gateway, sent.versions, wait_s, progress, deleted=sent.deleted)
        outcome.failures += outcome.waited.failures
    return outcome


def _dry(found: Found, changes: Iterator[Change | Failure], *, as_json: bool) -> Outcome:

    outcome = Outcome(skipped=found.skipped, failures=list(found.failures))
    for change in changes:
        if isinstance(change, Failure):
            outcome.failures.append(change)
            continue
        outcome.accepted += 1
        if not as_json:
            typer.echo(f"{change.item.get('op', '?'):<7} {change.document_id}  from {change.origin}")
    return outcome


def _finish(outcome: Outcome, *, as_json: bool, verb: str, arrived: str = "searchable") -> None:
    """Print what was done and end with the exit code that says it."""
    if as_json:
        output.emit(outcome.document())
    else:
        typer.echo(f"{outcome.accepted} changes {verb}" + _waited(outcome.waited, arrived))
        if outcome.run is not None:
            output.say(f"run {outcome.run}: follow it with `headrace runs {outcome.run} --watch`")
    for name in outcome.skipped:
        output.say(f"skipped: {name} is of no kind that is sent")
    for failure in outcome.failures:
        named = f" (document {failure.document_id})" if failure.document_id else ""
        output.say(sentences(f"failed: {failure.origin}{named}: {failure.reason}", failure.remedy))
    if outcome.failures:
        output.say(f"{len(outcome.failures)} failed; the others are done")
    if outcome.exit_code is not ExitCode.OK:
        raise typer.Exit(outcome.exit_code)


def _waited(waited: Arrivals | None, arrived: str) -> str:
    if waited is None:
        return ""
    text = f", {waited.indexed} documents {arrived}"
    if waited.given_up:
        text += f", {waited.given_up} given up: headrace dlq list"
    if waited.pending:
        text += f"; {len(waited.pending)} still under way, see `headrace status` and `headrace trace ID`"
    return text
