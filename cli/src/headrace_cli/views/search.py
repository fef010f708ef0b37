"""Shows passages and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from headrace_cli import output

_SNIPPET = 160


def hits(found: Sequence[dict[str, Any]]) -> None:
    """Print passages, two lines each: score, document, page, section and offsets in its text, then the text.

    The lines are plain, because a library for tables takes longer to load than the search takes.
    """
    for hit in found:
        section = output.section_of(hit["section"])
        page = f"  p. {hit['page']}" if hit.get("page") else ""
        typer.echo(f"{hit['score']:6.3f}  {hit['document_id']}{page}  {section}  {hit['start']}–{hit['end']}")
        typer.echo(f"        {output.one_line(hit['text'], _SNIPPET)}")


def notes(found: dict[str, Any]) -> None:
    """Say what the passages alone do not: that none fits, and that the reranker did not finish."""
    if not found["fits"]:
        output.say("nothing fits: the documents probably do not answer this query")
    reranking = found.get("reranking")
    if reranking and reranking["missing"]:
        output.say(f"{reranking['ranked']} of {reranking['wanted']} ranked again: {reranking['missing']}")


def answer(artifact: dict[str, Any]) -> None:
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
    output.say(f"written by provider {artifact['provider']}{model}")
