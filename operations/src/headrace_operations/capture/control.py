"""Starts and stops a capture."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.config.captured_tables import Table
from headrace_operations.capture.connector import FAILED, Connect, Status, configuration, dsn_of, is_ours, unread
from headrace_operations.capture.database import Problem, drop_slot, look, problems
from headrace_operations.errors import NotThere, Refused

_START_S = 60.0
_HIDDEN = "database.password"


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A capture: its name, the mapped tables, the topic, and the DSN with a role that may replicate."""

    name: str
    tables: Mapping[str, Table]
    dsn: str
    topic: str

    def configuration(self) -> dict[str, str]:
        """Return the connector's configuration; raises :class:`ConfigurationError`."""
        return configuration(self.name, self.dsn, self.tables, self.topic)


class NoSuchCapture(NotThere):
    """Kafka Connect has no connector with this name."""

    code = "no-such-capture"


class RefusedCapture(Refused):
    """The capture cannot be started or stopped."""

    code = "refused-capture"


class UnfitDatabase(RefusedCapture):
    """A capture of the tables would fail or lose data; ``problems`` has every reason, the message the first one."""

    code = "unfit-database"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = problems
        first = problems[0]
        super().__init__(f"{first.where} {first.what}", where="FILE and --database", remedy=first.remedy)


def find_problems(dsn: str, tables: Mapping[str, Table]) -> list[Problem]:
    """Return the reasons why a capture of the tables would fail or lose data; raises :class:`DependencyDown`."""
    return problems(asyncio.run(look(dsn, list(tables))), tables)


def shown(config: Mapping[str, str]) -> dict[str, str]:
    """Return the configuration without its password: the dry run of a start."""
    return {key: "***" if key == _HIDDEN else value for key, value in config.items()}


def plan_start(request: CaptureRequest) -> dict[str, str]:
    """Return the connector's configuration; nothing is started.

    Raises :class:`UnfitDatabase`, :class:`ConfigurationError` and :class:`DependencyDown`.
    """
    if found := find_problems(request.dsn, request.tables):
        raise UnfitDatabase(found)
    return request.configuration()


def start(connect: Connect, request: CaptureRequest, where: str) -> Status:
    """Start the connector, or change it; ``where`` names the file of the tables.

    Raises what :func:`plan_start` does; :class:`RefusedCapture` for a connector that Headrace did not create, for a
    change that requires a new snapshot, and for a connector that fails; :class:`DependencyDown` if Kafka Connect does
    not answer.
    """
    config, name = plan_start(request), request.name
    before = connect.configuration(name)
    if before is not None:
        _require_ours(name, before)
        if (why := unread(before, config)) is not None:
            raise RefusedCapture(
                f"the capture {name} is running and {why}", where=where,
                remedy=f"Run `headrace capture stop {name}`, then start it again: it reads all rows again.",
            )  # fmt: skip
    connect.put(name, config)
    status = connect.wait_running(name, _START_S)
    if status.state == FAILED:
        raise RefusedCapture(
            f"the capture failed: {status.reason}", where=name,
            remedy="Fix the cause and run the command again. Kafka Connect's log has the details.",
        )  # fmt: skip
    return status


@dataclass(frozen=True, slots=True)
class Stop:
    """A capture to stop: its connector's configuration, and the database with its slot."""

    name: str
    config: Mapping[str, str]
    dsn: str

    @property
    def slot(self) -> str:
        """The replication slot to drop."""
        return self.config["slot.name"]


def plan_stop(connect: Connect, name: str, dsn: str | None) -> Stop:
    """Return the plan to stop a capture; if ``dsn`` is None, use the connector's.

    It connects to the database first: a slot that cannot be dropped would retain the WAL forever.
    Raises :class:`NoSuchCapture`, :class:`RefusedCapture` and :class:`DependencyDown`.
    """
    config = connect.configuration(name)
    if config is None:
        raise NoSuchCapture(
            f"unknown capture {name!r}", where="NAME",
            remedy=f"Existing connectors: {', '.join(connect.names()) or 'none'}.",
        )  # fmt: skip
    _require_ours(name, config)
    found = Stop(name, config, dsn or dsn_of(config))
    asyncio.run(look(found.dsn, []))
    return found


def stop(connect: Connect, planned: Stop) -> None:
    """Stop the capture, and drop its slot and publication; raises :class:`DependencyDown`."""
    connect.delete(planned.name)
    asyncio.run(drop_slot(planned.dsn, planned.slot, planned.config["publication.name"]))


def _require_ours(name: str, config: Mapping[str, str]) -> None:
    if not is_ours(name, config):
        raise RefusedCapture(
            f"`headrace capture start` did not create the connector {name}", where="NAME",
            remedy="Use another name, or change the connector through Kafka Connect itself.",
        )  # fmt: skip
