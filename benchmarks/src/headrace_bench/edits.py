"""The cost of an edit: chunks that are embedded again, compared with chunks that contain a changed character.

The baseline is the minimum for any chunker that keeps its boundaries: the chunks of the new text in which text was
inserted or removed. The difference is due to chunks whose boundaries an edit moved.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from headrace_bench.result import Result
from headrace_testing.data import changes, reference_with_edits
from headrace_testing.oracle import expected, ingested

Span = tuple[int, int]
"""Characters of the new text; an empty span marks a deletion."""


def run(_state_dir: Path) -> Result:
    """Return the chunks embedded for an edit, with the minimum as its baseline."""
    events, source = changes()
    if not any(event["version"] > 1 for event in events):
        events, source = reference_with_edits(300, seed=1), "pydoc_data.topics with seeded edits"
    edits = embedded = least = 0
    known: dict[str, tuple[str, set[str]]] = {}
    for event in events:
        if event["op"] == "delete":
            known.pop(event["id"], None)
            continue
        text = ingested("bench", event).text
        chunks = [(chunk.start, chunk.end) for chunk in expected("bench", event).chunks]
        texts = {text[start:end] for start, end in chunks}
        before, had = known.get(event["id"], (text, set()))
        if before != text:
            edits += 1
            embedded += len(texts - had)
            least += len(touched(text, chunks, changed(before, text)) - had)
        known[event["id"]] = (text, texts)
    return Result(
        "edits", embedded / edits, "chunks embedded for an edit", least / edits,
        "the chunks of the new text that hold a change; the goal is at most 1.3 times that",
        {"edits": edits, "embedded": embedded, "least": least, "data": source},
    )  # fmt: skip


def touched(text: str, chunks: Sequence[Span], spans: Sequence[Span]) -> set[str]:
    """Return the texts of the chunks that overlap the spans."""
    return {
        text[start:end]
        for start, end in chunks
        if any((first < end and last > start) if last > first else start < first < end for first, last in spans)
    }


def changed(before: str, after: str) -> list[Span]:
    """Return the spans of ``after`` that are not in ``before``: by lines, without what both blocks share."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    at_old, at_new = (list(accumulate(map(len, lines), initial=0)) for lines in (old, new))
    spans = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            taken, written = before[at_old[i1] : at_old[i2]], after[at_new[j1] : at_new[j2]]
            head = _common(taken, written)
            tail = _common(taken[head:][::-1], written[head:][::-1])
            spans.append((at_new[j1] + head, at_new[j2] - tail))
    return spans


def _common(one: str, other: str) -> int:
    """Return the length of the common beginning."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count
