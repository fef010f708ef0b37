"""``topics``: the topics and the lag of the stages that read them."""

from __future__ import annotations

from dataclasses import asdict, astuple

from headrace_cli import options, output, tables
from headrace_cli.command import command, commands_of
from headrace_cli.context import InKafka
from headrace_cli.failures import NotFound

commands = commands_of()


@command(commands, "topics", "Show the topics and the lag of the stages that read them.")
def topics(*, operator: InKafka, as_json: options.Json = False) -> None:
    """Show the topics: partitions, end offsets, and the lag of the stages that read them."""
    from headrace_operations.topics import view

    found = view(operator.kafka_settings())
    if as_json:
        output.emit([asdict(one) for one in found])
    else:
        columns = ("topic", "exists", "partitions", "end offsets", "read by", "records behind")
        cells = [(one.topic, "yes" if one.exists else "no", *astuple(one)[2:]) for one in found]
        tables.console().print(tables.table(columns, cells, right=("partitions", "end offsets", "records behind")))
    if missing := sum(not one.exists for one in found):
        raise NotFound(f"{missing} declared topics do not exist", remedy="Run `headrace bootstrap`.")
