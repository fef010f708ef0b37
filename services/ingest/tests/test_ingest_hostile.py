"""Records that are made to cost more than they weigh."""

from __future__ import annotations

import time

import pytest

from headrace.errors import UndecodableRecord
from headrace_ingest.strict_json import parse_object

pytestmark = pytest.mark.unit


def test_the_repeated_key_of_a_large_object_is_found_in_one_pass() -> None:
    """Broken: one record of some megabytes, whose last key stands twice, keeps its partition busy for hours."""
    keys = [f'"{number:x}":0' for number in range(50_000)]
    body = f"{{{','.join([*keys, keys[-1]])}}}".encode()
    begun = time.perf_counter()
    with pytest.raises(UndecodableRecord, match="the key 'c34f' occurs twice"):
        parse_object(body, "the record")
    assert time.perf_counter() - begun < 3


def test_text_that_is_not_utf8_far_inside_is_refused_like_any_other() -> None:
    """Broken: the search for the field's name ends in a RecursionError, which reads as a fault of the service."""
    body = b'{"a":' + b"[" * 900 + b'"\xff"' + b"]" * 900 + b"}"
    with pytest.raises(UndecodableRecord, match="the record is not UTF-8: 0xff"):
        parse_object(body, "the record")
