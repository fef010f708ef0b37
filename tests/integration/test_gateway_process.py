"""The gateway as a process, with nothing behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

pytestmark = pytest.mark.integration


def test_it_starts_says_what_is_down_and_stops_cleanly_with_nothing_behind_it() -> None:
    """If it failed, an outage at start-up would be a crash loop, or SIGTERM would cut off requests and messages."""
    environment = {
        **os.environ,
        "HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "HEADRACE_REGISTRY_URL": "http://127.0.0.1:1",
        "HEADRACE_STORE_DSN": "postgresql://nobody:nothing@127.0.0.1:1/none",
        "HEADRACE_GATEWAY_EMBEDDER_URL": "http://127.0.0.1:1",
        "HEADRACE_GATEWAY_PORT": "0",
    }
    code = "from headrace_gateway.main import main; raise SystemExit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            events = (json.loads(line) for line in process.stdout if line.startswith("{"))
            port = next(event["port"] for event in events if event["event"] == "gateway listening")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
                assert client.get("/healthz").status_code == 200
                ready = client.get("/readyz")
                states = ready.json()["dependencies"]
                assert ready.status_code == 503
                assert {name for name, state in states.items() if not state["up"]} == {
                    "postgresql",
                    "kafka",
                    "registry",
                    "embedder",
                }
                answer = client.post("/v1/search", json={"query": "q"}, headers={"Authorization": "Bearer hr_x"})
                assert (answer.status_code, answer.json()["dependency"]) == (503, "postgresql")
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0
        finally:
            process.kill()
