"""Readers, and documents with mixed ACLs, drawn with a seed; and what each reader may read of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from headrace.access.readers import UNNAMED, Reader

USERS = (
    "ann", "bob", "김민수", "이서연", "staff", 'say "hi"', "back\\slash", "{curly}", "a,b", "50%", "zoë", "o'neil",
    *(f"user{number}" for number in range(40)),
)  # fmt: skip
"""Some have the names of groups, and some have characters that mean something in SQL, in arrays or in headers."""
GROUPS = ("staff", "board", "재무팀", "ann", "r&d", "night shift")
PROJECTS = ("apollo", "수로", "ann")
_ENGLISH = (
    "gate channel turbine pressure valve spill flow level sensor limit alarm report shift budget board audit intake"
)
_KOREAN = "수문 수로 터빈 압력 밸브 방류 유량 수위 센서 경보 보고서 근무 예산 이사회 감사 취수구"
_WORDS = [word for words in (_ENGLISH, _KOREAN) for word in words.split()]


@dataclass(frozen=True, slots=True)
class Known:
    """A document as it should be: its ``acl``, its text, and its version."""

    acl: tuple[str, ...]
    text: str
    version: int


@dataclass(slots=True)
class World:
    """The readers, and the live documents of one tenant by ID."""

    readers: Sequence[Reader]
    documents: dict[str, Known] = field(default_factory=dict)

    def readable(self, reader: Reader) -> set[str]:
        """Return the IDs of the documents that the reader may read."""
        return {name for name, known in self.documents.items() if _may_read(reader, known.acl)}


def world(chance: Random, *, readers: int, documents: int) -> World:
    """Return readers and documents; one reader has no user."""
    drawn = [UNNAMED, *(_reader(chance, number) for number in range(readers - 1))]
    made = World(drawn)
    texts = [text(chance) for _ in range(max(1, documents * 4 // 5))]  # so that readers share texts with non-readers
    for number in range(documents):
        made.documents[f"doc/{number:04}"] = Known(acl(chance, drawn), chance.choice(texts), 1)
    return made


def acl(chance: Random, readers: Sequence[Reader]) -> tuple[str, ...]:
    """Return an ``acl``: none in a quarter of the cases, else up to four principals, most of them somebody's."""
    if chance.random() < 0.25:
        return ()
    everybodys = sorted({one for reader in readers for one in reader.principals} | {"user:nobody", "group:nobody"})
    return tuple(sorted(chance.sample(everybodys, chance.choice((1, 1, 1, 2, 4)))))


def text(chance: Random) -> str:
    """Return a text of some words, in two languages."""
    return " ".join(chance.choice(_WORDS) for _ in range(chance.randrange(4, 30))).capitalize() + "."


def query(chance: Random) -> str:
    """Return a query of a few words."""
    return " ".join(chance.choice(_WORDS) for _ in range(chance.randrange(1, 5)))


def change(name: str, known: Known) -> dict[str, Any]:
    """Return the document as a change event."""
    return {
        "op": "upsert", "id": name, "version": known.version, "title": f"Title of {name}", "content": known.text,
        "acl": list(known.acl), "attributes": {"kind": "even" if int(name[-1]) % 2 == 0 else "odd"},
    }  # fmt: skip


def _reader(chance: Random, number: int) -> Reader:
    groups = chance.sample(GROUPS, chance.choice((0, 1, 1, 2)))
    projects = chance.sample(PROJECTS, chance.choice((0, 0, 1)))
    return Reader.named(USERS[number % len(USERS)], groups, projects)


def _may_read(reader: Reader, acl: Sequence[str]) -> bool:
    """Whether the reader may read the document, by other means than the product."""
    return not acl or any(entry in reader.principals for entry in acl)
