"""``search`` and ``ask``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headrace_cli import options, output
from headrace_cli.client import Gateway
from headrace_cli.command import command, commands_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import TimedOut, UsageError
from headrace_cli.state import connect

_SNIPPET = 160
_LONGEST_ASK_S = 120.0
"""What the gateway waits at most in one request."""
_PAUSE_S = 0.5


commands = commands_of()


def attributes_of(given: Sequence[str], option: str = "--attribute") -> dict[str, str]:
    """Return attributes from ``NAME=VALUE``; raises :class:`UsageError`."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} is no attribute", where=option, remedy="Write NAME=VALUE.")
        found[name] = value
    return found


def retrieval(top_k: int, documents: Sequence[str] | None, attributes: Sequence[str] | None) -> dict[str, Any]:
    """Return the part of a request that says what is looked through."""
    request: dict[str, Any] = {"top_k": top_k}
    if documents:
        request["document_ids"] = list(documents)
    if attributes:
        request["attributes"] = attributes_of(attributes)
    return request


TopK = Annotated[
    int, typer.Option("--top-k", "-k", envvar="HEADRACE_TOP_K", min=1, max=100, help="How many passages at most.")
]


@command(commands, "search")
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is looked for, in plain words.")],
    top_k: TopK = 5,
    document: options.Documents = None,
    attribute: options.Attributes = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", envvar="HEADRACE_HYBRID", help="By words too, not by meaning alone.")
    ] = False,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Find the passages that fit a query best."""
    request = {"query": query, "mode": "hybrid" if hybrid else "vector", **retrieval(top_k, document, attribute)}
    answer = connect(url, api_key, state_dir).search(request)
    if as_json:
        output.emit(answer)
        return
    show_hits(answer["hits"])
    times = answer["timings"]
    output.say(f"{len(answer['hits'])} passages; embedding {times['embed_ms']} ms, search {times['search_ms']} ms")


def show_hits(hits: Sequence[dict[str, Any]]) -> None:
    """Print passages, two lines each: score, document, page, section and offsets in its text, then the text.

    Plain lines, since a library that draws tables would take longer to load than the search takes.
    """
    for hit in hits:
        section = output.section_of(hit["section"])
        page = f"  p. {hit['page']}" if hit.get("page") else ""
        typer.echo(f"{hit['score']:6.3f}  {hit['document_id']}{page}  {section}  {hit['start']}–{hit['end']}")
        typer.echo(f"        {output.one_line(hit['text'], _SNIPPET)}")


@command(commands, "ask")
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What is asked.")],
    top_k: TopK = 5,
    document: options.Documents = None,
    attribute: options.Attributes = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", envvar="HEADRACE_ASK_TIMEOUT_S", min=0, help="Longest wait for the answer, in s."),
    ] = 120.0,
    state_dir: options.StateDir = None,
    url: options.Url = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Have a question answered from the documents, with citations."""
    wait_s = min(timeout, _LONGEST_ASK_S)
    request = {"question": question, "wait_s": wait_s, **retrieval(top_k, document, attribute)}
    gateway = connect(url, api_key, state_dir)
    artifact = gateway.ask(request, timeout_s=wait_s + 30)
    if artifact.get("pending") and timeout > wait_s:
        artifact = _await(gateway, artifact, timeout - wait_s)
    if artifact.get("pending"):
        if as_json:
            output.emit(artifact)
            raise typer.Exit(ExitCode.TIMED_OUT)
        raise TimedOut(
            f"there is no answer after {timeout:g} s; it is still being written",
            where=artifact["artifact_url"],
            remedy="Read it there later, or see `headrace status` for what the generator waits for.",
        )
    if as_json:
        output.emit(artifact)
    else:
        show_answer(artifact)


def _await(gateway: Gateway, pending: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the artifact as soon as there is one, or what is pending when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        if (found := gateway.artifact(pending["artifact_url"])) is not None:
            return found
    return pending


def show_answer(artifact: dict[str, Any]) -> None:
    """Print an answer and the passages that it cites."""
    typer.echo(artifact["text"])
    typer.echo("")
    for citation in artifact["citations"]:
        section = output.section_of(citation.get("section") or [])
        typer.echo(
            f"[{citation['marker']}] {citation['document_id']}  {section}  "
            f"characters {citation['start']}–{citation['end']}"
        )
    model = f", model {artifact['model']}" if artifact["model"] not in ("", "none") else ""
    output.say(f"written by the provider {artifact['provider']}{model}")
