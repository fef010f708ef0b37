"""Estimates the cost of embedding: exactly from the log, approximately from texts that are not split yet.

Tokens are estimated as one third of the characters, a cautious value: English has about four characters per token,
Korean about two. Texts from the log are the chunker's; other texts are assumed to be cut into chunks of 500 characters,
50 of them shared with the previous chunk, as with the chunker's default settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from hashlib import blake2b

from headrace.codec.codec import Codec
from headrace.config.settings import KafkaSettings
from headrace.embeddings import costs
from headrace.embeddings.preparation import Preparation
from headrace.kafka.broker_contract import Record
from headrace.kafka.ranges import LogReader
from headrace.payloads import ReplayRun
from headrace_operations.replay.plan import Known, texts_of
from headrace_operations.replay.runs import spans
from headrace_operations.replay.selection import wanted

CHARACTERS_A_TOKEN = 3
_PIECE, _SHARED = 500, 50
_ASK_AT = 2000
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate: ``texts`` are distinct texts by tenant, ``to_embed`` those without a vector.

    ``exact`` is whether these are the texts that the stage will embed. ``usd`` is None if the price is unknown, and
    ``seconds`` is None without a rate.
    """

    documents: int
    texts: int
    to_embed: int
    tokens: int
    usd: Decimal | None
    seconds: float | None
    exact: bool


def tokens_of(characters: int) -> int:
    """Return the approximate number of tokens in a text with this number of characters, at least 1."""
    return max(1, math.ceil(characters / CHARACTERS_A_TOKEN))


def pieces(characters: int) -> list[int]:
    """Return the approximate lengths of the chunks of a text with this number of characters."""
    if characters <= _PIECE:
        return [characters] if characters else []
    step = _PIECE - _SHARED
    count = 1 + math.ceil((characters - _PIECE) / step)
    return [_PIECE] * (count - 1) + [characters - (count - 1) * step]


class Lengths:
    """Distinct texts by tenant, with their lengths; needs 16 bytes and a number for each text."""

    def __init__(self) -> None:
        self.documents = 0
        self.texts: dict[str, dict[bytes, int]] = {}

    def add(self, tenant: str, key: bytes, characters: int) -> None:
        """Add a text by the key of its vector; adding it again changes nothing."""
        self.texts.setdefault(tenant, {})[key] = characters

    def add_whole(self, tenant: str, text: str) -> None:
        """Add a text that is not split yet; a repeated text costs nothing."""
        own = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=14).digest()
        for number, characters in enumerate(pieces(len(text))):
            self.add(tenant, own + number.to_bytes(4, "big"), characters)


async def priced(
    lengths: Lengths, known: Known | None, *, price: Decimal | None, rate: float | None, exact: bool
) -> Estimate:
    """Return the cost of the texts except those with ``known`` vectors; ``rate`` is in texts per second."""
    texts = sum(map(len, lengths.texts.values()))
    to_embed = tokens = 0
    for tenant, own in lengths.texts.items():
        hashes = sorted(own)
        for start in range(0, len(hashes), _ASK_AT):
            asked = set(hashes[start : start + _ASK_AT])
            missing = asked - (await known(tenant, asked) if known is not None else set())
            to_embed += len(missing)
            tokens += sum(tokens_of(own[one]) for one in missing)
    usd = None if price is None else costs.usd(tokens, price)
    return Estimate(lengths.documents, texts, to_embed, tokens, usd, to_embed / rate if rate else None, exact)


def of_log(
    kafka: KafkaSettings,
    codec: Codec,
    run: ReplayRun,
    preparation: Preparation,
    progress: Progress = lambda _: None,
) -> Lengths:
    """Read what a replay of the embedder would send, and return its texts, prepared for the generation.

    Records that cannot be read, or whose payload is missing, do not count, because the stage dead-letters them at no
    cost. Raises :class:`DependencyDown`.
    """
    found = Lengths()

    def take(record: Record) -> None:
        if record.key is None or not wanted(run.tenant, run.document_id, record.key):
            return
        progress(1)
        texts = texts_of(codec, record.value, preparation)
        if texts is None:
            return
        found.documents += 1
        for text in texts:
            found.add(*text)

    LogReader(kafka, "replay").read(spans(run), take)
    return found


def of_texts(tenant: str, texts: Iterable[str], progress: Progress = lambda _: None) -> Lengths:
    """Return the texts of documents that have not been sent."""
    found = Lengths()
    for text in texts:
        found.documents += 1
        found.add_whole(tenant, text)
        progress(1)
    return found
