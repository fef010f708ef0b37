"""The content of a pipeline template, its canonical form and its YAML form."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

HANDLER_ENTRY_POINTS = "headrace.handlers"
"""The entry-point group in which installed packages register handlers."""


class Call(StrEnum):
    """How a stage calls its handlers: within its own process, or over a protocol."""

    LOCAL = "local"
    HTTP = "http"
    GRPC = "grpc"


class Review(StrEnum):
    """Whether a stage's output waits until a person approves it."""

    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A hint for the stage: whether results come back piece by piece, and the kind of call."""

    streaming: bool = False
    call: Call = Call.LOCAL


@dataclass(frozen=True, slots=True)
class StageBinding:
    """One stage of a pipeline, and the names of its handlers in the order in which they run."""

    stage: str
    handlers: tuple[str, ...]
    protocol: Protocol = field(default_factory=Protocol)
    review: Review = Review.NONE


@dataclass(frozen=True, slots=True)
class Template:
    """A linear pipeline; ``stages`` are in the order in which records pass them."""

    id: str
    description: str
    stages: tuple[StageBinding, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A template with the version number that it got when it was applied; versions count from 1."""

    template: Template
    version: int


@dataclass(frozen=True, slots=True)
class StageTypes:
    """The names of the record types that a stage consumes and produces."""

    consumes: str
    produces: str


@dataclass(frozen=True, slots=True)
class HandlerInfo:
    """The stage, version and record types of a handler, known without loading it."""

    stage: str
    version: str
    consumes: str
    produces: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The stages and handlers that templates may name.

    ``handlers`` maps names to handlers. None means that the handlers are unknown here, as in a client without the
    packages, and are not checked.
    """

    stages: Mapping[str, StageTypes]
    handlers: Mapping[str, HandlerInfo] | None = None


def _plain(template: Template) -> dict[str, Any]:
    return {
        "id": template.id,
        "description": template.description,
        "stages": [
            {
                "stage": binding.stage,
                "handlers": list(binding.handlers),
                "protocol": {"streaming": binding.protocol.streaming, "call": str(binding.protocol.call)},
                "review": str(binding.review),
            }
            for binding in template.stages
        ],
    }


def canonical(template: Template) -> str:
    """Return the template's canonical JSON: ASCII, sorted keys, no spaces, all defaults written out.

    :func:`headrace.pipeline.load` reads it back as an equal template.
    """
    text = json.dumps(_plain(template), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.replace("\x7f", "\\u007f")  # DEL is allowed unescaped in JSON but not in YAML


def digest(template: Template) -> str:
    """Return the SHA-256 of the canonical JSON as 64 hexadecimal digits; equal templates have equal digests."""
    return hashlib.sha256(canonical(template).encode("ascii")).hexdigest()


def dump(template: Template) -> str:
    """Return the template as YAML for people to read and edit, with the stages in order."""
    writer = YAML(typ="rt", pure=True)
    writer.width = 1_000_000
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = io.StringIO()
    content = _plain(template)
    if not template.description.isprintable():  # a plain scalar would lose U+0085, which is a line break in YAML
        content["description"] = DoubleQuotedScalarString(template.description)
    writer.dump(content, stream)
    return stream.getvalue()
