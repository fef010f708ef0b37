"""``embeddings benchmark``: texts per second by batch size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated, Any

import typer

from headrace.embeddings.models import SERVED
from headrace_cli import options, output, tables
from headrace_cli.asking import require_yes
from headrace_cli.failures import CommandError, UsageError


def benchmark(
    sizes: Annotated[
        str, typer.Option("--sizes", envvar="HEADRACE_BENCHMARK_SIZES", help="Batch sizes, separated by commas.")
    ] = "1,4,8,16,32,64",
    texts: Annotated[
        int,
        typer.Option(
            "--texts", envvar="HEADRACE_BENCHMARK_TEXTS", min=1, max=100_000, help="Texts for each batch size."
        ),
    ] = 128,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Measure texts per second by batch size, with the provider of the HEADRACE_EMBEDDER_ settings, on this machine.

    The texts are 500 characters each from Python's reference. The command asks first if the provider is a
    server, which may charge for them.
    """
    if not all(part.isdecimal() and int(part) for part in sizes.split(",")):
        raise UsageError(f"invalid batch sizes {sizes!r}", where="--sizes", remedy="Use the form 1,8,32.")
    if os.environ.get("HEADRACE_EMBEDDER_PROVIDER") == SERVED:
        require_yes(f"Send {len(sizes.split(',')) * texts} texts of 500 characters to the provider?", yes=yes)
    argv = [sys.executable, "-m", "headrace_embedder.benchmark", "--sizes", sizes, "--texts", str(texts)]
    rows: list[dict[str, Any]] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            rows.append(json.loads(line))
            output.say(f"batches of {rows[-1]['batch']}: {rows[-1]['texts_per_second']:.1f} texts/s")
    if process.returncode:
        raise CommandError(
            f"the benchmark failed with exit code {process.returncode}",
            remedy="See its messages above; it needs the package headrace-embedder and its settings.",
        )
    if as_json:
        output.emit(rows)
        return
    columns = ("batch", "texts/s", "tokens/s")
    shown = [(row["batch"], f"{row['texts_per_second']:.1f}", f"{row['tokens_per_second']:.0f}") for row in rows]
    tables.console().print(tables.table(columns, shown, right=columns))
