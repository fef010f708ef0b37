"""Finds what must not be in a template: credentials, network addresses and parameter values.

The scan covers every key and value, also in unknown fields. Messages never repeat a value that was found, because they
end up in logs.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter

from headrace.errors import TemplateError
from headrace.pipeline.nodes import ListNode, Node, Scalar

_CREDENTIAL_WORDS = frozenset(
    [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "secrets",
        "apikey",
        "authorization",
        "authentication",
        "auth",
        "bearer",
        "credential",
        "credentials",
        "cookie",
        "jwt",
        "signature",
    ]
)
_CREDENTIAL_ENDINGS = ("token", "api_key", "access_key", "private_key", "secret_key", "account_key", "auth_key")
_ADDRESS_WORDS = frozenset(
    [
        "url",
        "uri",
        "urls",
        "endpoint",
        "endpoints",
        "host",
        "hostname",
        "port",
        "address",
        "addr",
        "server",
        "servers",
        "bootstrap",
        "dsn",
    ]
)
_PARAMETER_KEYS = frozenset(
    [
        "parameter",
        "parameters",
        "param",
        "params",
        "arg",
        "args",
        "argument",
        "arguments",
        "kwargs",
        "option",
        "options",
        "opts",
        "setting",
        "settings",
        "config",
        "configuration",
        "conf",
        "model",
        "models",
        "temperature",
        "top_p",
        "top_k",
        "seed",
        "timeout",
        "device",
        "provider",
        "prompt",
        "threshold",
        "limit",
        "retries",
        "env",
        "environment",
        "value",
        "values",
        "variables",
        "defaults",
        "dimension",
        "dimensions",
        "overlap",
        "tokens",
        "chunk_overlap",
        "window",
        "rate",
        "concurrency",
        "workers",
        "precision",
    ]
)
_PARAMETER_ENDINGS = ("_size", "_model", "_limit", "_timeout", "_tokens", "_seconds", "_ratio")
_PARAMETER_BEGINNINGS = ("max_", "min_", "num_", "model_")

# Every pattern takes linear time: repetitions are bounded, or cannot start again within themselves.
_CREDENTIAL_PATTERNS = (
    re.compile(r"(?<![A-Za-z0-9])[sp]k-(?=[A-Za-z_-]{0,64}[A-Z0-9])[A-Za-z0-9_-]{6}"),
    re.compile(r"(?<![A-Za-z0-9])gh[opsur]_[A-Za-z0-9]{6,}"),
    re.compile(r"(?<![A-Za-z0-9])(?:github_pat_|glpat-|xox[abeprs]-)[A-Za-z0-9_-]{6,}"),
    re.compile(r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{8,}"),
    re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{8,}"),
    re.compile(r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{16,}"),
    re.compile(r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    re.compile(r"\b(?:Bearer|Basic)\s+(?=\S*[0-9=])[A-Za-z0-9+/._~=-]{8,}", re.IGNORECASE),
    re.compile(r"[^\s:/@]:[^\s/@]{1,100}@"),
    re.compile(r"\b(?:password|passwd|pwd|secret|api[_-]?key)\s*[=:]\s*\S", re.IGNORECASE),
    re.compile(r"\btoken\s*=\s*\S", re.IGNORECASE),
)
_ADDRESS_PATTERNS = (
    re.compile(r"[A-Za-z0-9+.-]://"),
    re.compile(r"(?<![:\w])//[\w\[]"),
    re.compile(r"(?<![\w-])(?=[\w-]{0,62}[A-Za-z])[\w-]{1,63}:[0-9]{1,5}(?![\w-])"),
    re.compile(r"[\w-]\.[A-Za-z]{2,24}/\S"),
)
_IPV4 = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w.]*\w)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]{2,45}(?!\w)")
_DENSE = re.compile(r"[A-Za-z0-9+/_=-]{24,}")

_SETTINGS_REMEDY = (
    "Put values into the settings of the service (environment variables); a template only names stages and handlers."
)


def credential_value(text: str) -> bool:
    """Whether the text contains something that looks like a key, a token, or a user name with a password."""
    if any(pattern.search(text) for pattern in _CREDENTIAL_PATTERNS):
        return True
    return any(_looks_random(found) for found in _DENSE.findall(text))


def _looks_random(token: str) -> bool:
    """Whether the token looks random: a mix of letters and many digits with a high entropy.

    The entropy is at least 3.0 bits per character (Shannon). Words joined by hyphens reach this too, so at least an
    eighth of the characters must be digits, and a token of less than 32 characters must also contain capitals.
    """
    digits = sum(character.isdigit() for character in token)
    letters = sum(character.isalpha() for character in token)
    if letters == 0 or digits * 8 < len(token):
        return False
    mixed = any(character.isupper() for character in token) and any(character.islower() for character in token)
    if len(token) < 32 and not mixed:
        return False
    shares = [count / len(token) for count in Counter(token).values()]
    return -sum(share * math.log2(share) for share in shares) >= 3.0


def address_value(text: str) -> bool:
    """Whether the text contains a URL, a host with a port, or an IP address."""
    if any(pattern.search(text) for pattern in _ADDRESS_PATTERNS):
        return True
    candidates = _IPV4.findall(text)
    candidates += [found for found in _IPV6.findall(text) if found.count(":") > 1 and re.search("[0-9]", found)]
    return any(_is_ip(candidate.rstrip(".")) for candidate in candidates)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _words(key: str) -> str:
    """Return the key in snake case: ``apiKey``, ``API-Key`` and ``api key`` all become ``api_key``."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return re.sub(r"[^a-z0-9]+", "_", separated.lower()).strip("_")


def credential_key(key: str) -> bool:
    """Whether a field with this name is meant for a credential."""
    words = _words(key)
    return not _CREDENTIAL_WORDS.isdisjoint(words.split("_")) or words.endswith(_CREDENTIAL_ENDINGS)


def address_key(key: str) -> bool:
    """Whether a field with this name is meant for a network address."""
    return not _ADDRESS_WORDS.isdisjoint(_words(key).split("_"))


def parameter_key(key: str) -> bool:
    """Whether a field with this name is meant for a handler's parameters."""
    words = _words(key)
    return words in _PARAMETER_KEYS or words.endswith(_PARAMETER_ENDINGS) or words.startswith(_PARAMETER_BEGINNINGS)


def parameter_error(position_of: Node, subject: str) -> TemplateError:
    """Return the refusal of a parameter value; ``subject`` is the subject of the message's sentence."""
    return TemplateError(
        "parameter", f"{subject} contains a parameter value.", position_of.position, remedy=_SETTINGS_REMEDY
    )


def _credential_error(node: Node, subject: str) -> TemplateError:
    return TemplateError(
        "credential",
        f"{subject} contains a credential, or something that looks like one.",
        node.position,
        remedy="Remove it. If the file was shared, replace the credential. " + _SETTINGS_REMEDY,
    )


def _address_error(node: Node, subject: str) -> TemplateError:
    return TemplateError("url", f"{subject} contains a URL or network address.", node.position, remedy=_SETTINGS_REMEDY)


class Scan:
    """One scan of a whole template; ``tainted`` tells other checks which nodes it refused."""

    def __init__(self, root: Node) -> None:
        self._tainted: set[int] = set()
        self.errors = self._node(root, "The template")

    def tainted(self, node: Node) -> bool:
        """Whether something in this node was refused, so that a less specific refusal is not needed."""
        return id(node) in self._tainted

    def _node(self, node: Node, subject: str) -> list[TemplateError]:
        errors: list[TemplateError] = []
        if isinstance(node, Scalar):
            errors = self._text(node, subject)
        elif isinstance(node, ListNode):
            for item in node.items:
                errors += self._node(item, subject)
        else:
            for key, value in node.entries:
                found = self._entry(key, value)
                if found:
                    self._tainted |= {id(key), id(value)}
                errors += found
        if errors:
            self._tainted.add(id(node))
        return errors

    def _text(self, node: Scalar, subject: str) -> list[TemplateError]:
        if credential_value(node.text):
            return [_credential_error(node, subject)]
        if address_value(node.text):
            return [_address_error(node, subject)]
        return []

    def _entry(self, key: Scalar, value: Node) -> list[TemplateError]:
        in_key = self._text(key, "A field name")
        if in_key:
            return in_key
        subject = f"The field {shown(key.text)}"
        if credential_key(key.text):
            return [_credential_error(key, subject)]
        errors = self._node(value, subject)
        if parameter_key(key.text):
            return [error for error in errors if error.reason != "parameter"] or [parameter_error(key, subject)]
        if address_key(key.text):
            return [error for error in errors if error.reason != "parameter"] or [_address_error(key, subject)]
        return errors


def shown(text: str) -> str:
    """Return the text in quotes, cut to 40 characters, on one line."""
    return repr(text if len(text) <= 40 else text[:40] + "…")
