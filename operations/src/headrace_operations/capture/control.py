"""Starting and stopping a capture."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.config.captured_tables import Table
from headrace_operations.capture.connector import FAILED, Connect, Status, configuration, dsn_of, is_ours, unread
from headrace_operations.capture.database import Problem, drop_slot, look, problems
from headrace_operations.errors import NotThere, Refused

_START_S = 60.0
_HIDDEN = "database.password"


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Tables of the database that are written to the topic, under a name; the DSN is of a role that may replicate."""

    name: str
    tables: Mapping[str, Table]
    dsn: str
    topic: str

    def configuration(self) -> dict[str, str]:
        """Return the connector's configuration; raises :class:`ConfigurationError`."""
        return configuration(self.name, self.dsn, self.tables, self.topic)


class NoSuchCapture(NotThere):
    """Kafka Connect has no such connector."""

    code = "no-such-capture"


class RefusedCapture(Refused):
    """The capture cannot be started or stopped."""

    code = "refused-capture"


def find_problems(dsn: str, tables: Mapping[str, Table]) -> list[Problem]:
    """Return why a capture of the tables would fail or lose something; raises :class:`DependencyDown`."""
    return problems(asyncio.run(look(dsn, list(tables))), tables)


def shown(config: Mapping[str, str]) -> dict[str, str]:
    """Return a configuration as it may be shown: the dry run of a start."""
    return {key: "***" if key == _HIDDEN else value for key, value in config.items()}


def start(connect: Connect, request: CaptureRequest, where: str) -> Status:
    """Have the connector run with what is asked now; ``where`` names the file of the tables.

    Raises :class:`RefusedCapture` for a connector that is none of ours, for one that would need all rows again, and
    for one that fails; :class:`DependencyDown` where Kafka Connect does not answer.
    """
    config, name = request.configuration(), request.name
    before = connect.configuration(name)
    if before is not None:
        _require_ours(name, before)
        if (why := unread(before, config)) is not None:
            raise RefusedCapture(
                f"{name} runs, and {why}", where=where,
                remedy=f"`headrace capture stop {name}`, then start it again: all rows are read anew.",
            )  # fmt: skip
    connect.put(name, config)
    status = connect.wait_running(name, _START_S)
    if status.state == FAILED:
        raise RefusedCapture(
            f"the capture failed: {status.reason}", where=name,
            remedy="Mend that and run this again; the log of Kafka Connect has the rest.",
        )  # fmt: skip
    return status


@dataclass(frozen=True, slots=True)
class Stop:
    """A capture that can be stopped: its connector's configuration, and the database with its slot."""

    name: str
    config: Mapping[str, str]
    dsn: str

    @property
    def slot(self) -> str:
        """The replication slot that is dropped."""
        return self.config["slot.name"]


def plan_stop(connect: Connect, name: str, dsn: str | None) -> Stop:
    """Return what stopping comes to; ``dsn`` None is as the connector has it.

    The database is looked at before anything ends: a slot that cannot be dropped keeps the log for ever.
    Raises :class:`NoSuchCapture`, :class:`RefusedCapture` and :class:`DependencyDown`.
    """
    config = connect.configuration(name)
    if config is None:
        raise NoSuchCapture(
            f"there is no capture {name!r}", where="NAME",
            remedy=f"There are: {', '.join(connect.names()) or 'none'}.",
        )  # fmt: skip
    _require_ours(name, config)
    found = Stop(name, config, dsn or dsn_of(config))
    asyncio.run(look(found.dsn, []))
    return found


def stop(connect: Connect, planned: Stop) -> None:
    """End the capture, and drop its slot and publication; raises :class:`DependencyDown`."""
    connect.delete(planned.name)
    asyncio.run(drop_slot(planned.dsn, planned.slot, planned.config["publication.name"]))


def _require_ours(name: str, config: Mapping[str, str]) -> None:
    if not is_ours(name, config):
        raise RefusedCapture(
            f"the connector {name} is none that `headrace capture start` made", where="NAME",
            remedy="Take another name, or change it by Kafka Connect's own means.",
        )  # fmt: skip
