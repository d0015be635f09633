"""System calls: which ones a process in the bubble may make, as programs for the kernel's seccomp.

What is not listed fails with EPERM. `program` is for the worker, which forks, and for what it forks to call code,
which may neither fork nor execute, open a socket, send a signal, nor change its own limits.
Not here: who loads them. Standard library only, as the worker imports it.
"""

from __future__ import annotations

import struct

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""The column of the tables below, and the kernel's name of the architecture."""

# Name, number on x86_64, number on aarch64; a dash where the architecture lacks it.
_CODE = """
read 0 63, write 1 64, close 3 57, fstat 5 80, newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291, lseek 8 62
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216
madvise 28 233, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132
pread64 17 67, readv 19 65, writev 20 66, access 21 -, faccessat 269 48, faccessat2 439 439, sched_yield 24 124
dup 32 23, dup2 33 -, dup3 292 24, nanosleep 35 101, clock_nanosleep 230 115, getpid 39 172, getppid 110 173
gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, uname 63 160, getcwd 79 17
readlink 89 -, readlinkat 267 78, openat 257 56, getdents64 217 61, gettimeofday 96 169, time 201 -, times 100 153
clock_gettime 228 113, clock_getres 229 114, getrusage 98 165, sched_getaffinity 204 123, futex 202 98
getrandom 318 278, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441
exit 60 93, exit_group 231 94
"""
_FORKING = """
execve 59 221, arch_prctl 158 -, set_tid_address 218 96, set_robust_list 273 99, rseq 334 293, prlimit64 302 261
getrlimit 97 163, setrlimit 160 164, prctl 157 167, seccomp 317 277, kill 62 129, wait4 61 260, pidfd_open 434 434
sendmsg 46 211, recvmsg 47 212, close_range 436 436, timer_create 222 107, timer_settime 223 110
setpriority 141 140, getpriority 140 141, getsockname 51 204, getsockopt 55 209, sysinfo 99 179
"""
# Name, numbers, which argument, the bits of it that count, and what they must be.
_CODE_IF = (
    *(("fcntl", 72, 25, 1, 0xFFFFFFFF, command) for command in (0, 1, 2, 3, 4, 1030)),  # no signals to owners
    *(("ioctl", 16, 29, 1, 0xFFFFFFFF, request) for request in (0x5401, 0x5421, 0x5450, 0x5451)),
    ("socketpair", 53, 199, 0, 0xFFFFFFFF, 1),  # an event loop wakes itself by one
    ("sendto", 44, 206, 4, 0xFFFFFFFFFFFFFFFF, 0),  # to nobody but its peer
    ("recvfrom", 45, 207, 4, 0xFFFFFFFFFFFFFFFF, 0),
)
_FORKING_IF = (("clone", 56, 220, 0, 0x7E020080, 0),)  # no namespaces

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_FIRST_OF_X32 = 0x40000000

_Condition = tuple[str, int, int, int, int, int]


def is_known(machine: str) -> bool:
    return machine in _ARCHITECTURES


def number(machine: str, name: str) -> int:
    return _numbers(_CODE + _FORKING, _ARCHITECTURES[machine][0])[name]


def program(machine: str, *, forks: bool) -> bytes:
    """For `prctl(PR_SET_SECCOMP)` and bubblewrap: a `struct sock_filter[]`."""
    column, architecture = _ARCHITECTURES[machine]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    lines += [(_AT_LEAST, 0, 1, _FIRST_OF_X32), (_RETURN, 0, 0, _KILL)]
    for allowed in _numbers(_CODE + (_FORKING if forks else ""), column).values():
        lines += [(_EQUAL, 0, 1, allowed), (_RETURN, 0, 0, _ALLOW)]
    for condition in _CODE_IF + (_FORKING_IF if forks else ()):
        lines += _conditional(condition, column)
    lines.append((_RETURN, 0, 0, _REFUSE))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _conditional(condition: _Condition, column: int) -> list[tuple[int, int, int, int]]:
    """Arguments have 64 bits and the program's register 32: the lower half is compared first."""
    _, *numbers, argument, mask, wanted = condition
    place = 16 + 8 * argument
    return [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 7, numbers[column]),
        (_LOAD, 0, 0, place),
        (_AND, 0, 0, mask & 0xFFFFFFFF),
        (_EQUAL, 0, 4, wanted & 0xFFFFFFFF),
        (_LOAD, 0, 0, place + 4),
        (_AND, 0, 0, mask >> 32),
        (_EQUAL, 0, 1, wanted >> 32),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _numbers(table: str, column: int) -> dict[str, int]:
    rows = (row.split() for row in table.replace("\n", ",").split(",") if row.strip())
    return {row[0]: int(row[1 + column]) for row in rows if row[1 + column] != "-"}
