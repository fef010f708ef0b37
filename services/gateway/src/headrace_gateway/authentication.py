"""API keys: the tenant and the reader of each. The API key alone decides for whom a request reads."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from headrace.access.readers import UNNAMED, Reader
from headrace.store.keys import KeyOwner
from headrace_gateway.problems import Problem
from headrace_gateway.reader_headers import GROUPS, PROJECTS, USER, named_reader

FindOwner = Callable[[str], Awaitable[KeyOwner | None]]
"""Returns whom an API key stands for, or None for an unknown or revoked key."""

KEY_PREFIX = "hr_"
_MAX_KEY_LENGTH = 256
_MAX_ENTRIES = 10_000

_bearer = HTTPBearer(auto_error=False, description="An API key: `hr_…`.", scheme_name="API key")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated API key. ``name`` holds the first characters of the key's hash, which do not reveal the key.

    ``reader`` is the key's own, or the one that the request named; None if the key acts for readers and the request
    named none.
    """

    tenant: str
    name: str
    reader: Reader | None = UNNAMED


@dataclass(frozen=True, slots=True)
class Reading(Principal):
    """A principal that reads: its reader is known."""

    reader: Reader


class Authenticator:
    """Looks up API keys. Caches valid keys for ``remember_s`` seconds; never caches unknown keys."""

    def __init__(self, find_owner: FindOwner, remember_s: float) -> None:
        self._find_owner = find_owner
        self._known: TTLCache[bytes, Principal] = TTLCache(_MAX_ENTRIES, remember_s)

    async def authenticate(self, key: str) -> Principal | None:
        """Return the principal of the key, or None for an unknown key."""
        if not key.startswith(KEY_PREFIX) or len(key) > _MAX_KEY_LENGTH:
            return None
        digest = hashlib.sha256(key.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            return known
        owner = await self._find_owner(key)
        if owner is None:
            return None
        principal = self._known[digest] = Principal(owner.tenant, f"key:{digest.hex()[:12]}", owner.reader)
        return principal


async def _principal(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Principal:
    authenticator: Authenticator = request.app.state.authenticator
    found = None if credentials is None else await authenticator.authenticate(credentials.credentials)
    if found is None:
        said = "The request has no API key." if credentials is None else "The API key is unknown or revoked."
        raise Problem(
            401,
            "unauthenticated",
            said,
            remedy="Send `Authorization: Bearer hr_…` with a valid key.",
            headers={"WWW-Authenticate": 'Bearer realm="headrace"'},
        )
    named = named_reader(request.headers)
    if named is None:
        return found
    if found.reader is not None:
        raise Problem(
            403,
            "bound-key",
            "The request names a reader, but its API key reads for itself.",
            remedy=f"Leave out the headers {USER}, {GROUPS} and {PROJECTS}, or use a key that acts for readers.",
        )
    return Principal(found.tenant, found.name, named)


Caller = Annotated[Principal, Depends(_principal)]
"""The authenticated principal, as a parameter of a route that does not read."""

_ENCODED = "Percent-encode what is not ASCII, and commas in a name."


async def _reading(
    caller: Caller,
    headrace_user: Annotated[  # noqa: ARG001  # named_reader reads all headers; this is their documentation
        str | None, Header(description=f"User for whom an API key that acts for readers reads. {_ENCODED}")
    ] = None,
    headrace_groups: Annotated[  # noqa: ARG001
        str | None, Header(description=f"Groups of that user, separated by commas. {_ENCODED}")
    ] = None,
    headrace_projects: Annotated[  # noqa: ARG001
        str | None, Header(description=f"Projects of that user, separated by commas. {_ENCODED}")
    ] = None,
) -> Reading:
    if caller.reader is None:
        raise Problem(
            422,
            "no-reader",
            "The API key acts for readers, but the request names none.",
            remedy=f"Name the reader in the headers {USER}, {GROUPS} and {PROJECTS}. An empty {USER} stands for a "
            "reader without a user, who sees only documents without an acl.",
        )
    return Reading(caller.tenant, caller.name, caller.reader)


ReadingCaller = Annotated[Reading, Depends(_reading)]
"""The authenticated principal with its reader, as a parameter of a route that reads."""


def require_own_tenant(principal: Principal, named: object) -> None:
    """Reject a body that names a tenant other than the API key's."""
    if named is not None and named != principal.tenant:
        raise Problem(
            403,
            "foreign-tenant",
            "The body names a tenant other than the API key's.",
            remedy="Leave out `tenant`: the API key decides it.",
        )
