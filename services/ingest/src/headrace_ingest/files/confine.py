"""Confines a process that reads an untrusted file: it may compute within limits and answer, nothing else.

setrlimit(2) limits memory, time, files and core dumps on every system. On Linux (x86-64, arm64), a seccomp filter also
allows only the system calls for computing and answering: the process cannot open files, use the network, or start or
touch other processes.
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
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
"""BPF: load a word, jump if equal, return (linux/bpf_common.h)."""
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_MODE_FILTER = 2
_ALLOWED = {
    # read write close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn
    # pread64 readv writev access sched_yield mremap madvise nanosleep getpid exit uname getcwd readlink
    # gettimeofday getrlimit getrusage sysinfo times getuid getgid geteuid getegid sigaltstack arch_prctl gettid futex
    # sched_getaffinity restart_syscall clock_gettime clock_getres clock_nanosleep exit_group newfstatat
    # set_robust_list getrandom membarrier statx rseq
    "x86_64": (0xC000003E, (
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 24, 25, 28, 35, 39, 60, 63, 79, 89, 96,
        97, 98, 99, 100, 102, 104, 107, 108, 131, 158, 186, 202, 204, 219, 228, 229, 230, 231, 262, 273, 318, 324,
        332, 334,
    )),
    # the same calls under their arm64 names (faccessat, ppoll, readlinkat)
    "aarch64": (0xC00000B7, (
        63, 64, 57, 80, 73, 62, 222, 226, 215, 214, 134, 135, 139, 67, 65, 66, 48, 124, 216, 233, 101, 172, 93, 160,
        17, 78, 169, 163, 165, 179, 153, 174, 176, 175, 177, 132, 178, 98, 123, 128, 113, 114, 115, 94, 79, 99, 278,
        283, 291, 293,
    )),
}  # fmt: skip
"""Audit architecture and allowed system call numbers (linux/audit.h, asm/unistd.h). All others are denied."""


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def is_filtered() -> bool:
    """Return whether this machine can filter system calls as well as limit resources."""
    return sys.platform == "linux" and platform.machine() in _ALLOWED


def confine(memory_bytes: int, cpu_s: int) -> None:
    """Permanently drop all rights that reading a file does not need; raises OSError if the kernel rejects this."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if sys.platform == "linux":  # other systems measure the address space differently
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if is_filtered():
        _filter(*_ALLOWED[platform.machine()])


def _filter(architecture: int, allowed: tuple[int, ...]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    count = len(allowed)
    program = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        *((_EQUAL, count - index, 0, number) for index, number in enumerate(allowed)),
        (_RETURN, 0, 0, _ERRNO_EACCES),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    for option, value, argument in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _MODE_FILTER, head)):
        if libc.prctl(option, value, argument, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel rejected the seccomp filter")
