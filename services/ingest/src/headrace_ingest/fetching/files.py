"""Reads files below allowed folders. It opens exactly the file that it checked and follows no links on the way."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import threading
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import unquote_to_bytes

from headrace.errors import ConfigurationError, TemporaryError, describe
from headrace_ingest.fetching.outcomes import Fetched, ForbiddenReference, ReferenceGone, Unfetchable, too_large
from headrace_ingest.fetching.references import Reference
from headrace_ingest.fetching.settings import FetchSettings

_CHUNK = 1024 * 1024
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_SHUT = frozenset({errno.EACCES, errno.EPERM})


class Files:
    """Reads files below the allowed folders; raises :class:`ConfigurationError` for a relative path."""

    def __init__(self, settings: FetchSettings) -> None:
        self._limit = settings.max_bytes
        named = (name.strip() for name in re.split(f"[,{re.escape(os.pathsep)}]", settings.folders))
        self._folders = [Path(name) for name in named if name]
        for folder in self._folders:
            if not folder.is_absolute():
                raise ConfigurationError(
                    f"{str(folder)!r} is not an absolute path",
                    where="HEADRACE_FETCH_FOLDERS",
                    remedy="Begin it with /.",
                )

    async def fetch(self, reference: Reference) -> Fetched:
        """Return the file; raises the errors of :meth:`headrace_ingest.fetching.Fetcher.fetch`."""
        if reference.authority.lower() not in {"", "localhost"}:
            raise ForbiddenReference("a file URL must not name another host; write file:///path")
        if reference.query or reference.fragment:
            raise ForbiddenReference("a file URL has no query or fragment; write ? as %3F and # as %23")
        path = unquote_to_bytes(reference.path)
        if b"\x00" in path or not path.startswith(b"/"):
            raise ForbiddenReference("its path must be absolute and must not contain NUL bytes")
        try:
            return Fetched(await self._apart(os.fsdecode(path)))
        except OSError as error:
            raise _as_error(error) from error

    async def _apart(self, path: str) -> bytes:
        """Read in a separate thread: on a hanging mount, the thread blocks neither other reads nor the shutdown."""
        done: Future[bytes] = Future()

        def read() -> None:
            try:
                done.set_result(self._read(path))
            except BaseException as error:  # noqa: BLE001  # the awaiting task raises it
                done.set_exception(error)

        threading.Thread(target=read, name="fetch-file", daemon=True).start()
        return await asyncio.shield(asyncio.wrap_future(done))

    def _read(self, path: str) -> bytes:
        real = Path(os.path.realpath(path))
        for folder in self._folders:
            root = Path(os.path.realpath(folder))
            if real != root and real.is_relative_to(root):
                return self._read_below(root, real.relative_to(root).parts)
        raise ForbiddenReference("it is not inside a folder of HEADRACE_FETCH_FOLDERS")

    def _read_below(self, root: Path, parts: tuple[str, ...]) -> bytes:
        """Open the path part by part, so a folder that was replaced by a link after the check fails here."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(root, flags | os.O_DIRECTORY)
        except OSError as error:
            raise TemporaryError(
                f"cannot open the folder {root}: {describe(error)}",
                remedy="Check HEADRACE_FETCH_FOLDERS and the mounts, then run `headrace dlq redrive`.",
            ) from error
        try:
            for number, part in enumerate(parts, 1):
                folder = os.O_DIRECTORY if number < len(parts) else 0
                inner = os.open(part, flags | folder, dir_fd=handle)
                os.close(handle)
                handle = inner
            return self._read_open(handle)
        finally:
            os.close(handle)

    def _read_open(self, handle: int) -> bytes:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise ForbiddenReference("it is not a regular file")
        if state.st_size > self._limit:
            raise too_large(state.st_size, self._limit)
        data = bytearray()
        while part := os.read(handle, _CHUNK):
            data += part
            if len(data) > self._limit:
                raise too_large(None, self._limit)
        return bytes(data)


def _as_error(error: OSError) -> Exception:
    if error.errno in _GONE:
        return ReferenceGone("the file does not exist")
    if error.errno in _SHUT:
        return Unfetchable("ingest has no permission to read the file")
    if error.errno in {errno.ELOOP, errno.ENXIO}:
        return ForbiddenReference("it is not a regular file")
    return TemporaryError(f"cannot read the file: {describe(error)}")
