"""Who asks: API keys, and the tenant that each belongs to. The tenant never comes from anywhere else."""

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
"""Returns the tenant whose API key this is, or None for an unknown or revoked one."""

KEY_PREFIX = "hr_"
_MAX_KEY_LENGTH = 256
_MAX_ENTRIES = 10_000

_bearer = HTTPBearer(auto_error=False, description="An API key: `hr_…`.", scheme_name="API key")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks; ``name`` identifies the key by the first characters of its hash and gives nothing of it away."""

    tenant: str
    name: str


class Authenticator:
    """Looks API keys up and remembers good ones for ``remember_s`` seconds; unknown ones are never remembered."""

    def __init__(self, find_tenant: FindTenant, remember_s: float) -> None:
        self._find_tenant = find_tenant
        self._known: TTLCache[bytes, Principal] = TTLCache(_MAX_ENTRIES, remember_s)

    async def authenticate(self, key: str) -> Principal | None:
        """Return who has this key; None for an unknown one."""
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
        said = "The request names no API key." if credentials is None else "The API key is unknown or revoked."
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
    """Refuse a body that names another tenant than the key's."""
    if named is not None and named != principal.tenant:
        raise Problem(
            403,
            "foreign-tenant",
            "The body names a tenant that is not the API key's.",
            remedy="Leave `tenant` out: it follows from the API key.",
        )
