"""The language of texts that name none."""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.envelope import Change, Context, Operation, Trace
from headrace.errors import ConfigurationError
from headrace.payloads import ChangeEvent, SourceDocument
from headrace_ingest import language
from headrace_ingest.handler import ChangeEventHandler, source_document
from headrace_ingest.language import Detect, detector

pytestmark = pytest.mark.unit

KOREAN = "벡터 색인은 문서가 바뀌면 갱신된다. 그리고 처음부터 다시 만들어질 수 있다."
EVENT = ChangeEvent("acme", "a.md", Operation.UPSERT, 1, "Title", KOREAN)


@pytest.fixture(scope="module")
def detect() -> Detect:
    """What tells languages."""
    pytest.importorskip("py3langid")
    return detector()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KOREAN, "ko"),
        ("이력서: 홍길동, 서울대학교 컴퓨터공학과 졸업, 데이터 엔지니어, Python, Kafka, PostgreSQL", "ko"),
        ("This is a short English sentence about the vectors of documents.", "en"),
        ("Der Hund läuft schnell durch den Wald und bellt.", "de"),
        ("これは日本語の文章です。検索の索引を更新します。", "ja"),
        ("Kafka PostgreSQL pgvector Avro OpenVINO", None),
        ("def f(x): return x + 1\nimport os, sys, json, asyncio\n", None),
        ("3.14 2.71 1.41 1.61 8080 " * 20, None),
        ("OK", None),
        ("", None),
    ],
)
def test_a_language_is_told_where_it_is_certain(detect: Detect, text: str, expected: str | None) -> None:
    """Broken: code and names pass for Dutch, or Korean text for nothing."""
    assert detect(text) == expected


def test_the_handler_tells_it_only_where_none_is_stated_and_leaves_the_hash(detect: Detect) -> None:
    """Broken: a stated language is overruled, or a new release of the table makes every document a conflict."""
    handler = ChangeEventHandler()
    handler._detect = detect
    change = Change("acme", "a.md", 1, Operation.UPSERT)

    def process(event: ChangeEvent) -> Context[SourceDocument]:
        return asyncio.run(
            handler.process(Context(Trace("r", "d", 1, datetime(2026, 1, 1, tzinfo=UTC)), change, event))
        )

    found = process(EVENT)
    assert (found.payload.facts.language, found.metadata["ingest.language"]) == ("ko", "detected")
    assert found.payload.facts.content_hash == source_document("a.md", EVENT).facts.content_hash
    stated = process(replace(EVENT, language="en"))
    assert stated.payload.facts.language == "en"
    assert not stated.metadata


def test_without_the_setting_nothing_is_loaded_and_without_the_package_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: every ingest pays for the table, or the setting is silently ignored."""
    handler = ChangeEventHandler()
    asyncio.run(handler.start())
    assert handler._detect is None
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("py3langid"):
            raise ImportError(name)
        return real(name, *rest, **named)

    language._table.cache_clear()
    monkeypatch.setenv("HEADRACE_INGEST_DETECT_LANGUAGE", "true")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"headrace-ingest\[language\]"):
        asyncio.run(ChangeEventHandler().start())
