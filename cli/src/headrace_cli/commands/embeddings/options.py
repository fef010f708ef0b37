"""Options that commands about embeddings share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

GenerationName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--generation", envvar="HEADRACE_KAFKA_GENERATION", show_default=False,
        help="The generation of the index. Default: g1.",
    ),
]  # fmt: skip
Into: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--into", envvar="HEADRACE_REPLAY_INTO", show_default=False,
        help="The generation of the index to fill. Default: HEADRACE_KAFKA_GENERATION.",
    ),
]  # fmt: skip
DryRun: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", envvar="HEADRACE_DRY_RUN", help="Show what would be done without doing it.")
]
