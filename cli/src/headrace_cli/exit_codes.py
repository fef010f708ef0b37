"""Exit codes and their meanings, as in the help and in ``docs/reference/exit-codes.md``."""

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
    ExitCode.OK: "everything succeeded",
    ExitCode.FAILED: "failed: the message says why and what to do",
    ExitCode.USAGE: "wrong command line: an unknown option, a missing argument or an invalid value",
    ExitCode.UNREACHABLE: "no stack is running, or a required service does not answer",
    ExitCode.SOME_FAILED: "some items failed and are listed, the others succeeded",
    ExitCode.TIMED_OUT: "not finished within --timeout: the work continues in the background",
    ExitCode.NOT_FOUND: "the document, service or pipeline does not exist",
    ExitCode.DENIED: "the API key is missing, unknown or lacks permission",
    ExitCode.INCONSISTENT: "the audit has findings and lists them, each with its repair",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
}


def epilog() -> str:
    """Return the last line of the help: the exit codes."""
    return "Exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items()) + "."
