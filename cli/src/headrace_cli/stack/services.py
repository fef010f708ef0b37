"""The services of a local stack as processes, each with its command and environment."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from headrace.embeddings.models import (
    KNOWN,
    PACKAGED_MODEL,
    PACKAGED_MODELS,
    PROVIDERS,
    SERVED,
    identity,
    known_model,
    shortened,
)
from headrace.embeddings.preparation import BODY, OverLong, Preparation
from headrace.errors import ConfigurationError
from headrace_cli.failures import UsageError
from headrace_local.model import Command, Endpoints

SERVICES = ("ingest", "chunker", "embedder", "indexer", "generator", "gateway")
"""In the order of the flow; each is the module ``headrace_<name>.main``."""
MOST_INSTANCES = 32
OBJECTS = "HEADRACE_OBJECTS_URL"
TABLES = "HEADRACE_INGEST_TABLES"
_PREFIX = "HEADRACE_"
_OURS = ("HEADRACE_URL", "HEADRACE_API_KEY", "HEADRACE_BOOTSTRAP_POSTGRES_DSN", "HEADRACE_BOOTSTRAP_RUNTIME_PASSWORD")
"""Variables of the command line that services must not see."""
_SETTINGS = tuple(
    f"HEADRACE_{part}_"
    for part in ("CHUNKER", "COST", "EMBEDDER", "FETCH", "GATEWAY", "GENERATOR", "HTTP", "INGEST", "KAFKA", "LOG",
                 "OBJECTS", "REGISTRY", "RERANK", "SEARCH", "STORE", "WORKER")
)  # fmt: skip
"""Prefixes of the variables that services read."""
_TOLD_ELSEWHERE = frozenset({
    "HEADRACE_KAFKA_BOOTSTRAP", "HEADRACE_REGISTRY_URL", "HEADRACE_STORE_DSN", "HEADRACE_HTTP_PORT",
    "HEADRACE_WORKER_SLOT", "HEADRACE_EMBEDDER_TOKEN", TABLES, "HEADRACE_COST_KRW_PER_USD",
})  # fmt: skip
"""Those of them that the stack sets itself, that must not change, or that only commands read."""
_TRUE = ("1", "true", "yes", "on")
_LOOPBACK = "http://127.0.0.1"
_START_S = 180.0
"""Seconds that a service may take to become ready: the embedder loads a model, on a busy machine."""
_FETCH_S = 1800.0
"""Seconds if the model may have to be downloaded and converted: some have gigabytes."""

Port = Callable[[str], int]
"""Returns the port reserved for a name; the first call chooses it."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An embedding provider; ``model`` is its identity in the index, ``preparation`` prepares its texts."""

    name: str
    model: str
    dimensions: int
    preparation: Preparation = field(default_factory=Preparation)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run the services; ``instances`` by service, ``environment`` from the caller."""

    provider: Provider
    store_dsn: str
    embedder_token: str
    instances: Mapping[str, int]
    environment: Mapping[str, str]


def digests(environment: Mapping[str, str], key: str) -> dict[str, str]:
    """Return a digest of each setting of services in the environment; without the key it does not reveal the value."""
    secret = key.encode()[: hashlib.blake2b.MAX_KEY_SIZE]
    return {
        name: hashlib.blake2b(os.fsencode(value), key=secret, digest_size=8).hexdigest()
        for name, value in sorted(environment.items())
        if name.startswith(_SETTINGS) and name not in _TOLD_ELSEWHERE
    }


def provider_of(name: str, environment: Mapping[str, str]) -> Provider:
    """Return the provider with the identity that the embedder gives its model.

    Raises :class:`UsageError` for an unknown name and :class:`ConfigurationError` for a missing or bad variable.
    """
    if name not in PROVIDERS:
        raise UsageError(f"unknown provider {name!r}", where="--provider", remedy=f"Use {', '.join(PROVIDERS)}.")
    model = environment.get("HEADRACE_EMBEDDER_MODEL", PACKAGED_MODEL)
    known = known_model("" if name == "hashing" else model)
    given = environment.get("HEADRACE_EMBEDDER_DIMENSIONS")
    if given is None:
        if name != "hashing" and identity(model) not in KNOWN:
            raise ConfigurationError(
                f"unknown model {model}", where="HEADRACE_EMBEDDER_MODEL",
                remedy="Set HEADRACE_EMBEDDER_DIMENSIONS to the dimensions of its vectors, and the prompts that its "
                f"model card names. Known models: {', '.join(KNOWN)}.",
            )  # fmt: skip
        given = str(known.dimensions)
    if not given.isdecimal():
        raise ConfigurationError(f"invalid number of dimensions {given!r}", where="HEADRACE_EMBEDDER_DIMENSIONS")
    dimensions = int(given)
    preparation = _preparation(environment, known.passage_prompt)
    if name == "hashing":
        return Provider(name, f"hashing-{dimensions}", dimensions, preparation)
    if name == SERVED:
        if not environment.get("HEADRACE_EMBEDDER_BASE_URL"):
            raise ConfigurationError(
                "the provider openai-compatible requires a server",
                where="HEADRACE_EMBEDDER_BASE_URL",
                remedy="Set it to the server's URL, including /v1. Set HEADRACE_EMBEDDER_MODEL and _DIMENSIONS too.",
            )
        sent = environment.get("HEADRACE_EMBEDDER_SEND_DIMENSIONS", "").lower() in _TRUE
        return Provider(name, shortened(model, dimensions) if sent else model, dimensions, preparation)
    return Provider(name, identity(model), dimensions, preparation)


def _preparation(environment: Mapping[str, str], passage_prompt: str) -> Preparation:
    over_long = environment.get("HEADRACE_EMBEDDER_OVER_LONG", OverLong.CUT.value)
    if over_long not in set(OverLong):
        raise ConfigurationError(
            f"invalid value {over_long!r}", where="HEADRACE_EMBEDDER_OVER_LONG",
            remedy=f"Use {', '.join(OverLong)}.",
        )  # fmt: skip
    return Preparation(
        environment.get("HEADRACE_EMBEDDER_TEXT_TEMPLATE", BODY),
        environment.get("HEADRACE_EMBEDDER_PASSAGE_PROMPT", passage_prompt),
        OverLong(over_long),
    )


def scale(given: Sequence[str]) -> dict[str, int]:
    """Return the number of instances by service from ``STAGE=N``; raises :class:`UsageError`."""
    instances = dict.fromkeys(SERVICES, 1)
    for text in given:
        match = re.fullmatch(r"([a-z]+)=(\d{1,3})", text)
        if match is None or match[1] not in instances or not 1 <= int(match[2]) <= MOST_INSTANCES:
            raise UsageError(
                f"invalid number of instances {text!r}",
                where="--scale",
                remedy=f"Use STAGE=N with N from 1 to {MOST_INSTANCES} and STAGE one of {', '.join(SERVICES)}.",
            )
        instances[match[1]] = int(match[2])
    return instances


def process_name(service: str, slot: int) -> str:
    """Return the name of an instance: ``chunker``, ``chunker-1``, …"""
    return service if slot == 0 else f"{service}-{slot}"


def runtime_dsn(owner_dsn: str, login: str, password: str) -> str:
    """Return the owner's URL with the services' login; raises :class:`ConfigurationError` for another form of DSN."""
    parts = urlsplit(owner_dsn)
    if parts.scheme not in ("postgresql", "postgres") or not parts.netloc:
        raise ConfigurationError(
            "invalid PostgreSQL URL", where="--postgres", remedy="Use the form postgresql://user:password@host/db."
        )
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(login, safe='')}:{quote(password, safe='')}@{host}"))


def gateway_url(port: Port) -> str:
    """Return the URL of the gateway."""
    return f"{_LOOPBACK}:{port('gateway')}"


def status_urls(instances: Mapping[str, int], port: Port) -> dict[str, str]:
    """Return the status URL (``/readyz``) of each instance, by process name."""
    names = [process_name(service, slot) for service in SERVICES for slot in range(instances[service])]
    return {name: f"{_LOOPBACK}:{port(name)}" for name in names}


def service_commands(endpoints: Endpoints, plan: Plan, port: Port) -> tuple[Command, ...]:
    """Return the processes of the plan, in the order of the flow."""
    return tuple(
        _command(service, slot, endpoints, plan, port)
        for service in SERVICES
        for slot in range(plan.instances[service])
    )


def _command(service: str, slot: int, endpoints: Endpoints, plan: Plan, port: Port) -> Command:
    name = process_name(service, slot)
    status_port = port(name)
    environment = {
        **{k: v for k, v in plan.environment.items() if k.startswith(_PREFIX) and k not in _OURS},
        "HEADRACE_KAFKA_BOOTSTRAP": endpoints.kafka_bootstrap,
        "HEADRACE_REGISTRY_URL": endpoints.registry_url,
        "HEADRACE_STORE_DSN": plan.store_dsn,
        "HEADRACE_HTTP_PORT": str(status_port),
        "HEADRACE_WORKER_SLOT": str(slot),
    }
    health = f"{_LOOPBACK}:{status_port}/readyz"
    loads, start_s = "", _START_S
    query_url = f"{_LOOPBACK}:{port(_query_port(0))}"
    match service:
        case "embedder":
            loads, start_s = _loading(plan)
            own = port(_query_port(slot))
            environment |= {
                "HEADRACE_EMBEDDER_PROVIDER": plan.provider.name,
                "HEADRACE_EMBEDDER_PORT": str(own),
                "HEADRACE_EMBEDDER_TOKEN": plan.embedder_token,
            }
            health = f"{_LOOPBACK}:{own}/readyz"  # answers once the model is loaded
        case "generator":
            environment |= _queries("GENERATOR", query_url, plan.embedder_token)
        case "gateway":
            _, start_s = _loading(plan)  # it is ready when the embedder is
            environment |= {"HEADRACE_GATEWAY_PORT": str(status_port)}
            environment |= _queries("GATEWAY", query_url, plan.embedder_token)
        case _:
            pass
    argv = (sys.executable, "-m", f"headrace_{service}.main")
    return Command(name, argv, environment, health=health, start_s=start_s, early=service == "embedder", loads=loads)


def _loading(plan: Plan) -> tuple[str, float]:
    """Return what the embedder loads before it is ready (empty for nothing), and how long that may take."""
    if plan.provider.name in ("hashing", SERVED):
        return "", _START_S
    model = plan.environment.get("HEADRACE_EMBEDDER_MODEL", PACKAGED_MODEL)
    if model in PACKAGED_MODELS or Path(model).exists():
        return f"the model {model}; the first start prepares it", _START_S
    return f"the model {model}; the first start downloads and prepares it, which can take minutes", _FETCH_S


def _queries(service: str, url: str, token: str) -> dict[str, str]:
    return {f"HEADRACE_{service}_EMBEDDER_URL": url, f"HEADRACE_{service}_EMBEDDER_TOKEN": token}


def _query_port(slot: int) -> str:
    return f"{process_name('embedder', slot)}-queries"
