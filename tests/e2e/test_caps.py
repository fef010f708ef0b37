"""A tenant's cap in the whole stream: its records wait with their reason, others go on, and a raised cap lets go."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from headrace.topology.stages import DOCUMENT_STAGES
from headrace_cli.app import app
from headrace_operations.dead_letters.log import DeadLetterLog
from headrace_operations.dead_letters.model import Selection
from headrace_testing.data import reference_with_edits
from headrace_testing.deployment import Deployment, Place
from headrace_testing.fold import fold
from headrace_testing.http_servers import Webhook, serving
from headrace_testing.oracle import versions
from headrace_testing.stream import TENANT, metric, publish, wait_until_stored

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
CAPPED = "acme"
_CAPS = """\
models: {{hashing-384: {{usd_per_million_tokens: 1}}}}
caps: {{tenants: {{acme: {{tokens_per_day: {tokens}}}}}}}
"""


def test_a_cap_holds_a_tenant_and_lets_it_go_when_raised(  # noqa: PLR0915 (one story, told in order)
    deployment: Deployment, place: Place, tmp_path: Path, seed: int
) -> None:
    """A capped tenant would go on spending, lose documents, stop others, or wait for ever after the cap was raised."""
    costs = tmp_path / "costs.yaml"
    costs.write_text(_CAPS.format(tokens=1))
    env = {
        "HEADRACE_KAFKA_TOPIC_PREFIX": place.prefix, "HEADRACE_STORE_SCHEMA_NAME": place.schema,
        "HEADRACE_COST_FILE": str(costs), "HEADRACE_COST_KRW_PER_USD": "1400",
    }  # fmt: skip

    def run(*words: str, registry: bool = True) -> Any:
        """Run the command line and return its JSON."""
        log = ("--kafka", place.kafka, "--registry", place.registry) if registry else ()
        result = CliRunner().invoke(app, ["embeddings", *words, "--postgres", place.postgres, *log, "--json"], env=env)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    first, more = reference_with_edits(edits=0, seed=seed, documents=12), reference_with_edits(edits=0, seed=seed + 1)
    later = [{**change, "id": f"later-{change['id']}", "content": f"{change['id']} {change['content']}"}
             for change in more[:5]]  # fmt: skip
    deployment.start_all(*(flow.name for flow in DOCUMENT_STAGES if flow.name != "embedder"))
    publish(place.kafka_settings(), first[:1], CAPPED)
    embedder = deployment.start("embedder", env=env)
    embedder.wait_ready()
    wait_until_stored(deployment, fold(versions(CAPPED, first[:1])), 60, print)

    publish(place.kafka_settings(), later, CAPPED)
    publish(place.kafka_settings(), later)
    wait_until_stored(deployment, fold([*versions(CAPPED, first[:1]), *versions(TENANT, later)]), 60, print)
    deadline = time.monotonic() + 60
    while run("status", "--sample", "0")["held_for_caps"] != {f"cap/{CAPPED}": len(later)}:
        assert time.monotonic() < deadline, run("status", "--sample", "0")
        time.sleep(0.5)
    found = run("status", "--sample", "0")
    assert (found["percent"], found["pending"], found["errors"]) == (100.0, 0, 0)
    (why,) = found["caps_reached"]
    assert why.startswith(f"the cap of tenant {CAPPED} is reached: ")
    spent = {line["of"][0]: line for line in run("costs", registry=False)["lines"]}
    assert spent.keys() == {CAPPED, TENANT}
    assert float(spent[TENANT]["krw"]) == pytest.approx(float(spent[TENANT]["usd"]) * 1400, abs=0.01)
    assert spent[CAPPED]["tokens"] == found["spent"][f"tenant/{CAPPED}"]["tokens_day"]
    deadline = time.monotonic() + 60
    while metric(embedder, "embedding_progress_percent") != 100.0:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert metric(embedder, "embedding_pending_items") == 0
    assert metric(embedder, "embedding_total_items") > len(later)
    assert metric(embedder, "process_resident_memory_bytes") > 0
    with serving(Webhook()) as hook:
        watched = CliRunner().invoke(
            app, ["alerts", "watch", "--looks", "1", "--postgres", place.postgres, "--kafka", place.kafka,
                  "--registry", place.registry, "--status-url", f"embedder=http://127.0.0.1:{embedder.port}",
                  "--status-url", "nobody=http://127.0.0.1:9"],
            env={**env, "HEADRACE_ALERTS_SLACK_URL": f"{hook.url}/"},
        )  # fmt: skip
    assert watched.exit_code == 0, watched.output
    cap, silent = hook.got
    assert f"the cap of tenant {CAPPED} is reached" in cap["text"]
    assert "nobody does not answer" in silent["text"]

    assert run("release") == {"released": {}, "still_capped": [f"cap/{CAPPED}"], "dry_run": False}
    embedder.kill()  # a cap must outlast a restart, and one that is raised meanwhile must let go
    costs.write_text(_CAPS.format(tokens=10**9))
    deployment.start("embedder", env=env)
    assert run("release", "--dry-run")["would_release"] == {f"cap/{CAPPED}": len(later)}
    scheduled = CliRunner().invoke(
        app, ["embeddings", "schedule", "release", "--cron", "* * * * * *", "--runs", "1", "--json",
              "--state-dir", str(tmp_path / "state")],
        env={**env, "HEADRACE_KAFKA_BOOTSTRAP": place.kafka, "HEADRACE_REGISTRY_URL": place.registry,
             "HEADRACE_BOOTSTRAP_POSTGRES_DSN": place.postgres},
    )  # fmt: skip
    assert json.loads(scheduled.stdout)["exit_code"] == 0, scheduled.output
    everything = [*versions(CAPPED, first[:1]), *versions(CAPPED, later), *versions(TENANT, later)]
    wait_until_stored(deployment, fold(everything), 60, print)
    assert run("release") == {"released": {}, "still_capped": [], "dry_run": False}
    assert DeadLetterLog(place.kafka_settings(), place.codec()).select(Selection()) == []

    estimated = run("estimate", "--all")
    assert (estimated["to_embed"], estimated["exact"], estimated["usd"]) == (0, True, "0")
    assert run("estimate", "--from-offset", "chunks:0:0")["documents"] < estimated["documents"]
    planned = run("incremental", "--dry-run")
    assert (planned["redrive"], planned["replay_tenants"]) == (0, [])
    before = {line["of"][0]: line["tokens"] for line in run("costs", registry=False)["lines"]}
    forgotten = run("reset", "--tenant", CAPPED, "--model", "hashing-384", "--yes", registry=False)
    assert forgotten["vectors"] > 0
    assert run("estimate", "--tenant", CAPPED)["to_embed"] == forgotten["vectors"]
    after = {line["of"][0]: line["tokens"] for line in run("costs", registry=False)["lines"]}
    assert after == before

    with psycopg.connect(place.postgres) as connection:  # as if this generation had never had the tenant's vectors
        connection.execute(f"DELETE FROM {place.schema}.embedding_g1 WHERE tenant = %s", [CAPPED])
        connection.execute(f"UPDATE {place.schema}.document SET generations = '{{}}' WHERE tenant = %s", [CAPPED])
    assert run("incremental", "--dry-run")["replay_tenants"] == [CAPPED]
    again = CliRunner().invoke(
        app, ["embeddings", "incremental", "--postgres", place.postgres, "--kafka", place.kafka, "--registry",
              place.registry],
        env=env,
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    wait_until_stored(deployment, fold(everything), 60, print)
    paid = {line["of"][0]: line["tokens"] for line in run("costs", registry=False)["lines"]}
    assert paid[TENANT] == before[TENANT]
    assert paid[CAPPED] == 2 * before[CAPPED]
