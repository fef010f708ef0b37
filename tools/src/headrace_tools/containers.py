"""Checks ``docker-compose.yml`` and the Dockerfile against the code; finds misspellings without a Docker engine.

Each function returns the problems, one sentence each; an empty list means that all is well.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from headrace.config.settings import KafkaSettings
from headrace.embeddings.costs import read_book
from headrace.errors import ConfigurationError
from headrace.topology import topics
from headrace_tools import discovery
from headrace_tools.discovery import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
ENV_EXAMPLE = ROOT / "infra" / "docker" / "env.example"

Service = Mapping[str, Any]
_INTERPOLATED = re.compile(r"\$\{(\w+)([^}]*)\}")
_ADDRESS = re.compile(r"(?:(?<=//)|(?<=@)|^)([a-z]+):(\d+)")
_PROBE = re.compile(r"http://127\.0\.0\.1:(\d+)(/\w+)")
_PATHS = ("/readyz",)
_FIXED_PORTS: Mapping[str, frozenset[int]] = {"postgres": frozenset({5432}), "registry": frozenset({8080})}


def load(path: Path = COMPOSE) -> dict[str, Any]:
    """Return the compose file with its anchors resolved."""
    loaded: dict[str, Any] = YAML(typ="safe").load(path)
    return loaded


def compose_problems(compose: Mapping[str, Any]) -> list[str]:
    """Return contradictions within the compose file, and between it and the code or the rules for containers."""
    services: Mapping[str, Service] = compose["services"]
    found = [f"{name}: {problem}" for name, service in services.items() for problem in _service(service, services)]
    wanted = {"bootstrap", *(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))}
    found += [f"{name}: is not in the compose file" for name in sorted(wanted - set(services))]
    volumes = {str(volume).partition(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    named = {name for name in volumes if not name.startswith(".")}
    found += [f"volume {name} is not declared" for name in sorted(named - set(compose.get("volumes", {})))]
    return found + _broker_problems(services["kafka"])


def dockerfile_problems(text: str) -> list[str]:
    """Return contradictions between the Dockerfile and the workspace or the rules for containers."""
    found = []
    lines = re.sub(r"\\\n", " ", text).splitlines()
    copied = [
        word for line in lines if line.startswith("COPY ") and "--from=" not in line for word in line.split()[1:-1]
    ]
    found += [f"COPY {path}: there is no such path" for path in copied if not (ROOT / path).exists()]
    members = [path.relative_to(ROOT).as_posix() for path in _workspace_pyprojects()]
    found += [f"{path} is not copied, so the lock cannot be checked" for path in members if path not in copied]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        found.append("the last USER is not a numeric user other than root")
    images = [line.partition("=")[2] for line in lines if re.match(r"ARG \w+_IMAGE=", line)]
    found += [f"image {image} has no fixed tag" for image in images if not _fixed_tag(image)]
    stages = _stages(text)
    direct = [
        line for line in lines if line.startswith("FROM ") and not (line[5:7] == "${" or line.split()[1] in stages)
    ]
    found += [f"{line}: take the image from an ARG" for line in direct]
    if "--locked" not in text:
        found.append("uv sync runs without --locked")
    return found


def _stages(dockerfile: str) -> list[str]:
    """Return the names of a Dockerfile's stages, in order."""
    return re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)


def _service(service: Service, services: Mapping[str, Service]) -> Iterator[str]:
    if not _fixed_tag(str(service.get("image", ""))):
        yield f"image {service.get('image')!r} has no fixed tag"
    if not service.get("read_only") or service.get("cap_drop") != ["ALL"] or not service.get("mem_limit"):
        yield "is not read-only, keeps capabilities, or has no memory limit"
    if "no-new-privileges:true" not in service.get("security_opt", ()):
        yield "may gain privileges"
    yield from (
        f"port {port} is published beyond loopback" for port in service.get("ports", ()) if "127.0.0.1:" not in port
    )
    for name, rule in service.get("depends_on", {}).items():
        yield from _dependency(name, rule["condition"], services)
    for volume in service.get("volumes", ()):
        source = str(volume).partition(":")[0]
        if source.startswith(".") and not (ROOT / source).exists():
            yield f"mounts {source}, which does not exist"
    environment = {str(key): str(value) for key, value in (service.get("environment") or {}).items()}
    yield from _interpolations(environment)
    yield from _addresses(environment, services)
    if "build" in service:
        yield from _ours(service, environment)


def _dependency(name: str, condition: str, services: Mapping[str, Service]) -> Iterator[str]:
    if name not in services:
        yield f"depends on {name!r}, which does not exist"
    elif condition == "service_healthy" and "healthcheck" not in services[name]:
        yield f"waits for the health of {name!r}, which has no health check"
    elif condition == "service_completed_successfully" and services[name].get("restart") != "no":
        yield f"waits for the end of {name!r}, which is restarted"


def _interpolations(environment: Mapping[str, str]) -> Iterator[str]:
    known = {line.partition("=")[0] for line in ENV_EXAMPLE.read_text(encoding="utf-8").splitlines() if "=" in line}
    for key, value in environment.items():
        for name, rest in _INTERPOLATED.findall(value):
            if name not in known:
                yield f"{key} needs ${name}, which {ENV_EXAMPLE.name} does not name"
            if not rest.startswith(":?"):
                yield f"{key} takes ${name} as empty where it is not set"


def _addresses(environment: Mapping[str, str], services: Mapping[str, Service]) -> Iterator[str]:
    for key, value in environment.items():
        if key.startswith("KAFKA_"):
            continue
        for host, port in _ADDRESS.findall(_INTERPOLATED.sub("x", value).removeprefix("jdbc:")):
            if host not in services:
                yield f"{key} names the host {host!r}, which is no service"
            elif int(port) not in _listens(host, services[host]):
                yield f"{key} names port {port} of {host!r}, which does not listen there"


def _listens(name: str, service: Service) -> set[int]:
    environment = {str(key): str(value) for key, value in (service.get("environment") or {}).items()}
    ports = {int(value) for key, value in environment.items() if key.endswith("_PORT")}
    ports |= {int(port) for port in re.findall(r":(\d+)", environment.get("KAFKA_LISTENERS", ""))}
    return ports | _FIXED_PORTS.get(name, frozenset())


def _ours(service: Service, environment: Mapping[str, str]) -> Iterator[str]:
    """Yield contradictions between the code and a service that is built from it."""
    build = service["build"]
    dockerfile = ROOT / build["context"] / build["dockerfile"]
    if not dockerfile.exists():
        yield f"is built from {build['dockerfile']}, which does not exist"
        return
    text = dockerfile.read_text(encoding="utf-8")
    arguments = set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))
    if build.get("target", _stages(text)[-1]) not in _stages(text):
        yield f"build target {build['target']} is no stage of the Dockerfile"
    yield from (f"build argument {name} is not in the Dockerfile" for name in build["args"] if name not in arguments)
    folder = ROOT / "core" if build["args"]["SERVICE"] == "core" else ROOT / "services" / build["args"]["SERVICE"]
    if not (folder / "pyproject.toml").exists():
        yield f"SERVICE {build['args']['SERVICE']!r} is no package"
        return
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"--extra (\S+)", build["args"].get("EXTRAS", "")):
        if extra not in project.get("optional-dependencies", {}):
            yield f"extra {extra!r} does not exist"
    if folder.name == "core":
        yield from _object_store(service, environment.get("HEADRACE_OBJECTS_URL", ""))
    yield from _command(service["command"], project)
    yield from _settings(environment, folder)
    yield from _cost_file(service, environment, folder)
    yield from _probe(service, environment)


def _object_store(service: Service, url: str) -> Iterator[str]:
    """Yield why the migration step cannot set up the stages' object store."""
    if url and "--extra objects" not in service["build"]["args"].get("EXTRAS", ""):
        yield "begins the object store, and has no extra 'objects'"
    mounted = {volume.split(":")[1] for volume in service.get("volumes") or []}
    if url.startswith("file://") and url.removeprefix("file://") not in mounted:
        yield f"begins the object store {url}, which is not mounted"


def _cost_file(service: Service, environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Yield why a service that reads prices and caps does not read the files beside the compose file."""
    if not any("CostSettings()" in path.read_text(encoding="utf-8") for path in _entry_sources(folder)):
        return
    named = environment.get("HEADRACE_COST_FILE")
    if named is None:
        yield "reads prices and caps, and HEADRACE_COST_FILE is not set"
        return
    # Mount the folder: a mounted file stays the old one if an editor replaces it.
    where, _, name = named.rpartition("/")
    mounts = (str(volume).split(":") for volume in service.get("volumes") or ())
    sources = [parts[0] for parts in mounts if parts[0].startswith("./") and parts[1:] == [where, "ro"]]
    if not sources:
        yield f"reads {named}, whose folder is not mounted read-only from here"
    for source in sources:
        try:
            read_book(ROOT / source / name)
        except ConfigurationError as error:
            yield f"reads {named}: {error}"


def _command(command: list[str], project: Mapping[str, Any]) -> Iterator[str]:
    if command[:2] == ["python", "-m"]:
        if find_spec(command[2]) is None:
            yield f"runs the module {command[2]}, which does not exist"
        return
    target = project.get("scripts", {}).get(command[0])
    if target is None:
        yield f"runs {command[0]!r}, which {project['name']} does not install"
        return
    module, _, function = target.partition(":")
    if not callable(getattr(importlib.import_module(module), function, None)):
        yield f"runs {target}, which does not exist"


def _settings(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    known = {setting.variable: setting for setting in discovery.settings()}
    for variable, value in environment.items():
        setting = known.get(variable)
        if setting is None:
            yield f"{variable} is no setting"
            continue
        try:
            kind: Any = Annotated[(setting.field.annotation, None, *setting.field.metadata)]
            TypeAdapter(kind).validate_python(_INTERPOLATED.sub("x", value))
        except ValidationError as error:
            yield f"{variable} = {value!r}: {error.errors()[0]['msg']}"
    source = "\n".join(path.read_text(encoding="utf-8") for path in _entry_sources(folder))
    for setting in known.values():
        used = re.search(rf"\b{setting.owner.__name__}\(\)", source)
        if used and setting.field.is_required() and setting.variable not in environment:
            yield f"{setting.variable} is required and not set"


def _entry_sources(folder: Path) -> list[Path]:
    if folder.name == "core":
        return [folder / "src" / "headrace" / "migrate.py"]
    return sorted(folder.glob("src/**/*.py"))


def _probe(service: Service, environment: Mapping[str, str]) -> Iterator[str]:
    if "healthcheck" not in service:
        if service.get("restart") != "no":
            yield "has no health check"
        return
    found = _PROBE.search(" ".join(service["healthcheck"]["test"]))
    if found is None:
        yield "its health check asks no address of its own"
        return
    ports = {value for key, value in environment.items() if key in ("HEADRACE_HTTP_PORT", "HEADRACE_GATEWAY_PORT")}
    if found[1] not in ports:
        yield f"its health check asks port {found[1]}, where it does not listen"
    if found[2] not in _PATHS:
        yield f"its health check asks {found[2]}, which says nothing of readiness"


def _broker_problems(kafka: Service) -> list[str]:
    """Return why the broker would refuse what the code sends: it must accept the largest dead letter."""
    size = KafkaSettings.model_fields["max_message_bytes"].default
    largest = max(int(topic.config(size)["max.message.bytes"]) for topic in topics.declared())
    allowed = int(kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"])
    return [] if allowed >= largest else [f"kafka: takes {allowed} bytes, a dead letter may have {largest}"]


def _fixed_tag(image: str) -> bool:
    tag = image.rpartition("/")[2].partition(":")[2]
    return bool(re.search(r"\d", tag))


def _workspace_pyprojects() -> list[Path]:
    members = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]["members"]
    found = [path for pattern in members for path in ROOT.glob(f"{pattern}/pyproject.toml")]
    return sorted([ROOT / "pyproject.toml", *found])
