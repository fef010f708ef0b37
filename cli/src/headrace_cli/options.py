"""Options that several commands share; each names its environment variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

StateDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        envvar="HEADRACE_STATE_DIR",
        help="State folder of the local stack. Default: the nearest .headrace in this folder or above.",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", envvar="HEADRACE_JSON", help="Print JSON to stdout; messages go to stderr.")
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="HEADRACE_URL", help="URL of the gateway. Default: the local stack's.", show_default=False
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="HEADRACE_API_KEY",
        help="API key, which also decides the tenant. Default: the local stack's. Prefer the variable: "
        "other users of the machine can see the command line.",
        show_default=False,
    ),
]
Wait: TypeAlias = Annotated[
    bool, typer.Option("--wait", envvar="HEADRACE_WAIT", help="Wait until search shows the changes.")
]
Timeout: TypeAlias = Annotated[
    float, typer.Option("--timeout", envvar="HEADRACE_WAIT_TIMEOUT_S", min=0, help="Maximum seconds to wait.")
]
OnlyTenant: TypeAlias = Annotated[
    str | None, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only this tenant.", show_default=False)
]
OnlyStage: TypeAlias = Annotated[
    str | None, typer.Option("--stage", envvar="HEADRACE_STAGE", help="Only this stage.", show_default=False)
]
OnlyDocument: TypeAlias = Annotated[
    str | None,
    typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only this document.", show_default=False),
]
Records: TypeAlias = Annotated[
    int,
    typer.Option(
        "--records", envvar="HEADRACE_TRACE_RECORDS", min=1,
        help="Maximum records to read from each partition, newest first.",
    ),
]  # fmt: skip
Seconds: TypeAlias = Annotated[
    float, typer.Option("--seconds", envvar="HEADRACE_TRACE_SECONDS", min=0.1, help="Maximum seconds to read the log.")
]
Yes: TypeAlias = Annotated[
    bool, typer.Option("--yes", "-y", envvar="HEADRACE_YES", help="Do not ask for confirmation.")
]
KafkaUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--kafka",
        envvar="HEADRACE_KAFKA_BOOTSTRAP",
        help="Bootstrap servers of an existing Kafka, host:port.",
        show_default=False,
    ),
]
RegistryUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="HEADRACE_REGISTRY_URL",
        help="URL of an existing Confluent-compatible schema registry.",
        show_default=False,
    ),
]
PostgresDsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        envvar="HEADRACE_BOOTSTRAP_POSTGRES_DSN",
        help="URL of an existing PostgreSQL with pgvector, with the role that owns the schema.",
        show_default=False,
    ),
]
ReadAs: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--user", envvar="HEADRACE_USER", help="Read for this user. Needs an API key that acts for readers.",
        show_default=False,
    ),
]  # fmt: skip
ReadAsGroups: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--group", envvar="HEADRACE_GROUPS", help="Read as a member of this group; may be repeated.",
        show_default=False,
    ),
]  # fmt: skip
ReadAsProjects: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--project", envvar="HEADRACE_PROJECTS", help="Read as a member of this project; may be repeated.",
        show_default=False,
    ),
]  # fmt: skip


BY_NAME = {
    "state_dir": StateDir,
    "kafka": KafkaUrl,
    "registry": RegistryUrl,
    "postgres": PostgresDsn,
    "url": Url,
    "api_key": ApiKey,
    "user": ReadAs,
    "groups": ReadAsGroups,
    "projects": ReadAsProjects,
}
"""The options for :class:`Found` parameters."""


class Found:
    """Names the options, in order, whose values form a parameter of a command."""

    def __init__(self, *names: str) -> None:
        self.names = names
