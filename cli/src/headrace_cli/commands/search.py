"""``search`` and ``ask``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from headrace.retrieval.mode import Mode
from headrace_cli import options, output
from headrace_cli.attributes import attributes_of
from headrace_cli.client import Gateway
from headrace_cli.command import command, commands_of
from headrace_cli.exit_codes import ExitCode
from headrace_cli.failures import TimedOut
from headrace_cli.state import AtGateway
from headrace_cli.views import search as search_view

_LONGEST_ASK_S = 120.0
"""Maximum seconds that the gateway waits in one request."""
_PAUSE_S = 0.5


commands = commands_of()


def retrieval(
    top_k: int, documents: Sequence[str] | None, attributes: Sequence[str] | None, minimum_fit: float | None
) -> dict[str, Any]:
    """Return the part of a request that says what to search."""
    request: dict[str, Any] = {"top_k": top_k}
    if documents:
        request["document_ids"] = list(documents)
    if attributes:
        request["attributes"] = attributes_of(attributes)
    if minimum_fit is not None:
        request["minimum_fit"] = minimum_fit
    return request


TopK = Annotated[
    int, typer.Option("--top-k", "-k", envvar="HEADRACE_TOP_K", min=1, max=100, help="Maximum number of passages.")
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
    document: options.Documents = None,
    attribute: options.Attributes = None,
    mode: Annotated[
        Mode,
        typer.Option(
            "--mode",
            envvar="HEADRACE_SEARCH_MODE",
            help="Search by meaning and words (hybrid), by meaning alone (vector) or by words alone (lexical).",
        ),
    ] = Mode.HYBRID,
    minimum_fit: MinimumFit = None,
    rerank: Annotated[
        bool,
        typer.Option(
            "--rerank",
            envvar="HEADRACE_SEARCH_RERANK",
            help="Have the gateway's reranker rank the best passages again.",
        ),
    ] = False,
    *,
    caller: AtGateway,
    as_json: options.Json = False,
) -> None:
    """Find the passages that best match a query."""
    request = {"query": query, "mode": mode.value, **retrieval(top_k, document, attribute, minimum_fit)}
    if rerank:
        request["rerank"] = True
    answer = caller.gateway().search(request)
    if as_json:
        output.emit(answer)
        return
    search_view.hits(answer["hits"])
    search_view.notes(answer)
    times = answer["timings"]
    output.say(f"{len(answer['hits'])} passages; embedding {times['embed_ms']} ms, search {times['search_ms']} ms")


@command(commands, "ask")
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question.")],
    top_k: TopK = 5,
    document: options.Documents = None,
    attribute: options.Attributes = None,
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
    request = {"question": question, "wait_s": wait_s, **retrieval(top_k, document, attribute, minimum_fit)}
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


def _await(gateway: Gateway, pending: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the artifact once it exists, or the pending answer when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        if (found := gateway.artifact(pending["artifact_url"])) is not None:
            return found
    return pending
