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
        help="State folder of the local stack; without it, the nearest .headrace upward from here.",
        show_default=False,
    ),
]
Json: TypeAlias = Annotated[
    bool, typer.Option("--json", envvar="HEADRACE_JSON", help="Print JSON on stdout; messages go to stderr.")
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="HEADRACE_URL", help="The gateway; without it, the local stack's.", show_default=False
    ),
]
ApiKey: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="HEADRACE_API_KEY",
        help="API key, which also decides the tenant; without it, the local stack's. Prefer the variable: "
        "other users of the machine can see a command line.",
        show_default=False,
    ),
]
Wait: TypeAlias = Annotated[
    bool, typer.Option("--wait", envvar="HEADRACE_WAIT", help="Wait until search sees all of it.")
]
Timeout: TypeAlias = Annotated[
    float, typer.Option("--timeout", envvar="HEADRACE_WAIT_TIMEOUT_S", min=0, help="Longest wait, in seconds.")
]
Documents: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--document", envvar="HEADRACE_DOCUMENT", help="Only this document; may be repeated.", show_default=False
    ),
]
Attributes: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        envvar="HEADRACE_ATTRIBUTE",
        metavar="NAME=VALUE",
        help="Only documents with this attribute; may be repeated.",
        show_default=False,
    ),
]
OnlyTenant: TypeAlias = Annotated[
    str | None, typer.Option("--tenant", envvar="HEADRACE_TENANT", help="Only of this tenant.", show_default=False)
]
OnlyStage: TypeAlias = Annotated[
    str | None, typer.Option("--stage", envvar="HEADRACE_STAGE", help="Only of this stage.", show_default=False)
]
OnlyDocument: TypeAlias = Annotated[
    str | None,
    typer.Option("--document", envvar="HEADRACE_DOCUMENT", help="Only of this document.", show_default=False),
]
Records: TypeAlias = Annotated[
    int,
    typer.Option(
        "--records", envvar="HEADRACE_TRACE_RECORDS", min=1,
        help="Most records read of each partition, the newest first.",
    ),
]  # fmt: skip
Seconds: TypeAlias = Annotated[
    float, typer.Option("--seconds", envvar="HEADRACE_TRACE_SECONDS", min=0.1, help="Longest reading, in seconds.")
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", envvar="HEADRACE_YES", help="Do not ask.")]
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
        help="Confluent-compatible API of an existing schema registry.",
        show_default=False,
    ),
]
PostgresDsn: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--postgres",
        envvar="HEADRACE_BOOTSTRAP_POSTGRES_DSN",
        help="URL of an existing PostgreSQL with pgvector, of the role that owns the schema.",
        show_default=False,
    ),
]


BY_NAME = {
    "state_dir": StateDir,
    "kafka": KafkaUrl,
    "registry": RegistryUrl,
    "postgres": PostgresDsn,
    "url": Url,
    "api_key": ApiKey,
}
"""The options that say where a command finds what it reaches."""


class Found:
    """Says by which options, in their order, a parameter of a command is found."""

    def __init__(self, *names: str) -> None:
        self.names = names
