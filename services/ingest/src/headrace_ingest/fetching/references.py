"""Parses references strictly, so that the checked location is the fetched one, however other parsers read it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

import idna

from headrace_ingest.fetching.outcomes import ForbiddenReference

MOST_CHARACTERS = 4096
PORTS = {"http": 80, "https": 443}
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TARGET_SAFE = "!$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True, slots=True)
class Reference:
    """The parts of a reference, unchanged except for the lower-case scheme. Query and fragment keep ``?`` and ``#``."""

    scheme: str
    authority: str
    path: str
    query: str
    fragment: str


@dataclass(frozen=True, slots=True)
class WebAddress:
    """The destination of a request: host (an ASCII name, or an address without brackets), port and target."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """Host and port for the header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse(text: str) -> Reference:
    """Return the parts; raises :class:`ForbiddenReference` for an invalid or ambiguous URL."""
    if len(text) > MOST_CHARACTERS:
        raise ForbiddenReference(f"it has {len(text)} characters; the limit is {MOST_CHARACTERS}")
    if any(unicodedata.category(letter) in _UNSEEN for letter in text):
        raise ForbiddenReference("it contains control characters")
    if "\\" in text:
        raise ForbiddenReference("it contains a backslash")
    match = _PARTS.fullmatch(text)
    if match is None:
        raise ForbiddenReference("it is not a URL such as https://host/path")
    scheme, authority, path, query, fragment = match.groups("")
    if "@" in authority:
        raise ForbiddenReference("it contains credentials, which must not be in an event")
    if " " in text and scheme.lower() != "s3":
        raise ForbiddenReference("it contains a space; write %20")
    return Reference(scheme.lower(), authority, path, query, fragment)


def web_address(reference: Reference) -> WebAddress:
    """Return the destination of an http or https reference; raises :class:`ForbiddenReference`."""
    host, port = host_and_port(reference.authority)
    target = quote((reference.path or "/") + reference.query, safe=_TARGET_SAFE)
    return WebAddress(reference.scheme, host, PORTS[reference.scheme] if port is None else port, target)


def host_and_port(authority: str) -> tuple[str, int | None]:
    """Return the normalized host, and the port if there is one; raises :class:`ForbiddenReference`."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise ForbiddenReference("its host or port is malformed")
    port = None if match[2] is None else int(match[2])
    if port is not None and not 0 < port < 2**16:
        raise ForbiddenReference(f"invalid port {port}; use 1-65535")
    return _host(match[1]), port


def _host(text: str) -> str:
    """Return a name in lower-case ASCII, or an address in its standard notation."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except ValueError as error:
            raise ForbiddenReference("its host is not an IPv6 address") from error
        if address.scope_id is not None:
            raise ForbiddenReference("its IPv6 address has a zone ID")
        return str(address)
    try:
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise ForbiddenReference("its host is not a valid host name") from error
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ForbiddenReference("its host is not a valid host name")
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(IPv4Address(name))
        except ValueError as error:
            raise ForbiddenReference("its host is not an IPv4 address in dotted decimal notation") from error
    return name
