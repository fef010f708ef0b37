"""Asking where documents are must not keep others from publishing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from headrace.codec.codec import Codec
from headrace.codec.schema_registry import FixedIds
from headrace.config.settings import KafkaSettings
from headrace_gateway.flow import FlowState, KafkaFlowReader

pytestmark = pytest.mark.unit


async def test_many_who_ask_for_documents_leave_the_threads_that_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, forty slow lookups of one client would hold up the changes of all the others."""
    go_on = threading.Event()

    def slow(_: KafkaFlowReader, __: bytes) -> FlowState:
        go_on.wait(10)
        return FlowState()

    monkeypatch.setattr(KafkaFlowReader, "_waiting", slow)
    reader = KafkaFlowReader(KafkaSettings(bootstrap="127.0.0.1:1"), Codec(FixedIds()))
    asking = [asyncio.create_task(reader.waiting(b"acme/a")) for _ in range(100)]
    try:
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "published"), 2) == "published"
    finally:
        go_on.set()
        await asyncio.gather(*asking)
        reader.close()
