"""What a process that reads a stranger's file may do: compute, within bounds, and answer; nothing else.

Memory, time, files and core dumps are bounded by setrlimit(2) everywhere. On Linux (x86-64, arm64) a seccomp filter
besides refuses to open files, to reach a network, to start programs and to touch other processes.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import signal
import struct
import sys

_ERRNO_EACCES = 0x00050000 | 13
_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
"""BPF: load a word, jump if equal, jump if at least, return (linux/bpf_common.h)."""
_X32 = 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_MODE_FILTER = 2
_REFUSED = {
    # socket connect bind listen, execve(at), open(at)(2) creat, ptrace, process_vm_*, io_uring_setup, kill, pidfd_*,
    # unlink rename mkdir rmdir link symlink chmod chown truncate mount and their *at forms
    "x86_64": (0xC000003E, (
        41, 42, 49, 50, 59, 322, 2, 257, 437, 85, 101, 310, 311, 425, 62, 424, 438, 87, 263, 82, 264, 316, 83, 258, 84,
        86, 265, 88, 266, 90, 268, 452, 92, 94, 260, 76, 165, 272, 308, 321,
    )),
    "aarch64": (0xC00000B7, (
        198, 203, 200, 201, 221, 281, 56, 437, 117, 270, 271, 425, 129, 424, 438, 35, 38, 276, 34, 36, 37, 53, 452, 54,
        45, 40, 97, 268, 280,
    )),
}  # fmt: skip
"""Audit architecture and the numbers of what is refused (linux/audit.h, asm/unistd.h)."""


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def is_filtered() -> bool:
    """Whether this machine refuses system calls beside bounding resources."""
    return sys.platform == "linux" and platform.machine() in _REFUSED


def confine(memory_bytes: int, cpu_s: int) -> None:
    """Give up, for good, what reading a file does not need; raises OSError where the kernel refuses the filter."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if sys.platform == "linux":  # elsewhere the address space has another measure
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if is_filtered():
        _filter(*_REFUSED[platform.machine()])


def _filter(architecture: int, refused: tuple[int, ...]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    count = len(refused)
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, count + 1, 0, _X32),
        *((_EQUAL, count - index, 0, number) for index, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO_EACCES),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for option, value, argument in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, head)):
        if libc.prctl(option, value, argument, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not take the seccomp filter")
