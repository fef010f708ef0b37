"""``embeddings``: cost, progress and repetition of embedding."""

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

commands = commands_of("embeddings", "Show the cost and progress of embedding, or embed again.")
command(commands, "estimate", "Estimate the cost of embedding.")(estimate)
command(commands, "costs", "Show the cost of embedding so far.")(show_costs)
command(commands, "status", "Show the progress of embedding and what blocks it.")(status)
command(commands, "batch", "Replay everything through the embedder.")(batch)
command(commands, "incremental", "Embed what has no vectors yet.")(incremental)
command(commands, "release", "Release records held for a cap that has room again.")(release)
command(commands, "reset", "Delete cached vectors, so that texts are embedded again.")(reset)
command(commands, "benchmark", "Measure texts per second by batch size.")(benchmark)
command(commands, "schedule", "Run batch, incremental or release on a cron schedule.")(schedule)
