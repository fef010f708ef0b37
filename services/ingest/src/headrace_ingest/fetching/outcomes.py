"""Results of a fetch: a file, or an error that says whether a later attempt can succeed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.errors import PermanentError

_REDRIVE = "then run `headrace dlq redrive`"
_MEDIA_TYPE = re.compile(r"\s*([A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127})\s*(?:;|$)")
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9_.:+-]{1,64})\"?\s*(?:;|$)", re.IGNORECASE)
_HOST = re.compile(r"(?:\[[^\]@]*\]|[^:@\[\]]*)(?::[0-9]*)?")
_MOST_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as served. The media type is the server's, in lower case, or None."""

    data: bytes
    media_type: str | None = None
    charset: str | None = None


class ForbiddenReference(PermanentError):
    """The reference names a location that ingest may not fetch from."""

    senders_fault = True
    code = "forbidden-reference"
    default_remedy = (
        "Send another reference, or the text itself. To allow this location, change the settings HEADRACE_FETCH_…, "
        f"restart ingest, {_REDRIVE}."
    )

    def __init__(self, reason: str, *, where: str = "", remedy: str = "") -> None:
        self.reason = reason
        super().__init__(f"reference refused: {reason}", where=where, remedy=remedy)


class ReferenceGone(PermanentError):
    """The referenced file does not exist."""

    senders_fault = True
    code = "reference-gone"
    default_remedy = f"Restore the file, {_REDRIVE}; or send the event again with another reference."


class Unfetchable(PermanentError):
    """The referenced file exists, but ingest cannot fetch it."""

    code = "unfetchable"
    default_remedy = f"Make it available on the server, {_REDRIVE}; or send the event again with another reference."


def too_large(size: int | None, limit: int) -> Unfetchable:
    """Return the error for a file of ``size`` bytes, or of unknown size above the limit if ``size`` is None."""
    return Unfetchable(
        f"the file has {'too many' if size is None else size} bytes; the limit is {limit}",
        remedy=f"Split the file, or raise HEADRACE_FETCH_MAX_BYTES, restart ingest, {_REDRIVE}.",
    )


def check_encoding(encoding: str) -> None:
    """Raise :class:`Unfetchable` for a compressed file: decompressing it could exceed the limit."""
    if encoding.strip().lower() not in {"", "identity"}:
        raise Unfetchable(
            f"the server sent the file compressed (Content-Encoding {encoding!r:.100}), which ingest does not support",
            remedy=f"Store or serve it without Content-Encoding, {_REDRIVE}.",
        )


def media_type_of(content_type: str | None) -> tuple[str | None, str | None]:
    """Return media type and charset of a Content-Type; None for a missing or malformed part."""
    media_type, charset = _MEDIA_TYPE.match(content_type or ""), _CHARSET.search(content_type or "")
    return media_type and media_type[1].lower(), charset and charset[1].lower()


def shown(reference: str) -> str:
    """Return a reference that is safe for logs and errors: no credentials, query, fragment or control characters."""
    head = re.split(r"[?#]", reference, maxsplit=1)[0]
    scheme, separator, rest = head.partition("://")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    elif not _HOST.fullmatch(authority):
        authority, slash, path = "", "", rest.rpartition("@")[2]
    text = f"{scheme}{separator}{authority}{slash}{path}" if separator else head.rpartition("@")[2]
    text = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text[: _MOST_SHOWN + 1])
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
