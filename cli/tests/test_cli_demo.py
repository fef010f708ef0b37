"""The parts of the demo that need no stack."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_cli import demo
from headrace_cli.failures import TimedOut

pytestmark = pytest.mark.unit


def test_the_language_reference_is_there() -> None:
    """Broken: the demo indexes next to nothing on some version of Python."""
    changes = demo.documents(7)
    assert len(changes) > 70
    assert all(change.item["content"] and change.item["version"] == 7 for change in changes)
    assert len({change.document_id for change in changes}) == len(changes)


def test_the_edit_replaces_one_sentence_and_nothing_else() -> None:
    """Broken: the demo claims an edit of one sentence and changes more, or nothing."""
    original = next(change for change in demo.documents(7) if change.document_id == demo.EDITED)
    new, old = demo.edited(original, 8)
    assert new.item["content"].replace(demo.NEW_SENTENCE, old, 1) == original.item["content"]
    assert demo.NEW_SENTENCE not in original.item["content"]
    assert (new.item["version"], new.document_id) == (8, demo.EDITED)


def test_freshness_is_the_time_until_a_search_shows_it(fake_time: Any) -> None:
    """Broken: the demo prints a time that was never measured, or hangs where a change is lost."""
    answers: list[list[dict[str, Any]]] = [[], [], [{"text": "there"}]]
    seconds, hits = demo.until(lambda: answers.pop(0), bool, "it", clock=lambda: fake_time.time, sleep=fake_time.sleep)
    assert seconds == pytest.approx(0.01)
    assert hits == [{"text": "there"}]
    with pytest.raises(TimedOut, match="is not visible after"):
        demo.until(list, bool, "it", clock=lambda: fake_time.time, sleep=fake_time.sleep)
