"""The system calls that a program needs which computes and reads files, as a filter for the kernel (seccomp-bpf).

All others fail with ENOSYS, those of kernels to come among them: sockets of any kind, io_uring, starting processes and
threads, signals to others, changing files or the system. So does opening a file for writing, with EACCES. What it
lets through is memory, time, reading, writing to what is open already, and ending.
"""

from __future__ import annotations

import errno
import os
import struct

#: Numbers on x86_64 and aarch64; None where a machine has no such call.
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "access": (21, None), "brk": (12, 214), "clock_getres": (229, 114), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "close": (3, 57), "dup": (32, 23), "dup2": (33, None), "exit": (60, 93),
    "exit_group": (231, 94), "faccessat": (269, 48), "faccessat2": (439, 439), "fstat": (5, 80), "futex": (202, 98),
    "getcwd": (79, 17), "getcpu": (309, 168), "getdents64": (217, 61), "getegid": (108, 177), "geteuid": (107, 175),
    "getgid": (104, 176), "getpid": (39, 172), "getppid": (110, 173), "getrandom": (318, 278),
    "getrusage": (98, 165), "gettid": (186, 178), "gettimeofday": (96, 169), "getuid": (102, 174), "lseek": (8, 62),
    "lstat": (6, None), "madvise": (28, 233), "membarrier": (324, 283), "mmap": (9, 222), "mprotect": (10, 226),
    "mremap": (25, 216), "munmap": (11, 215), "nanosleep": (35, 101), "newfstatat": (262, 79), "poll": (7, None),
    "ppoll": (271, 73), "pread64": (17, 67), "pselect6": (270, 72), "read": (0, 63), "readlink": (89, None),
    "readlinkat": (267, 78), "readv": (19, 65), "restart_syscall": (219, 128), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124), "select": (23, None), "sigaltstack": (131, 132), "stat": (4, None),
    "statx": (332, 291), "sysinfo": (99, 179), "time": (201, None), "times": (100, 153), "uname": (63, 160),
    "write": (1, 64), "writev": (20, 66),
}  # fmt: skip
#: Numbers, and which argument has the flags.
_OPENING: dict[str, tuple[tuple[int | None, int | None], int]] = {"open": ((2, None), 1), "openat": ((257, 56), 2)}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_MACHINES = ("x86_64", "aarch64")
#: AUDIT_ARCH_*, by which a call of another architecture's numbers (32-bit on x86) is told.
_ARCHITECTURES = (0xC000003E, 0xC00000B7)

# Classic BPF (linux/bpf_common.h) on struct seccomp_data: number, architecture, instruction pointer, six arguments.
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def filter_for(machine: str) -> bytes | None:
    """The instructions for `machine` as os.uname names it; None where its numbers are not known here."""
    if machine not in _MACHINES:
        return None
    at = _MACHINES.index(machine)
    code = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_EQUAL, _ARCHITECTURES[at], if_true=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    for numbers, argument in _OPENING.values():
        if (number := numbers[at]) is not None:
            code += [
                _instruction(_EQUAL, number, if_false=4),
                _instruction(_LOAD, _ARGUMENTS_AT + 8 * argument),  # its lower half: both machines are little-endian
                _instruction(_ANY_BIT, _FOR_WRITING, if_false=1),
                _instruction(_RETURN, _ERROR | errno.EACCES),
                _instruction(_RETURN, _ALLOW),
            ]
    allowed = sorted(number for numbers in _ALLOWED.values() if (number := numbers[at]) is not None)
    for left, number in zip(range(len(allowed), 0, -1), allowed, strict=True):
        code.append(_instruction(_EQUAL, number, if_true=left))  # to the end, where it is allowed
    code += [_instruction(_RETURN, _ERROR | errno.ENOSYS), _instruction(_RETURN, _ALLOW)]
    return b"".join(code)


def _instruction(code: int, operand: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter: the operation, how many instructions to skip by the outcome of a test, the operand."""
    return struct.pack("=HBBI", code, if_true, if_false, operand)
