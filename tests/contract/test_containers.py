"""The compose file and the Dockerfile fit the code, as far as can be told without a Docker engine."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.embeddings.costs import CostBook, parse_book, read_book
from headrace_tools import containers
from headrace_tools.discovery import ROOT

pytestmark = pytest.mark.contract


def test_the_compose_file_fits_its_schema() -> None:
    """Broken: `docker compose` refuses the file."""
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(containers.COMPOSE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_file_fits_the_code() -> None:
    """Broken: a container starts with a command, module, port, path or variable that the code does not know."""
    assert containers.compose_problems(containers.load()) == []


def test_the_dockerfile_fits_the_workspace() -> None:
    """Broken: an image does not build, runs as root, or takes whatever version comes along."""
    assert containers.dockerfile_problems(containers.DOCKERFILE.read_text(encoding="utf-8")) == []


def test_the_shipped_prices_and_caps_limit_nothing_and_show_how() -> None:
    """Broken: whoever starts the containers is capped unasked, or copies an example that the embedder refuses."""
    shipped = ROOT / "infra" / "docker" / "costs" / "costs.yaml"
    assert read_book(shipped) == CostBook()
    text, examples = re.subn(r"\{\} +# (?=\{)", "", shipped.read_text(encoding="utf-8"))
    book = parse_book(text, shipped.name)
    assert examples == 4
    assert book.models
    assert book.caps.tenants
    assert book.caps.all.set
    assert book.caps.each_tenant.set


Change = Callable[[dict[str, Any]], object]
MOUNTED = "/etc/headrace/costs"
OBJECTS = "objects:/var/lib/headrace/objects"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s["ingest"]["environment"].update(HEADRACE_KAFKA_BOTSTRAP="kafka:9092"), "is no setting"),
        (lambda s: s["ingest"]["environment"].update(HEADRACE_HTTP_PORT="eighty"), "valid integer"),
        (lambda s: s["ingest"]["environment"].update(HEADRACE_KAFKA_BOOTSTRAP="kafak:9092"), "is no service"),
        (lambda s: s["ingest"]["environment"].update(HEADRACE_KAFKA_BOOTSTRAP="kafka:9999"), "does not listen"),
        (lambda s: s["gateway"]["environment"].update(HEADRACE_GATEWAY_EMBEDDER_URL="http://embedder:1"), "port 1 "),
        (lambda s: s["indexer"]["environment"].pop("HEADRACE_STORE_DSN"), "HEADRACE_STORE_DSN is required"),
        (lambda s: s["indexer"]["environment"].update(HEADRACE_STORE_DSN="${NOWHERE:?}"), "does not name"),
        (lambda s: s["indexer"]["environment"].update(HEADRACE_STORE_DSN="${SERVICE_PASSWORD}"), "as empty"),
        (lambda s: s["chunker"].update(command=["headrace-chunk"]), "does not install"),
        (lambda s: s["bootstrap"].update(command=["python", "-m", "headrace.bootstrop"]), "does not exist"),
        (lambda s: s["bootstrap"]["build"]["args"].update(EXTRAS="--extra boot"), "extra 'boot'"),
        (lambda s: s["bootstrap"]["build"]["args"].update(EXTRAS="--extra bootstrap"), "no extra 'objects'"),
        (lambda s: s["bootstrap"].update(volumes=[]), "is not mounted"),
        (lambda s: s["bootstrap"]["build"]["args"].update(EXTRA="--extra store"), "argument EXTRA "),
        (lambda s: s["chunker"]["build"]["args"].update(SERVICE="chunk"), "is no package"),
        (lambda s: s["embedder"]["build"].update(target="gpu"), "build target gpu"),
        (lambda s: s["embedder"]["environment"].pop("HEADRACE_COST_FILE"), "HEADRACE_COST_FILE is not set"),
        (lambda s: s["embedder"]["environment"].update(HEADRACE_COST_FILE="/etc/costs.yaml"), "not mounted read-only"),
        (lambda s: s["embedder"]["environment"].update(HEADRACE_COST_FILE=f"{MOUNTED}/cost.yaml"), "cannot be read"),
        (lambda s: s["embedder"].update(volumes=[OBJECTS]), "not mounted read-only"),
        (lambda s: s["embedder"].update(volumes=[f"./infra/docker/costs:{MOUNTED}"]), "not mounted read-only"),
        (lambda s: s["embedder"].update(volumes=[f"./infra/docker:{MOUNTED}:ro"]), "cannot be read"),
        (lambda s: s["chunker"]["build"].update(dockerfile="Dockerfile"), "does not exist"),
        (lambda s: s["chunker"]["healthcheck"].update(test=["http://127.0.0.1:8080/readyz"]), "port 8080"),
        (lambda s: s["chunker"]["healthcheck"].update(test=["http://127.0.0.1:8070/ready"]), "asks /ready,"),
        (lambda s: s["chunker"].pop("healthcheck"), "no health check"),
        (lambda s: s["kafka"].update(image="apache/kafka:latest"), "no fixed tag"),
        (lambda s: s["kafka"].update(ports=["9092:9092"]), "beyond loopback"),
        (lambda s: s["kafka"].pop("healthcheck"), "waits for the health"),
        (lambda s: s["kafka"]["environment"].update(KAFKA_MESSAGE_MAX_BYTES="1048576"), "dead letter"),
        (lambda s: s["bootstrap"].update(restart="always"), "which is restarted"),
        (lambda s: s["gateway"].update(read_only=False), "read-only"),
        (lambda s: s["gateway"].update(security_opt=[]), "privileges"),
        (lambda s: s["postgres"].update(volumes=["./nowhere.sql:/x:ro"]), "does not exist"),
        (lambda s: s["postgres"].update(volumes=["elsewhere:/x"]), "volume elsewhere"),
        (lambda s: s.pop("indexer"), "not in the compose file"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(change: Change, problem: str) -> None:
    """Broken: the check passes whatever the compose file says."""
    compose = copy.deepcopy(containers.load())
    compose["services"] = {name: copy.deepcopy(service) for name, service in compose["services"].items()}
    change(compose["services"])
    found = containers.compose_problems(compose)
    assert found
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("USER 10001:10001", "USER root", "USER"),
        ("USER 10001:10001\n", "", "USER"),
        ("COPY pipelines pipelines", "COPY pipes pipelines", "no such path"),
        ("COPY cli/pyproject.toml cli/\n", "", "cli/pyproject.toml is not copied"),
        ("python:3.11-slim-trixie", "python:latest", "no fixed tag"),
        ("--locked ", "", "--locked"),
        ("FROM runtime AS cpu", "FROM alpine:3.22 AS cpu", "take the image from an ARG"),
    ],
)
def test_a_mistake_in_the_dockerfile_is_found(old: str, new: str, problem: str) -> None:
    """Broken: the check passes whatever the Dockerfile says."""
    text = containers.DOCKERFILE.read_text(encoding="utf-8")
    assert old in text
    found = containers.dockerfile_problems(text.replace(old, new))
    assert any(problem in line for line in found), found


def test_the_builder_sees_what_it_copies() -> None:
    """Broken: .dockerignore hides from the builder what the Dockerfile copies."""
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    ]
    lines = containers.DOCKERFILE.read_text(encoding="utf-8").splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from=" not in line for word in line.split()[1:-1]
    ]
    assert len(copied) > 10
    assert [path for path in copied if not any(path == kept or path.startswith(f"{kept}/") for kept in allowed)] == []


def test_the_wheel_of_the_core_carries_schemas_and_pipelines(tmp_path: Path) -> None:
    """Broken: an installed core, as in a container, finds no schemas and no pipelines: the source has links."""
    uv = shutil.which("uv") or str(ROOT / ".venvs" / "uv" / "bin" / "uv")
    command = [uv, "build", "--package", "headrace-core", "--wheel", "--quiet", "--out-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    sources = [*ROOT.glob("schemas/avro/*.avsc"), *ROOT.glob("schemas/topics/*.yaml"), *ROOT.glob("pipelines/*.yaml")]
    assert len(sources) > 30
    assert [path for path in sources if f"headrace/{path.relative_to(ROOT).as_posix()}" not in inside] == []
    assert {"headrace/py.typed", "headrace/store/migrations/versions/0001_initial.sql"} <= inside
