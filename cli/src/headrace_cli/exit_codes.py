"""What the exit code of a command says; ``docs/reference/exit-codes.md`` and the help tell the same."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of ``headrace``."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    SOME_FAILED = 4
    TIMED_OUT = 5
    NOT_FOUND = 6
    DENIED = 7
    INCONSISTENT = 8
    INTERRUPTED = 130


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done, all of it",
    ExitCode.FAILED: "failed, and the message says why and what to do",
    ExitCode.USAGE: "the command line is wrong: an unknown option, a missing argument, a bad value",
    ExitCode.UNREACHABLE: "nothing runs here, or what is needed does not answer",
    ExitCode.SOME_FAILED: "some items failed and are listed, the others are done",
    ExitCode.TIMED_OUT: "not finished within --timeout, the work goes on in the background",
    ExitCode.NOT_FOUND: "there is no such document, service or pipeline",
    ExitCode.DENIED: "the API key is missing, unknown, or not for this",
    ExitCode.INCONSISTENT: "the audit found inconsistencies and lists them, each with its repair",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


def epilog() -> str:
    """Return the line about exit codes that ends the help."""
    return "Exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."
