"""Who may read a document: the principals in its ``acl``, and the reader of a request. Pure.

A principal is ``user:NAME``, ``group:NAME`` or ``project:NAME``. A document without an ``acl`` is its tenant's: every
reader may read it. Any other document may be read by the readers that have one of its principals.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass

KINDS = ("user", "group", "project")
MAX_NAME = 255
"""Maximum characters of a principal's name."""
MAX_ACL_ENTRIES = 1024
MAX_PRINCIPALS = 512
"""Maximum principals of a reader."""
UNKNOWN = "unknown"
"""In an ``acl``: who may read the document is not known, so only a reader of every document sees it. No principal."""
_EVERY = "*"
_REFUSED = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Unicode categories of characters that no name contains: control characters, surrogates and line separators."""


def principal(kind: str, name: str) -> str:
    """Return the principal of this kind with this name, in Unicode's form NFC.

    Raises :class:`ValueError` for a name that is empty, too long, surrounded by white space, or has control characters.
    """
    name = unicodedata.normalize("NFC", name)
    if not name or name != name.strip():
        raise ValueError(f"{kind} {name[:100]!r} has no name, or white space around it")
    if len(name) > MAX_NAME:
        raise ValueError(f"the name of a {kind} has {len(name)} characters; the limit is {MAX_NAME}")
    if any(unicodedata.category(character) in _REFUSED for character in name):
        raise ValueError(f"the name of a {kind}, {name[:100]!r}, has control characters")
    return f"{kind}:{name}"


def parsed(entry: str) -> str:
    """Return an entry of an ``acl`` in Unicode's form NFC; raises :class:`ValueError` unless it is a principal."""
    kind, colon, name = entry.partition(":")
    if not colon or kind not in KINDS:
        forms = ", ".join(f"{one}:NAME" for one in KINDS)
        raise ValueError(f"{entry[:100]!r} is no principal; allowed: {forms}")
    return principal(kind, name)


def acl_of(entries: Collection[str]) -> tuple[str, ...]:
    """Return the entries as the set that they are: sorted, each once.

    Raises :class:`ValueError` for more than 1,024 entries, and for one that is no principal.
    """
    if len(entries) > MAX_ACL_ENTRIES:
        raise ValueError(f"has {len(entries)} entries; the limit is {MAX_ACL_ENTRIES}")
    return tuple(sorted({parsed(entry) for entry in entries}))


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: the principals of a user, or ``every`` document, as the stages and operators do.

    Without principals, a reader sees only documents without an ``acl``.
    """

    principals: frozenset[str] = frozenset()
    every: bool = False

    @classmethod
    def named(cls, user: str | None = None, groups: Iterable[str] = (), projects: Iterable[str] = ()) -> Reader:
        """Return the reader with these names; raises :class:`ValueError` for an invalid name or more than 512."""
        users = () if user is None else (user,)
        by_kind = zip(KINDS, (users, groups, projects), strict=True)
        found = frozenset(principal(kind, name) for kind, names in by_kind for name in names)
        if len(found) > MAX_PRINCIPALS:
            raise ValueError(f"the reader has {len(found)} principals; the limit is {MAX_PRINCIPALS}")
        return cls(found)

    @classmethod
    def of(cls, names: Collection[str]) -> Reader:
        """Return the reader that has these :attr:`names`; raises :class:`ValueError` for one that is no principal."""
        if tuple(names) == (_EVERY,):
            return EVERY_DOCUMENT
        if len(names) > MAX_PRINCIPALS:
            raise ValueError(f"has {len(names)} principals; the limit is {MAX_PRINCIPALS}")
        return cls(frozenset(parsed(name) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The principals, sorted; an asterisk alone for a reader of every document."""
        return (_EVERY,) if self.every else tuple(sorted(self.principals))

    @property
    def setting(self) -> str:
        """The value of PostgreSQL's setting ``headrace.reader``: the names as a literal of ``text[]``."""
        quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in self.names)
        return "{" + ",".join(f'"{name}"' for name in quoted) + "}"

    def may_read(self, acl: Collection[str] | None) -> bool:
        """Whether the reader may read a document with this ``acl``; None means that it is not known."""
        return self.every or (acl is not None and (not acl or not self.principals.isdisjoint(acl)))


UNNAMED = Reader()
"""A reader without a user: sees only documents without an ``acl``."""
EVERY_DOCUMENT = Reader(every=True)
"""What the stages and operators are."""
