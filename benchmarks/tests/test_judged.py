"""Judged sets: which document answers which query."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from headrace.errors import ConfigurationError
from headrace_bench import judged

pytestmark = pytest.mark.unit

MANUALS = {
    "locks.rst": (
        "How locks work",
        "Open the gate\n=============\n\nText.\n\nCommon part\n===========\n\nHow locks work.\n",
    ),
    "weirs.rst": ("Weirs", "Build a weir\n------------\n\nText.\n\nCommon part\n-----------\n\nMore.\n"),
}


@pytest.fixture(autouse=True)
def manuals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two manuals as the file of changes; an older version of the first goes before."""
    events = [{"op": "upsert", "id": "locks.rst", "version": 1, "title": "Old", "content": "Old title\n=========\n"}]
    events += [
        {"op": "upsert", "id": name, "version": 2, "title": title, "content": content}
        for name, (title, content) in MANUALS.items()
    ]
    path = tmp_path / "changes.jsonl"
    path.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    monkeypatch.setenv("HEADRACE_CHANGES_FILE", str(path))


def test_a_heading_of_one_document_is_a_query_for_it() -> None:
    """Broken: a query has several right answers, of which one is judged, or an old version is asked for."""
    found = judged.headings(*judged.manuals(10))
    assert sorted(found.queries) == [("Build a weir", "weirs.rst"), ("Open the gate", "locks.rst")]
    assert [document["version"] for document in found.documents] == [2, 2]
    assert found.drawn(1, seed=1).queries == found.drawn(1, seed=1).queries
    assert len(found.drawn(1, seed=1).queries) == 1


def test_withheld_titles_stand_in_no_document() -> None:
    """Broken: the set that measures other words asks for the very words."""
    found = judged.untitled(judged.manuals(10)[0])
    assert found.queries == [("How locks work", "locks.rst")]
    (document,) = found.documents
    assert "How locks work" not in document["content"] + document["title"]


def test_an_identifier_stands_in_the_document_that_answers() -> None:
    """Broken: a perfect search is measured as one that misses."""
    found = judged.identifiers(judged.manuals(10)[0], 30, seed=3)
    planted = {
        name: document["id"]
        for document in found.documents
        for name in re.findall(r"See (\S+) for the details\.", document["content"])
    }
    assert (len(planted), len(found.queries)) == (30, 30)
    for text, identity in found.queries:
        (name,) = [name for name in planted if name in re.split(r"[ ,]", text)]
        assert planted[name] == identity
    assert judged.identifiers(judged.manuals(10)[0], 30, seed=3) == found


def test_a_file_of_squad_has_its_paragraphs_as_documents(tmp_path: Path) -> None:
    """Broken: questions are judged by another paragraph, or a file in another format ends with a stack."""
    path = tmp_path / "set.json"
    paragraphs = [{"context": f"Text {n}", "qas": [{"question": f"Q{n}"}]} for n in range(2)]
    path.write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}), encoding="utf-8")
    found = judged.squad(path)
    assert found.queries == [("Q0", "set/00000"), ("Q1", "set/00001")]
    assert [document["content"] for document in found.documents] == ["Text 0", "Text 1"]
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="format of SQuAD"):
        judged.squad(path)
