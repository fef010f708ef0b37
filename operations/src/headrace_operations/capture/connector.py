"""Configures Debezium's PostgreSQL connector through Kafka Connect's REST API."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import httpx

from headrace.config.captured_tables import Table
from headrace.errors import ConfigurationError, DependencyDown

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
RUNNING, FAILED = "RUNNING", "FAILED"
_CLASS = "io.debezium.connector.postgresql.PostgresConnector"
_KEYS = "message.key.columns"
_SSL = {
    "sslmode": "database.sslmode", "sslrootcert": "database.sslrootcert", "sslcert": "database.sslcert",
    "sslkey": "database.sslkey",
}  # fmt: skip
"""The encryption options of a PostgreSQL URL, and the connector's names for them."""
_HEARTBEAT_MS = 60_000
_TIMEOUT_S = 30.0
_FIXED = {
    "decimal.handling.mode": "string",
    "time.precision.mode": "isostring",
    "tombstones.on.delete": "false",
    "skipped.operations": "none",
    "heartbeat.interval.ms": str(_HEARTBEAT_MS),
    "exactly.once.support": "required",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "false",
    "transforms": "route",
    "transforms.route.type": "org.apache.kafka.connect.transforms.RegexRouter",
    "transforms.route.regex": ".*",
    "producer.override.max.request.size": str(16 * 1024 * 1024),
    "producer.override.compression.type": "zstd",
}
"""Options that are the same for every capture."""
_READ = frozenset({200})
_READ_ONE = frozenset({200, 404})
_PUT = frozenset({200, 201, 400})
_RESET = frozenset({200, 400, 404})
_GONE = frozenset({200, 202, 204, 404})
"""Status codes that a call may answer with. Those of a deletion include 404: what does not exist is already deleted."""
_LATER = frozenset({408, 409, 429})
"""Other status codes after which the same request can succeed; 409 is a rebalance."""
_NOT_CONNECT = "Check that --connect is the URL of Kafka Connect's REST API."
_DENIED = "Pass credentials that Kafka Connect accepts in the URL: --connect http://user:password@host:port."
_Json = TypeVar("_Json", list[str], dict[str, Any])


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a connector and its tasks: the worst of them, and the first line of its reason."""

    name: str
    state: str
    reason: str = ""
    tables: tuple[str, ...] = ()


def slot_of(name: str) -> str:
    """Return the name of the connector's replication slot and publication."""
    return f"headrace_{name}"


def configuration(name: str, dsn: str, tables: Mapping[str, Table], topic: str) -> dict[str, str]:
    """Return the connector's configuration: it writes all row changes to ``topic``, with one key per document.

    Raises :class:`ConfigurationError` for a name that a slot cannot have, and for a DSN that the connector cannot use.
    """
    if not NAME.fullmatch(name):
        raise ConfigurationError(
            f"invalid capture name {name!r:.60}", where="--name",
            remedy="Use 1-41 lowercase letters, digits or '_', starting with a letter. The replication slot gets this "
            "name.",
        )  # fmt: skip
    return {
        "connector.class": _CLASS,
        **_database(dsn),
        "topic.prefix": name,
        "plugin.name": "pgoutput",
        "slot.name": slot_of(name),
        "publication.name": slot_of(name),
        "publication.autocreate.mode": "filtered",
        "table.include.list": ",".join(re.escape(table) for table in tables),
        "column.include.list": ",".join(
            re.escape(f"{table}.{column}") for table, mapped in tables.items() for column in mapped.columns
        ),
        _KEYS: ";".join(f"{re.escape(table)}:{','.join(mapped.identity)}" for table, mapped in tables.items()),
        "transforms.route.replacement": topic,
        **_FIXED,
    }


def _database(dsn: str) -> dict[str, str]:
    """Return the connector's options for the source database.

    Raises :class:`ConfigurationError` for a DSN that is not a PostgreSQL URL or has unknown options.
    """
    try:
        place = urlsplit(dsn)
        port = place.port or 5432
    except ValueError:
        place, port = urlsplit(""), 0
    given = dict(parse_qsl(place.query))
    if unknown := given.keys() - _SSL.keys():
        raise ConfigurationError(
            f"the source database's URL has options that the connector does not support: {', '.join(sorted(unknown))}",
            where="--database", remedy=f"Remove them; supported options: {', '.join(_SSL)}.",
        )  # fmt: skip
    if place.scheme not in ("postgresql", "postgres") or not place.hostname:
        raise ConfigurationError(
            "the source database is not a PostgreSQL URL",
            where="--database",
            remedy="Use the form postgresql://user:password@host/name.",
        )
    return {
        "database.hostname": place.hostname,
        "database.port": str(port),
        "database.user": unquote(place.username or ""),
        "database.password": unquote(place.password or ""),
        "database.dbname": unquote(place.path.lstrip("/")) or "postgres",
        **{_SSL[option]: value for option, value in given.items()},
    }


def dsn_of(config: Mapping[str, str]) -> str:
    """Return the URL of the database that the connector captures."""
    user, password = quote(config["database.user"], safe=""), quote(config["database.password"], safe="")
    host = config["database.hostname"]
    host = f"[{host}]" if ":" in host else host
    place = f"{host}:{config['database.port']}/{quote(config['database.dbname'], safe='')}"
    options = urlencode({option: config[key] for option, key in _SSL.items() if key in config})
    return f"postgresql://{user}:{password}@{place}{'?' if options else ''}{options}"


def is_ours(name: str, config: Mapping[str, str]) -> bool:
    """Whether :func:`configuration` created the connector."""
    return config.get("connector.class") == _CLASS and config.get("slot.name") == slot_of(name)


def unread(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Return why the connector cannot change from one configuration to the other; None if it can.

    A running connector takes no new snapshot, so the existing rows of a new table or key would be missing.
    """
    keys = set(old.get(_KEYS, "").split(";"))
    if more := set(new[_KEYS].split(";")) - keys:
        return f"would not read the existing rows of {', '.join(sorted(more)).replace(chr(92), '')}"
    return None


class Connect:
    """A Kafka Connect cluster.

    Every method raises :class:`DependencyDown` if it does not answer, and :class:`ConfigurationError` if it refuses a
    request or another program answers.
    """

    def __init__(self, url: str) -> None:
        """Raises :class:`ConfigurationError` for an invalid URL."""
        self._url = url.rstrip("/")
        self._shown = _shown(url)

    def names(self) -> list[str]:
        """Return the names of its connectors."""
        found = self._json(self._call("GET", "/connectors", _READ), list)
        return sorted(str(name) for name in found)

    def put(self, name: str, config: Mapping[str, str]) -> None:
        """Start the connector, or change it; raises :class:`ConfigurationError` if Kafka Connect rejects it."""
        path = f"/connectors/{quote(name, safe='')}/config"
        answer = self._call("PUT", path, _PUT, json=dict(config))
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise ConfigurationError(f"Kafka Connect rejected the connector: {_message(answer)}", where=self._shown)

    def configuration(self, name: str) -> dict[str, str] | None:
        """Return the connector's configuration, or None if it does not exist."""
        answer = self._call("GET", f"/connectors/{quote(name, safe='')}/config", _READ_ONE)
        return None if answer.status_code == httpx.codes.NOT_FOUND else self._json(answer, dict)

    def status(self, name: str) -> Status | None:
        """Return the connector's status, or None if it does not exist."""
        config = self.configuration(name)
        answer = self._call("GET", f"/connectors/{quote(name, safe='')}/status", _READ_ONE)
        if config is None:
            return None
        tables = tuple(table.replace("\\", "") for table in config.get("table.include.list", "").split(",") if table)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return Status(name, "UNASSIGNED", tables=tables)
        said = self._json(answer, dict)
        parts = [said["connector"], *said.get("tasks", [])]
        worst = next((part for part in parts if part["state"] != RUNNING), parts[-1])
        state = worst["state"] if len(parts) > 1 or worst["state"] != RUNNING else "STARTING"
        return Status(name, state, worst.get("trace", "").partition("\n")[0], tables)

    def wait_running(self, name: str, timeout: float) -> Status:
        """Wait until the connector runs or fails, and return its status."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status(name) or Status(name, "UNASSIGNED")
            if status.state in (RUNNING, FAILED) or time.monotonic() > deadline:
                return status
            time.sleep(0.2)

    def delete(self, name: str) -> None:
        """Delete the connector with its offsets, so that a connector with the same name starts from the beginning."""
        path = f"/connectors/{quote(name, safe='')}"
        self._call("PUT", f"{path}/stop", _GONE)
        deadline = time.monotonic() + _TIMEOUT_S
        while (answer := self._call("DELETE", f"{path}/offsets", _RESET)).status_code == httpx.codes.BAD_REQUEST:
            if time.monotonic() > deadline:
                raise DependencyDown("kafka connect", f"the connector {name} does not stop: {_message(answer)}")
            time.sleep(0.2)
        self._call("DELETE", path, _GONE)

    def _call(self, method: str, path: str, expected: Collection[int], json: object = None) -> httpx.Response:
        """Return the answer if its status is an expected one."""
        try:
            answer = httpx.request(method, self._url + path, json=json, timeout=_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise DependencyDown(
                "kafka connect", f"{type(error).__name__}: {error}",
                remedy="Start one with `headrace up --with-connect`, or pass its URL with --connect.",
            ) from error  # fmt: skip
        if answer.status_code in expected:
            return answer
        if answer.is_server_error or answer.status_code in _LATER:
            raise DependencyDown(
                "kafka connect", _message(answer), remedy="Run the command again; Kafka Connect may be rebalancing."
            )
        raise ConfigurationError(
            f"HTTP {answer.status_code} in answer to {method} {path}: {_message(answer)}", where=self._shown,
            remedy=_DENIED if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) else _NOT_CONNECT,
        )  # fmt: skip

    def _json(self, answer: httpx.Response, kind: type[_Json]) -> _Json:
        """Return the answer's body, which must be of this type."""
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise ConfigurationError(
                f"the answer is not Kafka Connect's: {answer.text[:100]!r}", where=self._shown, remedy=_NOT_CONNECT
            )
        return found


def _shown(url: str) -> str:
    """Return the URL without its password; raises :class:`ConfigurationError` if it is not one of HTTP."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(
            f"{url.rpartition('@')[2]!r:.200} is not a URL of Kafka Connect's REST API", where="--connect",
            remedy="Use the form http://host:port.",
        )  # fmt: skip
    return str(parsed.copy_with(userinfo=b""))


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])[:1000]
    except (ValueError, KeyError, TypeError):
        return answer.text[:1000] or "no message"
