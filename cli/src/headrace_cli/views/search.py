"""Shows passages and answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import typer

from headrace_cli import output

_SNIPPET = 160
_BEFORE = 40
"""Characters of a snippet before the first word of the query."""
_INDENT = " " * 8


def result(answer: dict[str, Any], *, by_document: bool = False) -> None:
    """Print the passages of a search; what it says about itself goes to stderr."""
    hits(answer["hits"], by_document=by_document)
    for note in answer.get("notes", ()):
        output.say(note["text"])
    if not answer["fits"]:
        output.say("nothing fits: the documents probably do not answer this query")
    reranking = answer.get("reranking")
    if reranking and reranking["missing"]:
        output.say(f"{reranking['ranked']} of {reranking['wanted']} ranked again: {reranking['missing']}")
    if plan := answer.get("plan"):
        output.say(_plan(plan))
    more = "; more with --cursor, see --json" if answer.get("cursor") else ""
    times = answer["timings"]
    counted = f"{len({hit['document_id'] for hit in answer['hits']})} documents, " if by_document else ""
    took = f"embedding {times['embed_ms']} ms, search {times['search_ms']} ms"
    output.say(f"{counted}{len(answer['hits'])} passages{more}; {took}")


def hits(found: Sequence[dict[str, Any]], *, by_document: bool = False) -> None:
    """Print passages: score, document, page, section and offsets in its text, then the text, with the query's words.

    The lines are plain, because a library for tables takes longer to load than the search takes.
    """
    before = None
    for hit in found:
        if by_document and hit["document_id"] != before:
            before = hit["document_id"]
            typer.echo(f"{before}  {hit['title']}{_state(hit)}")
        page = f"  p. {hit['page']}" if hit.get("page") else ""
        name = f"{page}  " if by_document else f"  {hit['document_id']}{page}  "
        state = "" if by_document else _state(hit)
        section = output.section_of(hit["section"])
        typer.echo(f"{hit['score']:6.3f}{name}{section}  {hit['start']}–{hit['end']}{state}")
        around = hit.get("neighbours") or {"before": [], "after": []}
        for neighbour in around["before"]:
            typer.echo(f"{_INDENT}│ {_snippet(neighbour['text'], ())}")
        typer.echo(f"{_INDENT}{_snippet(hit['text'], hit.get('highlights') or ())}")
        for neighbour in around["after"]:
            typer.echo(f"{_INDENT}│ {_snippet(neighbour['text'], ())}")
        if explanation := hit.get("explanation"):
            typer.echo(f"{_INDENT}{_explained(explanation)}")


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


def _state(hit: dict[str, Any]) -> str:
    """Return what is to be known of a document that is not fresh."""
    state = hit.get("freshness")
    return f"  ({state})" if state not in (None, "fresh") else ""


def _explained(explanation: dict[str, Any]) -> str:
    """Return on one line how a passage was found."""
    legs = []
    for leg, name in (("dense", "meaning"), ("lexical", "words")):
        if explanation[leg] is not None:
            rank = explanation[f"{leg}_rank"]
            legs.append(f"{name} {explanation[leg]:.3f}" + (f" (rank {rank})" if rank else ""))
    terms = ", ".join(f"{one['term']} {one['score']:.2f}" for one in explanation["terms"])
    return "; ".join(legs) + (f": {terms}" if terms else "")


def _plan(plan: dict[str, Any]) -> str:
    """Return on one line how a search was executed."""
    legs = [
        f"{name} by {'an exact scan' if leg['access'] == 'exact' else 'the index'}, {leg['found']} found"
        for name, leg in (("meaning", plan["dense"]), ("words", plan["lexical"]))
        if leg is not None
    ]
    narrowed = "" if plan["documents"] is None else f"; the filter leaves {plan['documents']} documents"
    return f"generation {plan['generation']} ({plan['model']}): {'; '.join(legs)}{narrowed}"


def _snippet(text: str, ranges: Sequence[Sequence[int]]) -> str:
    """Return a part of the text on one line, from shortly before the first range on, with the ranges in bold."""
    begin = max(0, ranges[0][0] - _BEFORE) if ranges and ranges[0][1] > _SNIPPET else 0
    end = min(len(text), begin + _SNIPPET)
    pieces = "".join(_marked(text, [one for one in ranges if begin <= one[0] and one[1] <= end], begin, end))
    return f"{'…' if begin else ''}{pieces.strip()}{'…' if end < len(text) else ''}"


def _marked(text: str, ranges: Sequence[Sequence[int]], begin: int, end: int) -> Iterator[str]:
    at = begin
    for first, last in ranges:
        yield _folded(text[at:first])
        yield typer.style(_folded(text[first:last]), bold=True)
        at = last
    yield _folded(text[at:end])


def _folded(text: str) -> str:
    """Return the text with each run of whitespace as one space, and without what a terminal would obey."""
    folded = " ".join(text.split())
    kept = "".join(character if character.isprintable() else "�" for character in folded)
    return f"{' ' if text[:1].isspace() else ''}{kept}{' ' if kept and text[-1:].isspace() else ''}"
