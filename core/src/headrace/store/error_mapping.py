"""The one place that distinguishes outages of PostgreSQL from mistakes in Headrace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from headrace.errors import ConfigurationError, DependencyDown, describe

_OUTAGES = (
    asyncpg.PostgresConnectionError,  # class 08: refused, broken, rejected
    asyncpg.OperatorInterventionError,  # class 57: shutdown, startup, statement timeout
    asyncpg.InsufficientResourcesError,  # class 53: connections, memory or disk used up
    asyncpg.TransactionRollbackError,  # class 40: deadlock, serialization failure; the same batch succeeds later
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresSystemError,  # class 58: a failure of the server's own disk or files
    asyncpg.ReadOnlySQLTransactionError,  # a standby that has not been promoted yet
    OSError,
    TimeoutError,
)
_SETTINGS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,  # a login without the role, or a policy that rejects the tenant
)
_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)


class GenerationExists(ConfigurationError):
    """A generation with this name exists, with another model or differently prepared texts."""

    code = "generation-exists"


@contextmanager
def postgresql_errors() -> Iterator[None]:
    """Convert asyncpg's exceptions in this block into Headrace's.

    An outage becomes :class:`DependencyDown`, because no record is at fault. So does a wrong login, database or schema,
    or a missing right, with a remedy that names the setting. Other exceptions, such as a violated constraint, are not
    converted, because they are bugs in Headrace or errors in the record. The block must contain database work only,
    because every OSError or TimeoutError in it counts as an outage.
    """
    try:
        yield
    except _OUTAGES as outage:
        raise DependencyDown("postgresql", f"PostgreSQL does not answer: {describe(outage)}") from outage
    except asyncpg.InterfaceError as broken:
        # asyncpg raises ValueError for an argument of the wrong type and quotes it; the text may mention connections.
        if isinstance(broken, ValueError) or ("connection" not in str(broken) and "pool" not in str(broken)):
            raise
        raise DependencyDown("postgresql", f"PostgreSQL does not answer: {broken}") from broken
    except _SETTINGS as refused:
        raise DependencyDown(
            "postgresql",
            f"PostgreSQL denies access: {refused}",
            remedy="Check HEADRACE_STORE_DSN, and that the bootstrap job created the login.",
        ) from refused
    except _SCHEMA as unknown:
        raise DependencyDown(
            "postgresql",
            f"the store's schema does not match this release: {unknown}",
            remedy="Run the bootstrap job (`headrace bootstrap`) and check HEADRACE_STORE_SCHEMA_NAME.",
        ) from unknown
