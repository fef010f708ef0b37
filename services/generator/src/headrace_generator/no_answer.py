"""What the generator says if the documents do not answer a question."""

from __future__ import annotations

import re

_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_ENGLISH = "No answer: the documents that you may use do not say it."
_KOREAN = "답변 없음: 사용할 수 있는 문서에 이 질문에 대한 내용이 없습니다."


def no_answer(question: str) -> str:
    """Return the sentence in Korean for a question in Hangul, otherwise in English."""
    return _KOREAN if _HANGUL.search(question) else _ENGLISH
