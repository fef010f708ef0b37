"""Judged sets: documents, queries, and which document answers each query."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from headrace.errors import ConfigurationError
from headrace_testing.data import changes, reference

_HEADING = re.compile(r"^(?P<title>\S[^\n]{3,80})\n(?P<line>[-=*~^\"'+#])(?P=line){2,}\s*$", re.MULTILINE)
_FEWEST_WORDS = 2
_LEFT_OUT_ALONE = 0.1
_SHORT_TOPIC = 4_000
"""Characters of a topic that is in the sample."""
_FOREIGN = "foreign.txt"
"""Questions about everyday things, in English and in Korean, other than those that the store is calibrated with."""
_HANGUL = re.compile("[\uac00-\ud7a3]")


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """Change events of documents, and queries with the ID of the document that answers each.

    ``unanswered`` are queries that no document answers, by where they are from.
    """

    name: str
    documents: list[dict[str, Any]]
    queries: list[tuple[str, str]]
    unanswered: Mapping[str, list[str]] = field(default_factory=dict)

    def drawn(self, count: int, seed: int) -> JudgedSet:
        """Return the set with at most ``count`` of its queries."""
        draw = random.Random(seed)
        unanswered = {kind: draw.sample(all_, min(count, len(all_))) for kind, all_ in self.unanswered.items()}
        queries = draw.sample(self.queries, min(count, len(self.queries)))
        return JudgedSet(self.name, self.documents, queries, unanswered)

    def halved(self, seed: int) -> JudgedSet:
        """Return the set without half of its documents, with their queries and those of other fields as unanswered.

        Documents of one title are kept or left out together, except that a tenth of those that would be kept are left
        out alone: what is beside their answer is still there.
        """
        draw = random.Random(seed)
        groups = sorted({event["title"] or event["id"] for event in self.documents})
        whole = set(draw.sample(groups, len(groups) // 2))
        several = len(groups) < len(self.documents)
        kinds: dict[str, str] = {}
        for event in self.documents:
            alone = several and draw.random() < _LEFT_OUT_ALONE
            whole_group = (event["title"] or event["id"]) in whole
            kinds[event["id"]] = "withheld" if whole_group else "withheld alone" if alone else ""
        unanswered: dict[str, list[str]] = {"foreign": _foreign(korean=_is_korean(self.queries[0][0]))}
        for query, identity in self.queries:
            if kinds[identity]:
                unanswered.setdefault(kinds[identity], []).append(query)
        kept = [event for event in self.documents if not kinds[event["id"]]]
        queries = [(query, identity) for query, identity in self.queries if not kinds[identity]]
        return JudgedSet(f"half of {self.name}", kept, queries, unanswered)


def _is_korean(text: str) -> bool:
    return _HANGUL.search(text) is not None


def _foreign(*, korean: bool) -> list[str]:
    """Return the foreign questions of the language."""
    text = resources.files("headrace_bench").joinpath(_FOREIGN).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if _is_korean(line) == korean]


def manuals(documents: int) -> tuple[list[dict[str, Any]], str]:
    """Return English manuals in their newest versions, as change events, and what they are."""
    events, source = changes()
    newest = {event["id"]: event for event in events if event["op"] == "upsert" and event.get("content")}
    return list(newest.values())[:documents], source


def headings(documents: list[dict[str, Any]], source: str) -> JudgedSet:
    """Return the manuals with their own section titles as queries, except titles that several of them have."""
    found = {event["id"]: set(_titles(event["content"])) - {event.get("title")} for event in documents}
    counts = Counter(title for titles in found.values() for title in titles)
    queries = [(title, name) for name, titles in found.items() for title in sorted(titles) if counts[title] == 1]
    return JudgedSet(f"headings of {source}", documents, queries)


def _titles(text: str) -> list[str]:
    titles = [match["title"].strip() for match in _HEADING.finditer(text)]
    return [title for title in titles if len(title.split()) >= _FEWEST_WORDS]


def untitled(documents: list[dict[str, Any]]) -> JudgedSet:
    """Return the manuals without their titles, and the titles as queries: they say the same in other words."""
    chosen: list[dict[str, Any]] = []
    queries: list[tuple[str, str]] = []
    for event in documents:
        title = event.get("title", "")
        if len(title.split()) >= _FEWEST_WORDS:
            chosen.append({**event, "title": "", "content": event["content"].replace(title, "")})
            queries.append((title, event["id"]))
    return JudgedSet("titles withheld", chosen, queries)


def squad(path: Path) -> JudgedSet:
    """Return a set in the format of SQuAD: each paragraph is a document that answers its questions.

    Raises :class:`ConfigurationError` for a file in another format.
    """
    documents: list[dict[str, Any]] = []
    queries: list[tuple[str, str]] = []
    try:
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                identity = f"{path.stem}/{len(documents):05d}"
                documents.append(
                    {"op": "upsert", "id": identity, "version": 1, "title": article["title"],
                     "content": paragraph["context"]}
                )  # fmt: skip
                queries.extend((question["question"], identity) for question in paragraph["qas"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigurationError(
            f"not a file in the format of SQuAD: {error!r}",
            where=str(path),
            remedy="Pass another file.",
        ) from error
    return JudgedSet(path.stem, documents, queries)


def sample() -> JudgedSet:
    """Return a small set that needs no file, for continuous integration.

    It is the short topics of Python's language reference with their headings as queries, a Korean manual with questions
    in other words, and questions about something else as unanswered ones.
    """
    topics = [event for event in reference() if len(event["content"]) <= _SHORT_TOPIC]
    with resources.as_file(resources.files("headrace_bench").joinpath("manual.ko.json")) as path:
        manual = squad(path)
    queries = [*headings(topics, "").queries, *manual.queries]
    unanswered = {"foreign": [*_foreign(korean=False), *_foreign(korean=True)]}
    return JudgedSet("sample", [*topics, *manual.documents], queries, unanswered)


_WORDS = ("max", "log", "pool", "retry", "buffer", "stage", "index", "batch", "queue", "offset", "limit", "cache")
_KINDS: tuple[Callable[[random.Random], str], ...] = (
    lambda chance: f"ERR-{chance.randrange(1000, 10_000)}",
    lambda chance: "_".join(chance.sample(_WORDS, 3)),
    lambda chance: ".".join(str(chance.randrange(1, 255)) for _ in range(4)),
    lambda chance: "/" + "/".join(chance.sample(_WORDS, 3)) + ".conf",
    lambda chance: "".join(word.title() for word in chance.sample(_WORDS, 3)),
)
_ASKED = (
    "What does {} mean, and what should I do about it?",
    "Why do I see {} in the log of my server?",
    "{} 값은 어떻게 바꾸나요?",
    "where is {} explained",
)


def identifiers(documents: list[dict[str, Any]], planted: int, seed: int) -> JudgedSet:
    """Return the manuals with an identifier planted in the running text of some, and questions that contain it.

    Names, error codes, addresses and paths are made of the same few words, so that their parts occur in many documents.
    """
    chance = random.Random(seed)
    chosen = [dict(event) for event in documents]
    names: dict[str, None] = {}
    while len(names) < planted:
        names.setdefault(chance.choice(_KINDS)(chance))
    queries: list[tuple[str, str]] = []
    for name in names:
        event = chance.choice(chosen)
        paragraphs = event["content"].split("\n\n")
        place = chance.randrange(len(paragraphs))
        paragraphs[place] += f" See {name} for the details."
        event["content"] = "\n\n".join(paragraphs)
        queries.append((chance.choice(_ASKED).format(name), event["id"]))
    return JudgedSet("identifiers", chosen, queries)
