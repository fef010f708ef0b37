"""Writes ``reference_vectors.json``: the packaged model's vectors by torch in float32, each text in a run of its own.

``make reference-vectors`` runs it in the environment with torch. The file changes only with the model.
"""

from __future__ import annotations

import base64
import json
import pydoc_data.topics
from pathlib import Path

from headrace.embeddings.models import PACKAGED_MODEL
from headrace_embedder.torch_model import load_model

FILE = Path(__file__).with_name("reference_vectors.json")


def texts() -> list[str]:
    """Return texts of all lengths up to beyond the limit of 256 tokens, and of several languages and alphabets."""
    prose = pydoc_data.topics.topics["typesseq"]
    words = ["stone", "river", "mill", "wheel", "water", "gate", "night", "bread"]
    exact = [" ".join(words[number % len(words)] for number in range(count)) for count in (253, 254, 255, 300)]
    return [
        "", " ", "\n\t", ".", "🙂", "\u200b", "a", "Kafka keeps records in partitions.",
        "벡터 색인은 문서가 바뀌면 갱신된다.",
        "개정된 취업 규칙은 2026년 1월 1일부터 시행한다. " * 12,
        "데이터베이스(PostgreSQL)의 트랜잭션은 exactly-once를 보장합니까?",
        "ベクトル索引は文書の変更に追従する。", "向量索引随文档更新。", "Что происходит, когда PostgreSQL недоступен?",
        "Crème brûlée à la façon de l'été", "def function(argument: int) -> int:\n    return argument ** 2  # x²",
        "https://example.com/a?b=c&d=%20 user@example.com 2026-11-30T06:00:00Z", "[CLS] [SEP] [PAD] [MASK] [UNK]",
        *(prose[start : start + length] for start, length in ((0, 40), (200, 200), (700, 500), (1500, 900), (0, 4000))),
        *exact,
    ]  # fmt: skip


def main() -> None:
    """Compute and write."""
    model = load_model(PACKAGED_MODEL, "cpu").float()
    found = texts()
    vectors = [model.encode([text], normalize_embeddings=True)[0].astype("<f4") for text in found]
    rows = [
        {"text": text, "vector": base64.b64encode(vector.tobytes()).decode()}
        for text, vector in zip(found, vectors, strict=True)
    ]
    FILE.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
