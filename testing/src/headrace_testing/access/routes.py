"""Asks the gateway as many readers at once, and compares every answer with the plain model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx

from headrace.access.readers import Reader
from headrace.retrieval.mode import Mode
from headrace.store.search import Question
from headrace_testing.access.ranking import Passages
from headrace_testing.access.world import World, query

MOST_PROBLEMS = 20
_PAGE = 50
_OK, _NOT_FOUND, _DOWN = 200, 404, 503

Ask = Callable[[str, Mode], Awaitable[Question]]
"""Returns the question that the gateway makes of a text."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An artifact: the reader who asked, and the documents that it was made from."""

    reader: Reader
    sources: frozenset[str]


@dataclass(slots=True)
class Play:
    """Random requests of all readers; ``problems`` has what differed from the model.

    ``bound`` has the key of each reader by position; ``acting`` is a key that acts for readers. ``letters`` has the
    ``acl`` of a dead letter of a document, or None if it is not known. The world must not change during :meth:`run`.
    """

    http: httpx.AsyncClient
    world: World
    passages: Passages
    ask: Ask
    bound: Sequence[str]
    acting: str
    chance: Random
    artifacts: dict[UUID, Answered] = field(default_factory=dict)
    letters: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)

    async def run(self, requests: int, *, at_once: int, cancel: float = 0.0, searches: float = 0.7) -> None:
        """Send the requests, ``at_once`` at a time; a share of ``cancel`` is given up after some milliseconds."""
        gate = asyncio.Semaphore(at_once)

        async def one() -> None:
            async with gate:
                patience = self.chance.uniform(0, 0.03) if self.chance.random() < cancel else None
                searching = self.chance.random() < searches
                kind = self.search if searching else self.chance.choice(self._others())
                position = self.chance.randrange(len(self.world.readers))
                try:
                    await asyncio.wait_for(kind(position), patience)
                except TimeoutError:
                    self.done["cancelled"] += 1

        await asyncio.gather(*(one() for _ in range(requests)))

    def _others(self) -> list[Callable[[int], Awaitable[None]]]:
        return [self.status, self.lookup, self.listing, *([self.artifact] if self.artifacts else [])]

    async def search(self, position: int) -> None:
        """Compare a search in a random mode with the exact ranking."""
        mode, top_k = self.chance.choice(list(Mode)), self.chance.choice((1, 5, 10, 25))
        readable = self.world.readable(self.world.readers[position])
        body: dict[str, Any] = {"query": query(self.chance), "mode": mode.value, "top_k": top_k}
        if self.chance.random() < 0.2:
            named = self.chance.sample(sorted(self.world.documents), min(30, len(self.world.documents)))
            body["filter"] = {"field": "document", "in": named}
            readable = readable & set(named)
        question = await self.ask(body["query"], mode)
        answer = await self._send("POST", "/v1/search", position, body)
        if answer is None:
            return
        self.done["searches"] += 1
        hits = answer.json()["hits"]
        leaked = sorted({hit["document_id"] for hit in hits} - readable)
        self._report(position, f"search {body!r} shows {leaked}" if leaked else "")
        for problem in self.passages.problems(readable, question, top_k, hits):
            self._report(position, f"search {body!r}: {problem}")

    async def status(self, position: int) -> None:
        """Compare the status of a document with the model, and a refusal with what does not exist."""
        reader = self.world.readers[position]
        name = self.chance.choice(sorted({*self.world.documents, *self.letters}))
        answer = await self._send("GET", f"/v1/documents/{quote(name, safe='')}", position)
        if answer is None:
            return
        self.done["status"] += 1
        letter = self.letters.get(name)
        seen = name in self.world.readable(reader)
        told = letter is not None and (not letter or any(one in reader.principals for one in letter))
        if answer.status_code == _OK and not (seen or told) and _says_nothing(answer.json()):
            self.done["read in part"] += 1  # Kafka was slow: the gateway cannot say that the document does not exist
        elif answer.status_code != (_OK if seen or told else _NOT_FOUND):
            self._report(position, f"status of {name} is HTTP {answer.status_code}: {answer.text[:500]}")
        elif answer.status_code == _OK:
            body = answer.json()
            shown = (body["stored"] is not None, body["dead_letter"] is not None)
            if shown != (seen, told):
                self._report(position, f"status of {name} shows stored, dead letter: {shown}, not {(seen, told)}")
        else:
            await self._compare_with_nothing(position, name, answer)

    async def lookup(self, position: int) -> None:
        """Compare a lookup of many documents with the model."""
        names = self.chance.sample(sorted(self.world.documents), min(40, len(self.world.documents)))
        answer = await self._send(
            "POST", "/v1/documents:lookup", position, {"documents": [{"id": one} for one in names]}
        )
        if answer is None:
            return
        self.done["lookup"] += 1
        found = {one["id"] for one in answer.json()["documents"] if one["indexed"] or one["version"] is not None}
        expected = self.world.readable(self.world.readers[position]) & set(names)
        self._report(position, "" if found == expected else f"lookup differs in {sorted(found ^ expected)}")

    async def listing(self, position: int) -> None:
        """Compare the whole list of documents with the model, page by page."""
        wanted = self.chance.choice(({}, {"kind": "even"}))
        found: list[str] = []
        after: str | None = None
        while True:
            body = {"attributes": wanted, "after": after, "limit": _PAGE}
            answer = await self._send("POST", "/v1/documents:search", position, body)
            if answer is None:
                return
            found += [one["id"] for one in answer.json()["documents"]]
            after = answer.json()["next"]
            if after is None:
                break
        self.done["listing"] += 1
        readable = self.world.readable(self.world.readers[position])
        expected = sorted(name for name in readable if not wanted or int(name[-1]) % 2 == 0)
        if found != expected:
            self._report(position, f"the list differs in {sorted(set(found) ^ set(expected))}")

    async def artifact(self, position: int) -> None:
        """Compare whether an artifact is shown with the model."""
        identifier = self.chance.choice(sorted(self.artifacts))
        answer = await self._send("GET", f"/v1/artifacts/{identifier}", position)
        if answer is None:
            return
        self.done["artifacts"] += 1
        known, reader = self.artifacts[identifier], self.world.readers[position]
        seen = known.reader.principals <= reader.principals and known.sources <= self.world.readable(reader)
        if answer.status_code != (_OK if seen else _NOT_FOUND):
            self._report(position, f"artifact {identifier} is HTTP {answer.status_code}")
        elif not seen:
            other = await self._send("GET", f"/v1/artifacts/{uuid4()}", position)
            if other is not None:
                self._report(position, _difference(answer, other))

    async def _compare_with_nothing(self, position: int, name: str, answer: httpx.Response) -> None:
        """Report if the refusal differs from that of a document that does not exist in more than the ID."""
        other = await self._send("GET", f"/v1/documents/{quote('no/' + name, safe='')}", position)
        if other is not None:
            self._report(position, _difference(answer, other))

    async def _send(self, method: str, path: str, position: int, body: object = None) -> httpx.Response | None:
        """Return the answer, or None if the gateway was kept from answering; the reader has a key or is named."""
        headers = {"Authorization": f"Bearer {self.bound[position]}"}
        if self.chance.random() < 0.5:
            headers = {"Authorization": f"Bearer {self.acting}", **headers_of(self.world.readers[position])}
        answer = await self.http.request(method, path, json=body, headers=headers)
        if answer.status_code == _DOWN:
            self.done["kept from answering"] += 1
            return None
        if answer.status_code not in (_OK, _NOT_FOUND):
            self._report(position, f"{method} {path} is HTTP {answer.status_code}: {answer.text[:300]}")
            return None
        return answer

    def _report(self, position: int, problem: str) -> None:
        if problem and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{', '.join(self.world.readers[position].names) or 'without a user'}: {problem}")


def headers_of(reader: Reader) -> dict[str, str]:
    """Return the headers in which an acting key names the reader."""
    names: dict[str, list[str]] = {"user": [], "group": [], "project": []}
    for one in reader.names:
        kind, _, name = one.partition(":")
        names[kind].append(quote(name, safe=""))
    return {
        "Headrace-User": ",".join(names["user"]),
        "Headrace-Groups": ",".join(names["group"]),
        "Headrace-Projects": ",".join(names["project"]),
    }


def _says_nothing(status: Mapping[str, Any]) -> bool:
    """Whether the status is that of any ID while the gateway could not read all records between the stages."""
    empty: dict[str, Any] = {
        "version": None,
        "stages": [],
        "stored": None,
        "dead_letter": None,
        "held": None,
        "in_flight": [],
    }
    return status["state"] == "unknown" and all(status[name] == value for name, value in empty.items())


def _difference(refused: httpx.Response, missing: httpx.Response) -> str:
    """Return how the two refusals differ in more than the ID, or nothing."""
    left, right = refused.json(), missing.json()
    shape = [(name, type(value)) for name, value in left.items()]
    same = (
        refused.status_code == missing.status_code
        and shape == [(name, type(value)) for name, value in right.items()]
        and all(left[name] == right[name] for name in left if name not in ("detail", "instance"))
        and refused.headers.keys() == missing.headers.keys()
    )
    return "" if same else f"a refusal differs from what does not exist: {left} {right}"
