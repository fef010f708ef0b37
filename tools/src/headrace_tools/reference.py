"""Writes ``docs/reference`` from the code, and the diagram of the flow; ``--check`` names the pages that are stale.

``python -m headrace_tools.reference [--check]``
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from headrace.codec import schemas
from headrace.errors import HeadraceError
from headrace.topology import generation_names, topics
from headrace.topology.stages import STAGES
from headrace.topology.topics import Topic
from headrace_tools import command_pages, discovery
from headrace_tools.discovery import ROOT
from headrace_tools.markdown import first_line, table

FLOW_PAGE = "docs/architecture/flow.md"
FLOW_BEGIN, FLOW_END = "<!-- flow: generated -->", "<!-- flow: end -->"
_NOTE = "<!-- Generated from the code by `make docs`; do not edit. -->\n\n"
_MS_PER_DAY = 86_400_000
_FENCE = "```"


def pages() -> dict[str, str]:
    """Return every generated page: path from the root, to text."""
    return {
        "docs/reference/settings.md": _NOTE + settings_page(),
        "docs/reference/metrics.md": _NOTE + metrics_page(),
        "docs/reference/topics.md": _NOTE + topics_page(topics.declared()),
        "docs/reference/errors.md": _NOTE + errors_page(),
        "docs/reference/schemas.md": _NOTE + schemas_page(),
        "docs/reference/commands.md": _NOTE + command_pages.commands_page(command_pages.commands()),
        "docs/reference/exit-codes.md": _NOTE + command_pages.exit_codes_page(),
        FLOW_PAGE: with_flow((ROOT / FLOW_PAGE).read_text(encoding="utf-8"), flow(topics.declared())),
    }


def stale(root: Path = ROOT) -> list[str]:
    """Return the paths of the pages that differ from the code."""
    return [path for path, text in pages().items() if not _same(root / path, text)]


def settings_page() -> str:
    """Return the table of every setting, class by class."""
    head = (
        "# Settings\n\nEvery setting is an environment variable, read once at the start. "
        "A secret is never logged or shown.\n"
    )
    parts = [head]
    for cls in discovery.settings_classes():
        rows = [
            (f"`{setting.variable}`", type_of(setting.field.annotation, setting.field.metadata),
             _default(setting.field), str(setting.field.description))
            for setting in discovery.settings_of(cls)
        ]  # fmt: skip
        title = f"## `{cls.model_config.get('env_prefix')}…` ({cls.__module__.partition('.')[0]})"
        parts.append(f"{title}\n\n{first_line(cls)}\n\n{table(('Variable', 'Type', 'Default', 'Description'), rows)}")
    return "\n".join(parts)


def metrics_page() -> str:
    """Return the table of every metric."""
    rows = [
        (f"`{discovery.exposed_name(metric)}`", metric.describe()[0].type,
         ", ".join(f"`{label}`" for label in metric._labelnames) or "–",  # noqa: SLF001  # there is no public way
         metric.describe()[0].documentation)
        for metric in discovery.metrics()
    ]  # fmt: skip
    head = (
        "# Metrics\n\nEach service serves them at `/metrics`. A histogram `x` is exposed as `x_bucket`, `x_sum` and "
        "`x_count`.\n\n"
    )
    return head + table(("Metric", "Kind", "Labels", "Meaning, and what to do"), rows)


def topics_page(declared: Sequence[Topic]) -> str:
    """Return the table of the topics and the flow through them."""
    rows = [
        (f"`{_shown(topic)}`", topic.description, f"`{topic.key}`", str(topic.partitions), topic.cleanup_policy,
         _retention(topic.retention_ms), _record_link(topic.schema) if topic.schema else "unchanged",
         ", ".join(topic.producers), ", ".join(topic.consumers))
        for topic in declared
    ]  # fmt: skip
    columns = ("Topic", "Contents", "Key", "Partitions", "Cleanup", "Retention", "Record", "Written by", "Read by")
    head = (
        "# Topics\n\nDeclared in `schemas/topics`, one file each; the bootstrap job creates the topics from there. "
        f"Topics that {' and '.join(sorted(generation_names.GENERATION_STAGES))} write and read again exist once per "
        "generation: `retry.{stage}` is `retry.embedder.g1` for the embedder of g1.\n\n"
    )
    return f"{head}{table(columns, rows)}\n{flow(declared)}"


def _shown(topic: Topic) -> str:
    return generation_names.in_generation(topic.name, "{generation}")


def flow(declared: Sequence[Topic]) -> str:
    """Return the diagrams: the topics of the stages, and those beside the flow."""
    staged = {name for stage in STAGES.values() for name in (stage.source, stage.target)}
    inside = [topic for topic in declared if topic.name in staged]
    beside = [topic for topic in declared if topic.name not in staged]
    return f"{diagram(inside)}\nBeside the flow:\n\n{diagram(beside)}"


def diagram(shown: Sequence[Topic]) -> str:
    """Return a mermaid diagram: who writes each topic and who reads it."""
    people = sorted({name for topic in shown for name in (*topic.producers, *topic.consumers)})
    lines = ["flowchart LR"]
    lines += [f'    {name}["{name}"]' for name in people]
    for topic in shown:
        node = f"t_{re.sub(r'[^a-z]', '_', topic.name)}"
        lines.append(f'    {node}[("{_shown(topic)}")]')
        lines += [f"    {name} --> {node}" for name in topic.producers]
        lines += [f"    {node} --> {name}" for name in topic.consumers]
    return f"{_FENCE}mermaid\n" + "\n".join(lines) + f"\n{_FENCE}\n"


def with_flow(page: str, drawn: str) -> str:
    """Return the page with the text between its two markers replaced.

    Raises :class:`ValueError` if a marker is missing.
    """
    before, begin, rest = page.partition(FLOW_BEGIN)
    _, end, after = rest.partition(FLOW_END)
    if not begin or not end:
        raise ValueError(f"{FLOW_PAGE} lacks the markers {FLOW_BEGIN} and {FLOW_END}")
    return f"{before}{FLOW_BEGIN}\n{drawn}{FLOW_END}{after}"


def errors_page() -> str:
    """Return the table of errors, and the effect of each on a record."""
    rows = [
        (f"`{cls.code}`", f"`{cls.__name__}`", first_line(cls), _consequence(cls), cls.default_remedy or "–")
        for cls in discovery.errors()
    ]
    head = (
        "# Errors\n\nEach error says what happened, where, and what to do. Dead letters and problem documents contain "
        "its code. The remedy below is the default; most errors give a more specific one. Any other exception that "
        "escapes a handler is unforeseen: its record is dead-lettered with the stack trace.\n\n"
    )
    return head + table(("Code", "Class", "What happened", "Effect on the record", "What to do"), rows)


def schemas_page() -> str:
    """Return the fields of every Avro record and enum."""
    carried = {topic.schema: topic.name for topic in topics.declared() if topic.schema}
    parts = ["# Schemas\n\nOne file each in `schemas/avro`; those of topics are frozen in `schemas/frozen`.\n"]
    for name in schemas.names():
        schema = json.loads((schemas.SCHEMA_FOLDER / f"{name}.avsc").read_text(encoding="utf-8"))
        topic = f" Topic `{carried[name]}`." if name in carried else ""
        body = (
            f"Symbols: {', '.join(f'`{symbol}`' for symbol in schema['symbols'])}.\n"
            if schema["type"] == "enum"
            else table(
                ("Field", "Type", "Default", "Description"),
                [
                    (f"`{field['name']}`", avro_type(field["type"]),
                     f"`{json.dumps(field['default'])}`" if "default" in field else "–", field["doc"])
                    for field in schema["fields"]
                ],
            )
        )  # fmt: skip
        parts.append(f"## {name}\n\n{schema['doc']}{topic}\n\n{body}")
    return "\n".join(parts)


def avro_type(node: Any) -> str:
    """Return an Avro type in words."""
    if isinstance(node, list):
        return " or ".join(avro_type(branch) for branch in node)
    if isinstance(node, str):
        return _record_link(node) if node.startswith("headrace.") else node
    if node["type"] == "array":
        return f"array of {avro_type(node['items'])}"
    if node["type"] == "map":
        return f"map of {avro_type(node['values'])}"
    return f"{node['type']} ({node['logicalType']})" if "logicalType" in node else str(node["type"])


def type_of(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return the type of a setting in words, with its bounds."""
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        branches = [branch for branch in typing.get_args(annotation) if branch is not types.NoneType]
        return " or ".join(type_of(branch, metadata) for branch in branches)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return ", ".join(f"`{value}`" for value in annotation)
    names = {int: "integer", float: "number", Decimal: "number", str: "text", bool: "true or false",
             SecretStr: "secret", Path: "path"}  # fmt: skip
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in metadata
        for name, sign in signs
        if getattr(rule, name, None) is not None
    ]
    name = names.get(annotation) or str(getattr(annotation, "__name__", annotation))
    return f"{name} {', '.join(bounds)}".strip()


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "none; found at the start"
    if field.is_required():
        return "**required**"
    if field.default is None:
        return "unset"
    return "empty" if field.default == "" else f"`{field.default}`"


def _consequence(cls: type[HeadraceError]) -> str:
    lineage = {parent.__name__ for parent in cls.__mro__}
    if "PermanentError" in lineage:
        return "is dead-lettered"
    if "TemporaryError" in lineage:
        return "is retried"
    if "DependencyDown" in lineage:
        return "stays; the stage waits"
    return "–"


def _record_link(name: str) -> str:
    return f"[{name}](schemas.md#{name.replace('.', '').lower()})"


def _retention(milliseconds: int) -> str:
    return "forever" if milliseconds < 0 else f"{milliseconds / _MS_PER_DAY:g} days"


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with ``--check`` name the stale ones; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m headrace_tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 naming the stale pages")
    options = parser.parse_args(arguments)
    found = stale()
    if options.check:
        for path in found:
            print(f"{path} is stale; run `make docs`", file=sys.stderr)
        return 1 if found else 0
    for path, text in pages().items():
        if path in found:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
