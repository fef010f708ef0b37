"""The watcher's checks: spending caps, processes, and the embedder's errors."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from headrace.embeddings.costs import CostBook
from headrace.errors import HeadraceError
from headrace.kafka import lag
from headrace.store.pool import StoreSettings
from headrace.topology.stages import EMBEDDER
from headrace_operations.alerts.alerter import Alert
from headrace_operations.alerts.conditions import ErrorShare, is_new, of_caps, of_stages
from headrace_operations.cluster import Cluster
from headrace_operations.dead_letters.log import Found
from headrace_operations.dead_letters.model import ANY_STATE, Selection
from headrace_operations.embeddings.spending import spending

_ASK_S = 4.0
_MOST_BODY = 64 * 1024
Look = Callable[[], list[Alert]]


class Looks:
    """Checks by name; if one fails, its last result stays valid."""

    def __init__(self, looks: Mapping[str, Look]) -> None:
        self._looks = looks
        self._seen: dict[str, list[Alert]] = {name: [] for name in looks}

    def __call__(self) -> list[Alert]:
        """Return the alerts of all checks; a failed check adds an alert and repeats its last alerts.

        So a failed check never ends an alert.
        """
        alerts: list[Alert] = []
        for name, look in self._looks.items():
            try:
                self._seen[name] = look()
            except HeadraceError as error:
                alerts.append(Alert(f"blind/{name}", f"the watcher cannot check {name}", error.message))
            alerts += self._seen[name]
        return alerts


def caps(store: StoreSettings, book: CostBook) -> list[Alert]:
    """Return an alert for each reached cap; raises :class:`DependencyDown`."""
    return of_caps(asyncio.run(spending(store, book, None)).reached)


def stages(urls: Mapping[str, str]) -> list[Alert]:
    """Return an alert for each process that stopped itself or does not answer at its URL."""
    with ThreadPoolExecutor(max_workers=16, thread_name_prefix="readyz") as pool:
        return of_stages(dict(zip(urls, pool.map(readyz, urls.values()), strict=True)))


def readyz(url: str) -> dict[str, Any] | None:
    """Return ``/readyz`` below the HTTP or HTTPS URL of a process, or None if it does not answer."""
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(address.hostname or "", address.port, timeout=_ASK_S)
    try:
        connection.request("GET", f"{address.path.rstrip('/')}/readyz")
        found = json.loads(connection.getresponse().read(_MOST_BODY))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found if isinstance(found, dict) else None


def errors(cluster: Cluster, share: ErrorShare) -> list[Alert]:
    """Return an alert if too many of the embedder's newest records fail; raises :class:`DependencyDown`."""
    progress = lag.progress(lag.LagReader(cluster.kafka), EMBEDDER.name)
    since, records = share.window(datetime.now(UTC), progress.total - progress.pending)
    failed = 0

    def one(found: Found) -> None:
        nonlocal failed
        failed += found.letter is not None and is_new(found.letter)

    cluster.dead_letters().read(Selection(stage=EMBEDDER.name, since=since, states=ANY_STATE), one)
    return share.alerts(records, failed)
