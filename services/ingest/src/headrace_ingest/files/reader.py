"""Reads files in a separate process that starts with the first file, restarts if it dies and ends with the service."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass
from typing import Any

import structlog

from headrace.errors import DependencyDown, InvalidRecord, TemporaryError
from headrace_ingest.files.blocks import Parsed
from headrace_ingest.files.framing import HEAD, framed

log = structlog.get_logger(__name__)

_GRACE_S = 10.0
"""Maximum time for the process to answer beyond the time limit of a file."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one file: MiB of memory, seconds, pages, bytes of text."""

    memory_mib: int
    timeout_s: float
    max_pages: int
    text_bytes: int


class Reader:
    """Reads one file at a time; tasks of one event loop can share it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def read(self, data: bytes, kind: str, charset: str | None) -> Parsed:
        """Return the file's contents.

        Raises :class:`InvalidRecord` with the reason if the file cannot be read, :class:`TemporaryError` if the reader
        ended for another reason than this file, and :class:`DependencyDown` if the reader cannot be confined.
        """
        head = {
            "kind": kind, "charset": charset, "timeout_s": self._limits.timeout_s, "max_pages": self._limits.max_pages,
            "memory_bytes": self._limits.memory_mib << 20, "text_bytes": self._limits.text_bytes,
        }  # fmt: skip
        async with self._turn:
            try:
                answer, text = await asyncio.wait_for(self._asked(head, data), self._limits.timeout_s + _GRACE_S)
            except (TimeoutError, OSError, EOFError) as error:
                await self._end()
                raise TemporaryError("the file reader exited or hangs; ingest restarts it") from error
            except asyncio.CancelledError:
                await self._end()  # its answer would go to the next request
                raise
        if answer.get("temporary") is True:
            raise TemporaryError(f"the file {answer['error']}")
        if "error" in answer:
            raise InvalidRecord("data", str(answer["error"]), remedy=str(answer.get("remedy", "")))
        return _checked(answer, text)

    async def close(self) -> None:
        """End the file reader."""
        async with self._turn:
            await self._end()

    async def _asked(self, head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        process = self._process or await self._start()
        assert process.stdin is not None
        process.stdin.write(framed(head, data))
        await process.stdin.drain()
        return await _answer(process)

    async def _start(self) -> Process:
        # Empty environment: the process must not see secrets. -I: Python imports nothing from the working folder.
        command = (sys.executable, "-I", "-m", "headrace_ingest.files.child")
        self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, env={})
        ready, _ = await _answer(self._process)
        if ready["refused"]:
            await self._end()
            raise DependencyDown(
                "file reader", f"cannot confine the file reader: {ready['refused']}",
                remedy="Allow seccomp and setrlimit where ingest runs. Without them, ingest reads no files.",
            )  # fmt: skip
        log.info("file reader started", pid=self._process.pid, system_calls_filtered=ready["filtered"])
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def _checked(answer: Any, text: bytes) -> Parsed:
    """Return the checked answer. A reader that a malicious file controls can answer anything."""
    try:
        title, language, pages, found = answer["title"], answer["language"], answer["pages"], text.decode()
        title.encode()
        numbers = all(type(page) is int for page in pages)
        good = numbers and list(pages) == sorted(pages) and (not pages or 0 <= pages[0] <= pages[-1] <= len(found))
        if good and (language is None or isinstance(language, str)):
            return Parsed(title, found, language, tuple(pages))
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    raise InvalidRecord("data", "caused the file reader to return an invalid answer")


async def _answer(process: Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    head_bytes, data_bytes = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
    head = json.loads(await process.stdout.readexactly(head_bytes))
    return head, await process.stdout.readexactly(data_bytes)
