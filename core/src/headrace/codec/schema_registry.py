"""A client of the schema registry, through its Confluent-compatible API.

Services only look schemas up; :func:`register_all` is the migration step that registers them. If the registry does not
answer, the error is :class:`DependencyDown`, so no record is dead-lettered for it.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import httpx

from headrace.codec import schemas
from headrace.errors import ConfigurationError, DependencyDown, UndecodableRecord, describe

T = TypeVar("T")
COMPATIBILITY = "FULL_TRANSITIVE"
_TYPE = "application/vnd.schemaregistry.v1+json"
_NOT_FOUND = 404
_SCHEMA_NOT_FOUND = 40403
"""The ``error_code`` for an unknown schema; a 404 without it does not come from a registry."""
_BUSY = {408, 429}
_IDS = range(2**31)
"""Schema IDs are 32-bit signed integers; registries answer differently to other numbers."""


class Registry:
    """A client of the registry at ``url`` that caches every ID it has seen; the meaning of an ID never changes."""

    def __init__(self, url: str, *, timeout: float = 5.0, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=timeout, transport=transport, trust_env=False)
        self._ids: dict[str, int] = {}
        self._schemas: dict[int, Any] = {}

    def id_of(self, name: str) -> int:
        """Return the ID of the schema; raises :class:`ConfigurationError` if the migration step did not run."""
        if name not in self._ids:
            answer = self._call("POST", f"/subjects/{name}", json={"schema": _text(name)})
            if answer.status_code == _NOT_FOUND:
                raise ConfigurationError(
                    f"this version of {name} is not registered",
                    where=str(self._http.base_url),
                    remedy="Run `headrace bootstrap` before the services start; it registers the schemas.",
                )
            self._ids[name] = _field(answer, "id", int)
        return self._ids[name]

    def writer_schema(self, schema_id: int) -> Any:
        """Return the parsed schema.

        Raises :class:`UndecodableRecord` for an ID that the registry does not know, and :class:`DependencyDown` if
        something other than a registry answers, because a wrong address is not the fault of a record.
        """
        if schema_id not in self._schemas:
            if schema_id not in _IDS:
                raise UndecodableRecord(f"{schema_id} is not a schema ID; allowed are 0 to {_IDS[-1]}")
            answer = self._call("GET", f"/schemas/ids/{schema_id}")
            if answer.status_code == _NOT_FOUND:
                raise _not_found(answer, schema_id)
            found = schemas.parse_foreign(_field(answer, "schema", str), f"schema id {schema_id}")
            self._schemas[schema_id] = schemas.own_if_equal(found)
        return self._schemas[schema_id]

    def register(self, name: str) -> int:
        """Register the schema under its own name; raises :class:`ConfigurationError` if it is incompatible."""
        answer = self._call("POST", f"/subjects/{name}/versions", json={"schema": _text(name)})
        if answer.status_code in (409, 422):
            raise ConfigurationError(
                f"the schema registry rejects {name} as incompatible: {answer.text[:500]}",
                remedy=f"Compatibility is {COMPATIBILITY}: only add fields with a default.",
            )
        return _field(answer, "id", int)

    def require_compatibility(self) -> None:
        """Set the registry's global compatibility rule, because some registries start without one."""
        answer = self._call("PUT", "/config", json={"compatibility": COMPATIBILITY})
        if answer.status_code == httpx.codes.CONFLICT:  # another process created the rule; now it can be set
            answer = self._call("PUT", "/config", json={"compatibility": COMPATIBILITY})
        _checked(answer)

    def ping(self) -> None:
        """Raise :class:`DependencyDown` if the registry does not answer."""
        _checked(self._call("GET", "/subjects"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, headers={"Content-Type": _TYPE, "Accept": _TYPE}, **arguments)
        except httpx.HTTPError as error:
            raise DependencyDown("schema registry", f"{method} {path}: {describe(error)}") from error
        if answer.status_code >= 500 or answer.status_code in _BUSY:
            raise DependencyDown("schema registry", f"{method} {path}: HTTP {answer.status_code}")
        return answer


def _checked(answer: httpx.Response) -> Any:
    if answer.status_code >= 400:
        raise ConfigurationError(
            f"the registry answered HTTP {answer.status_code}: {answer.text[:300]}",
            where=str(answer.request.url),
        )
    try:
        return answer.json()
    except ValueError as error:
        raise _no_registry(answer, "the answer is not JSON") from error


def _field(answer: httpx.Response, name: str, kind: type[T]) -> T:
    """Return a field of the registry's answer; raises :class:`DependencyDown` if it is missing."""
    body = _checked(answer)
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, kind):
        raise _no_registry(answer, f"the answer has no field {name!r}")
    return value


def _not_found(answer: httpx.Response, schema_id: int) -> UndecodableRecord | DependencyDown:
    """Return what a 404 means: an ID that the registry does not know, or a URL that is not a registry."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    if isinstance(body, dict) and body.get("error_code") == _SCHEMA_NOT_FOUND:
        return UndecodableRecord(f"the schema registry has no schema with ID {schema_id}")
    return _no_registry(answer, f"HTTP {_NOT_FOUND} without the error code {_SCHEMA_NOT_FOUND} of a registry")


def _no_registry(answer: httpx.Response, what: str) -> DependencyDown:
    return DependencyDown("schema registry", f"{answer.request.url}: {what}", remedy="Check HEADRACE_REGISTRY_URL.")


def _text(name: str) -> str:
    return json.dumps(schemas.inline(name))


def register_all(registry: Registry, record_names: list[str]) -> dict[str, int]:
    """Set the compatibility rule and register every record; return schema IDs by name."""
    registry.require_compatibility()
    return {name: registry.register(name) for name in record_names}


class FixedIds:
    """Schema IDs without a registry, for the memory broker: positions in the sorted list of names."""

    def __init__(self) -> None:
        self._names = schemas.names()

    def id_of(self, name: str) -> int:
        """Return the ID."""
        return self._names.index(name) + 1

    def writer_schema(self, schema_id: int) -> Any:
        """Return the parsed schema; raises :class:`UndecodableRecord` if there is none with that ID."""
        if not 1 <= schema_id <= len(self._names):
            raise UndecodableRecord(f"the schema registry has no schema with ID {schema_id}")
        return schemas.parsed(self._names[schema_id - 1])
