"""``search`` and ``ask``."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from headrace.errors import InvalidRecord
from headrace.filters.text import to_json
from headrace.retrieval.mode import Mode
from headrace_cli import options, output
from headrace_cli.client import Gateway
from headrace_cli.command import command, commands_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import ProblemError, TimedOut, UsageError
from headrace_cli.state import AtGateway
from headrace_cli.views import search as search_view

_LONGEST_ASK_S = 120.0
"""Maximum seconds that the gateway waits in one request."""
_PAUSE_S = 0.5
_FORM = "Write a condition such as `language = ko`, `attributes.year >= 2020` or `section contains Install`."


commands = commands_of()


def retrieval(top_k: int, written: str | None, minimum_fit: float | None) -> dict[str, Any]:
    """Return the part of a request that says what to search; raises :class:`UsageError` for a wrong filter."""
    request: dict[str, Any] = {"top_k": top_k}
    if written is not None:
        try:
            request["filter"] = to_json(written)
        except InvalidRecord as error:
            raise UsageError(error.message, where="--filter", remedy=_FORM) from error
    if minimum_fit is not None:
        request["minimum_fit"] = minimum_fit
    return request


TopK = Annotated[
    int,
    typer.Option(
        "--top-k", "-k", envvar="HEADRACE_TOP_K", min=1, max=100,
        help="Maximum number of passages; of documents with --group-by-document.",
    ),
]  # fmt: skip
Filter = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        envvar="HEADRACE_FILTER",
        help="Search only what meets this filter: 'attributes.year >= 2020 and not language = ko', or its JSON.",
        show_default=False,
    ),
]
SearchMode = Annotated[
    Mode,
    typer.Option(
        "--mode",
        envvar="HEADRACE_SEARCH_MODE",
        help="Search by meaning and words (hybrid), by meaning alone (vector) or by words alone (lexical).",
    ),
]
GroupByDocument = Annotated[
    bool,
    typer.Option(
        "--group-by-document", envvar="HEADRACE_GROUP_BY_DOCUMENT",
        help="Count documents, and show the passages of a document together.",
    ),
]  # fmt: skip
PerDocument = Annotated[
    int,
    typer.Option(
        "--per-document", envvar="HEADRACE_PER_DOCUMENT", min=1, max=10,
        help="Maximum number of passages of a document with --group-by-document.",
    ),
]  # fmt: skip
Neighbours = Annotated[
    int,
    typer.Option(
        "--neighbours", envvar="HEADRACE_NEIGHBOURS", min=0, max=10,
        help="Passages to show before and after each one.",
    ),
]  # fmt: skip
Cursor = Annotated[
    str | None,
    typer.Option(
        "--cursor", envvar="HEADRACE_CURSOR",
        help="Show what comes after this; `cursor` in the JSON of the same search.", show_default=False,
    ),
]  # fmt: skip
Explain = Annotated[bool, typer.Option("--explain", envvar="HEADRACE_EXPLAIN", help="Show how each passage was found.")]


Rerank = Annotated[
    bool,
    typer.Option(
        "--rerank",
        envvar="HEADRACE_SEARCH_RERANK",
        help="Have the gateway's reranker rank the best passages again.",
    ),
]
MinimumFit = Annotated[
    float | None,
    typer.Option(
        "--minimum-fit",
        envvar="HEADRACE_MINIMUM_FIT",
        min=0,
        max=1,
        help="Fit of the passages below which nothing is returned or answered. Default for answers: the generator's.",
    ),
]


@command(commands, "search")
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to search for, in plain words.")],
    top_k: TopK = 5,
    only: Filter = None,
    mode: SearchMode = Mode.HYBRID,
    group_by_document: GroupByDocument = False,
    per_document: PerDocument = 3,
    neighbours: Neighbours = 0,
    cursor: Cursor = None,
    minimum_fit: MinimumFit = None,
    rerank: Rerank = False,
    explain: Explain = False,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:
    """Find the passages that best match a query."""
    request = {"query": query, "mode": mode.value, "highlight": True, **retrieval(top_k, only, minimum_fit)}
    if group_by_document:
        request |= {"group_by": "document", "per_document": per_document}
    if neighbours:
        request["neighbours"] = neighbours
    if cursor is not None:
        request["cursor"] = cursor
    if explain:
        request["explain"] = True
    if rerank:
        request["rerank"] = True
    answer = _searched(caller.gateway(), request)
    if as_json:
        output.emit(answer)
    else:
        search_view.result(answer, by_document=group_by_document)


@command(commands, "ask")
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    top_k: TopK = 5,
    only: Filter = None,
    minimum_fit: MinimumFit = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", envvar="HEADRACE_ASK_TIMEOUT_S", min=0, help="Maximum seconds to wait for the answer."
        ),
    ] = 120.0,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:
    """Answer a question from the documents, with citations."""
    wait_s = min(timeout, _LONGEST_ASK_S)
    request = {"question": question, "wait_s": wait_s, **retrieval(top_k, only, minimum_fit)}
    gateway = caller.gateway()
    artifact = gateway.ask(request, timeout_s=wait_s + 30)
    if artifact.get("pending") and timeout > wait_s:
        artifact = _await(gateway, artifact, timeout - wait_s)
    if artifact.get("pending"):
        if as_json:
            output.emit(artifact)
            raise typer.Exit(ExitCode.TIMED_OUT)
        raise TimedOut(
            f"no answer after {timeout:g} s; the generator may still finish it",
            where=artifact["artifact_url"],
            remedy="Read the answer at this URL later, or check with `headrace status` whether the generator waits.",
        )
    if as_json:
        output.emit(artifact)
    else:
        search_view.answer(artifact)


def _searched(gateway: Gateway, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer of a search; if the embedder is down, the error names the search that needs none."""
    try:
        return gateway.search(request)
    except ProblemError as error:
        if error.document.get("dependency") != "embedder" or request["mode"] != Mode.HYBRID:
            raise
        remedy = "Search by words alone with `--mode lexical`, or try again when the embedder runs."
        raise ProblemError(error.status, {**error.document, "remedy": remedy}, where=error.where) from error


def _await(gateway: Gateway, pending: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the artifact once it exists, or the pending answer when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        if (found := gateway.artifact(pending["artifact_url"])) is not None:
            return found
    return pending
