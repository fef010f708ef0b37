"""``search`` and ``ask``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headrace_cli import options, output
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import TimedOut, UsageError, told

_SNIPPET = 160
_LONGEST_ASK_S = 120.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Search and answers"
    app.command("search", rich_help_panel=panel)(told(search))
    app.command("ask", rich_help_panel=panel)(told(ask))


def attributes_of(given: Sequence[str]) -> dict[str, str]:
    """Return attributes from ``NAME=VALUE``; raises :class:`UsageError`."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{text!r} is no attribute", where="--attribute", remedy="Write NAME=VALUE.")
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
    from headrace_cli.state import connect  # noqa: PLC0415

    request = {"query": query, "mode": "hybrid" if hybrid else "vector", **retrieval(top_k, document, attribute)}
    answer = connect(url, api_key, state_dir).search(request)
    if as_json:
        output.emit(answer)
        return
    show_hits(answer["hits"])
    times = answer["timings"]
    output.say(f"{len(answer['hits'])} passages; embedding {times['embed_ms']} ms, search {times['search_ms']} ms")


def show_hits(hits: Sequence[dict[str, Any]]) -> None:
    """Print passages as a table; offsets count characters of the document's text."""
    rows = [
        (
            f"{hit['score']:.3f}",
            hit["document_id"],
            output.section_of(hit["section"]),
            output.one_line(hit["text"], _SNIPPET),
            f"{hit['start']}–{hit['end']}",
        )
        for hit in hits
    ]
    output.console().print(output.table(("score", "document", "section", "passage", "offsets"), rows, right=("score",)))


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
    from headrace_cli.state import connect  # noqa: PLC0415

    wait_s = min(timeout, _LONGEST_ASK_S)
    request = {"question": question, "wait_s": wait_s, **retrieval(top_k, document, attribute)}
    artifact = connect(url, api_key, state_dir).ask(request, timeout_s=wait_s + 30)
    if artifact.get("pending"):
        if as_json:
            output.emit(artifact)
            raise typer.Exit(ExitCode.TIMED_OUT)
        raise TimedOut(
            f"there is no answer after {wait_s:g} s; it is still being written",
            where=artifact["artifact_url"],
            remedy="Read it there later, or see `headrace status` for what the generator waits for.",
        )
    if as_json:
        output.emit(artifact)
    else:
        show_answer(artifact)


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
    model = f", model {artifact['model']}" if artifact["model"] else ""
    output.say(f"written by the provider {artifact['provider']}{model}")
