"""``topics``: which there are, and how far their readers are."""

from __future__ import annotations

from typing import Any

from headrace import topics as declared
from headrace.lag import LogReader
from headrace_cli import options, output
from headrace_cli.command import command, commands_of
from headrace_cli.context import kafka_settings
from headrace_cli.failures import NotFound

commands = commands_of()


@command(commands, "topics", "Show the topics and how far their readers are.")
def topics(
    state_dir: options.StateDir = None,
    kafka: options.KafkaUrl = None,
    as_json: options.Json = False,
) -> None:
    """Show the topics: partitions, records' end offsets, and how far the stages that read them are behind."""
    settings = kafka_settings(state_dir, kafka)
    reader = LogReader(settings)
    known = declared.concrete()
    partitions = reader.partitions(topic.name for topic in known)
    ends = reader.ends(partitions)
    readers = {one.topic: one for one in reader.stages()}
    rows: list[dict[str, Any]] = [
        {
            "topic": topic.name,
            "exists": topic.name in partitions,
            "partitions": topic.partitions,
            "end": sum(end for (name, _), end in ends.items() if name == topic.name),
            "read_by": readers[topic.name].stage if topic.name in readers else None,
            "behind": readers[topic.name].behind if topic.name in readers else None,
        }
        for topic in known
    ]
    if as_json:
        output.emit(rows)
    else:
        columns = ("topic", "exists", "partitions", "end offsets", "read by", "records behind")
        cells = [(r["topic"], "yes" if r["exists"] else "no", *list(r.values())[2:]) for r in rows]
        output.console().print(output.table(columns, cells, right=("partitions", "end offsets", "records behind")))
    if len(partitions) < len(known):
        raise NotFound(
            f"{len(known) - len(partitions)} of the declared topics do not exist", remedy="Run `headrace bootstrap`."
        )
