"""``make demo``: the whole flow on real text, from an empty machine to answers, and the effect of an edit and a delete.

``python -m headrace_cli.demo`` starts a stack in its own state folder, indexes the Python language reference that comes
with Python (``pydoc_data.topics``), searches, asks, edits, deletes, and stops the stack. Every figure that it prints is
measured in that run. Another run starts from the data of the last one, with newer versions of all documents.
"""

from __future__ import annotations

import argparse
import io
import pydoc_data.topics
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError
from headrace_cli import output, state, tables
from headrace_cli.client import Gateway
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import CommandError, TimedOut, exit_code_of, show
from headrace_cli.ingest.sending import send
from headrace_cli.ingest.sources import Change
from headrace_cli.ingest.waiting import wait_until_searchable
from headrace_cli.quiet import quiet_logs
from headrace_cli.stack.launch import Launch, Launched, Launcher
from headrace_cli.views import search as search_view
from headrace_cli.views.tracking import tracked
from headrace_local.progress import shown
from headrace_local.stack import Stack

STATE_DIR = Path(".headrace/demo")
QUESTIONS = (
    "how does a generator give a value back to its caller",
    "what happens to an exception that is raised inside a with statement",
    "which methods make an object usable in a with statement",
)
ASKED = "When are default parameter values evaluated?"
EDITED = "topics/assert"
NEW_SENTENCE = "At the mill, an assertion opens the sluice gate only when the water stands high enough."
EDIT_QUERY = "when does the sluice gate of the mill open"
DELETE_QUERY = "how is a name removed from its scope"
_ARRIVAL_S = 600.0
_CHANGE_S = 60.0
_SENTENCE = re.compile(r"(?<=\n\n)[A-Z][^:]*?\.(?=\s)")
"""A plain sentence at the beginning of a paragraph."""


def documents(version: int) -> list[Change]:
    """Return the language reference as changes, one document per topic."""
    return [
        Change(
            {"id": f"topics/{name}", "op": "upsert", "version": version, "title": text.split("\n", 1)[0].strip('" '),
             "content": text, "media_type": "text/plain", "source": f"pydoc_data.topics:{name}"},
            name,
        )
        for name, text in sorted(pydoc_data.topics.topics.items())
    ]  # fmt: skip


def edited(change: Change, version: int) -> tuple[Change, str]:
    """Return the document with its first plain sentence replaced, and that sentence."""
    text = str(change.item["content"])
    match = _SENTENCE.search(text)
    if match is None:
        raise CommandError("no sentence to replace in this topic", where=change.document_id)
    content = text[: match.start()] + NEW_SENTENCE + text[match.end() :]
    return Change({**change.item, "version": version, "content": content}, change.origin), match[0]


def until(
    look: Callable[[], list[dict[str, Any]]],
    good: Callable[[list[dict[str, Any]]], bool],
    what: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[float, list[dict[str, Any]]]:
    """Search repeatedly until the answer is good; return the seconds that it took, and the answer."""
    begun = clock()
    while True:
        hits = look()
        if good(hits):
            return clock() - begun, hits
        if clock() - begun > _CHANGE_S:
            raise TimedOut(
                f"{what} is not visible after {_CHANGE_S:.0f} s", remedy="Check `headrace status` and `headrace logs`."
            )
        sleep(0.005)


class Demo:
    """The steps on a running stack."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._step = 2
        self._version = time.time_ns() // 1000

    def run(self) -> None:
        """Run all steps; raises the first error."""
        changes = documents(self._version)
        self._ingest(changes)
        for question in QUESTIONS:
            self._title(f"Search: {question}")
            search_view.hits(self._search(question))
        self._title(f"Ask: {ASKED}")
        search_view.answer(self._gateway.ask({"question": ASKED, "wait_s": 60.0, "top_k": 5}, timeout_s=90.0))
        by_id = {change.document_id: change for change in changes}
        self._edit(by_id[EDITED])
        self._delete(by_id)

    def _ingest(self, changes: Sequence[Change]) -> None:
        size = sum(len(str(change.item["content"])) for change in changes)
        self._title(f"Ingest the Python language reference: {len(changes)} documents, {size:,} characters")
        begun = time.perf_counter()
        with tracked("sent", len(changes)) as progress:
            sent = send(self._gateway, changes, progress)
        with tracked("indexed", len(changes)) as progress:
            arrivals = wait_until_searchable(self._gateway, sent.versions, _ARRIVAL_S, progress)
        if sent.failures or arrivals.failures or arrivals.pending or arrivals.indexed != len(changes):
            raise CommandError(
                f"{arrivals.indexed} of {len(changes)} documents are searchable",
                where="; ".join(f.reason for f in [*sent.failures, *arrivals.failures][:3]),
                remedy="Check the logs in the state folder.",
            )
        print(f"All {len(changes)} are searchable after {time.perf_counter() - begun:.1f} s (texts that an earlier run")
        print("embedded get their vectors from the cache).")

    def _edit(self, change: Change) -> None:
        new, old = edited(change, self._version + 1)
        self._title(f"Edit one sentence of {EDITED}")
        print(f"  was: {output.one_line(old, 150)}\n  now: {NEW_SENTENCE}\n\nBefore, '{EDIT_QUERY}' finds:")
        search_view.hits(self._search(EDIT_QUERY, 2))
        seconds, hits = self._changed(new, EDIT_QUERY, lambda hits: any(NEW_SENTENCE[:40] in _flat(h) for h in hits))
        print("After:")
        search_view.hits(hits[:2])
        print(f"From the request to the first search that finds the new sentence: {seconds * 1000:.0f} ms")

    def _delete(self, known: dict[str, Change]) -> None:
        """Delete the document that matches a query best."""
        before = self._search(DELETE_QUERY)
        name = before[0]["document_id"]
        self._title(f"Delete the best match of a query: {name}")
        print(f"Before, '{DELETE_QUERY}' finds:")
        search_view.hits(before)
        gone = Change({"id": name, "op": "delete", "version": self._version + 2}, known[name].origin)
        seconds, hits = self._changed(gone, DELETE_QUERY, lambda hits: all(h["document_id"] != name for h in hits))
        print("After:")
        search_view.hits(hits[:3])
        print(f"From the request to the first search without it: {seconds * 1000:.0f} ms")

    def _changed(
        self, change: Change, query: str, good: Callable[[list[dict[str, Any]]], bool], top_k: int = 5
    ) -> tuple[float, list[dict[str, Any]]]:
        """Send a change; return the seconds until a search shows it, and the results of that search."""
        if good(self._search(query, top_k)):
            raise CommandError("search already showed the change before it was sent", where=change.document_id)
        begun = time.perf_counter()
        sent = send(self._gateway, [change])
        if sent.failures:
            raise CommandError(sent.failures[0].reason, where=change.document_id)
        _, hits = until(lambda: self._search(query, top_k), good, f"the change of {change.document_id}")
        return time.perf_counter() - begun, hits

    def _search(self, query: str, top_k: int = 3) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = self._gateway.search({"query": query, "top_k": top_k})["hits"]
        if not hits:
            raise CommandError("search found nothing", where=query)
        return hits

    def _title(self, text: str) -> None:
        title(self._step, text)
        self._step += 1


def title(number: int, text: str) -> None:
    """Print the title of a step."""
    print(f"\n{number}. {text}\n", flush=True)


def _flat(hit: dict[str, Any]) -> str:
    return " ".join(hit["text"].split())


def _start(state_dir: Path, provider: str) -> Launched:
    title(
        1, f"Start Kafka, schema registry, PostgreSQL and six services in {state_dir} (downloaded on the first start)"
    )
    begun = time.monotonic()
    with shown(tables.messages()) as on_event:
        launched = Launcher(Launch(state_dir, provider), output.say).up(on_event)
    print(f"Everything is ready after {time.monotonic() - begun:.1f} s: {launched.url}")
    return launched


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code, which is not 0 if any step fails."""
    parser = argparse.ArgumentParser(prog="python -m headrace_cli.demo", description="Show the whole flow.")
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help="state folder (default: %(default)s)")
    parser.add_argument("--provider", default="sentence-transformers", help="embedding provider (default: %(default)s)")
    given = parser.parse_args(arguments)
    quiet_logs()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    code = ExitCode.OK
    try:
        _start(given.state_dir, given.provider)
        Demo(state.connect(None, None, given.state_dir, retry_s=30.0)).run()
    except HeadraceError as error:
        show(error)
        code = exit_code_of(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    finally:
        print("\nStopping…", flush=True)
        Stack(given.state_dir).down()
        print(f"The stack is stopped; its data is kept in {given.state_dir}.")
    return code


if __name__ == "__main__":
    sys.exit(main())
