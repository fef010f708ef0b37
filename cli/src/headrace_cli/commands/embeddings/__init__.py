"""``embeddings``: what they cost, how far they are, and doing them again."""

from __future__ import annotations

from headrace_cli.command import command, commands_of
from headrace_cli.commands.embeddings.again import batch, incremental
from headrace_cli.commands.embeddings.benchmark import benchmark
from headrace_cli.commands.embeddings.cache import reset
from headrace_cli.commands.embeddings.caps import release
from headrace_cli.commands.embeddings.costs import show_costs
from headrace_cli.commands.embeddings.estimate import estimate
from headrace_cli.commands.embeddings.schedule import schedule
from headrace_cli.commands.embeddings.status import status

commands = commands_of("embeddings", "Embeddings: what they cost, how far they are, and doing them again.")
command(commands, "estimate", "Say what embedding would cost, before it is done.")(estimate)
command(commands, "costs", "Show what embedding has cost.")(show_costs)
command(commands, "status", "Show how far embedding is, and what stops it.")(status)
command(commands, "batch", "Have everything go through the embedder again.")(batch)
command(commands, "incremental", "Have what is not embedded yet go through the embedder.")(incremental)
command(commands, "release", "Send on what waits for caps that have room again.")(release)
command(commands, "reset", "Forget cached vectors, so that texts are embedded anew.")(reset)
command(commands, "benchmark", "Measure texts a second by batch size.")(benchmark)
command(commands, "schedule", "Run batch, incremental or release by a cron expression.")(schedule)
