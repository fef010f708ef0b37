"""API keys and the tenant of each. The API key alone decides the tenant of a request."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from headrace_gateway.problems import Problem

FindTenant = Callable[[str], Awaitable[str | None]]
"""Returns the tenant of an API key, or None for an unknown or revoked key."""

KEY_PREFIX = "hr_"
_MAX_KEY_LENGTH = 256
_MAX_ENTRIES = 10_000

_bearer = HTTPBearer(auto_error=False, description="An API key: `hr_…`.", scheme_name="API key")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated API key. ``name`` holds the first characters of the key's hash, which do not reveal the key."""

    tenant: str
    name: str


class Authenticator:
    """Looks up API keys. Caches valid keys for ``remember_s`` seconds; never caches unknown keys."""

    def __init__(self, find_tenant: FindTenant, remember_s: float) -> None:
        self._find_tenant = find_tenant
        self._known: TTLCache[bytes, Principal] = TTLCache(_MAX_ENTRIES, remember_s)

    async def authenticate(self, key: str) -> Principal | None:
        """Return the principal of the key, or None for an unknown key."""
        if not key.startswith(KEY_PREFIX) or len(key) > _MAX_KEY_LENGTH:
            return None
        digest = hashlib.sha256(key.encode()).digest()
        known = self._known.get(digest)
        if known is not None:
            return known
        tenant = await self._find_tenant(key)
        if tenant is None:
            return None
        principal = self._known[digest] = Principal(tenant, f"key:{digest.hex()[:12]}")
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
    return found


Caller = Annotated[Principal, Depends(_principal)]
"""The authenticated principal, as a parameter of a route."""


def require_own_tenant(principal: Principal, named: object) -> None:
    """Reject a body that names a tenant other than the API key's."""
    if named is not None and named != principal.tenant:
        raise Problem(
            403,
            "foreign-tenant",
            "The body names a tenant other than the API key's.",
            remedy="Leave out `tenant`: the API key decides it.",
        )
