"""Where Kafka puts an id's coordinator, which the fault suite has to hit."""

from __future__ import annotations

import pytest

from headrace_testing.faults.brokers import java_hash

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("hello world", 1794106052), ("Hello, world!", 1880044555), ("polygenelubricants", 0)],
)
def test_an_id_is_mapped_as_kafka_does(text: str, expected: int) -> None:
    """Broken: a test kills or delays another broker than the coordinator and sees nothing of the fault.

    Java's hashes of the last two are negative: -1880044555, and the least number, which has no absolute value.
    """
    assert java_hash(text) == expected
