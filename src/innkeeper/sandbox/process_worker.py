"""The worker of the process sandbox: it forks a process for each check and each call, and tells how each one ended.

It runs inside of the bubble, as its first process, and speaks with the server over a socket of packets. It never
touches source code itself: that goes over a stream of its own to the fork, which has let go of everything else.
Not imported by the server; standard library only.
Invariant: a fork runs no line of a client's before its limits and its seccomp program are in force.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from innkeeper.sandbox import process_calls, system_calls

_LIKELY = (
    *("asyncio", "base64", "bisect", "calendar", "collections", "copy", "csv", "dataclasses", "datetime", "decimal"),
    *("difflib", "enum", "fractions", "functools", "hashlib", "heapq", "html", "inspect", "io", "itertools", "json"),
    *("math", "operator", "pprint", "random", "re", "secrets", "statistics", "string", "textwrap", "time", "typing"),
    *("unicodedata", "urllib.parse", "uuid"),
)
"""Modules that code is likely to import: a fork finds them loaded."""

_FILES = 64
_STACK = 8 * 1024 * 1024
_PROCESS_CPU_TIME = 2
_SET_SECCOMP, _FILTER = 22, 2


def main(control: int) -> None:
    os.environ.clear()
    for name in _LIKELY:
        __import__(name)
    machine = os.uname().machine
    libc = ctypes.CDLL(None, use_errno=True)
    walls = _Walls(libc, machine)
    sys.argv[:] = [""]
    gc.collect()
    gc.freeze()
    worker = _Worker(socket.socket(fileno=_lowered(control)), walls)
    worker.serve()


def _lowered(control: int) -> int:
    """The same socket under the lowest number: a fork lets go of the low ones, and a busy server has high ones."""
    lowered = os.dup(control)
    os.close(control)
    return lowered


class _Worker:
    """What was forked, by the number that the server gave it."""

    def __init__(self, control: socket.socket, walls: _Walls) -> None:
        self._control = control
        self._walls = walls
        self._selector = selectors.DefaultSelector()
        self._pids: dict[int, int] = {}

    def serve(self) -> NoReturn:
        self._selector.register(self._control, selectors.EVENT_READ)
        os.dup2(0, 2)  # standard error told the server why this could not start; from here on it is nowhere
        self._tell({"ready": True})
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    self._obey()
                else:
                    self._bury(key.fd, key.data)

    def _obey(self) -> None:
        packet, descriptors, _, _ = socket.recv_fds(self._control, 4096, 1)
        if not packet:
            os._exit(0)  # the server is gone; the forks end with this process
        order = json.loads(packet)
        if "end" in order:
            if pid := self._pids.get(order["end"]):
                os.kill(pid, signal.SIGKILL)
        else:
            self._fork(order["fork"], order["limits"], descriptors[0])

    def _fork(self, number: int, limits: Mapping[str, Any], channel: int) -> None:
        try:
            pid = os.fork()
        except OSError:
            os.close(channel)
            self._tell({"ended": number, "status": -1, "cpu": 0})
            return
        if pid == 0:
            self._live(limits, channel)
        os.close(channel)
        self._pids[number] = pid
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, number)

    def _live(self, limits: Mapping[str, Any], channel: int) -> NoReturn:
        try:
            self._control.detach()
            os.dup2(channel, process_calls.CHANNEL)
            os.closerange(process_calls.CHANNEL + 1, _FILES * 8)
            self._walls.put_up(limits)
            process_calls.answer(limits)
        finally:
            os._exit(1)

    def _bury(self, pidfd: int, number: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        _, status, used = os.wait4(self._pids.pop(number), 0)
        self._tell({"ended": number, "status": status, "cpu": used.ru_utime + used.ru_stime})

    def _tell(self, message: dict[str, object]) -> None:
        self._control.send(json.dumps(message).encode())


class _Walls:
    """What confines a fork: everything is looked up and built before there is one."""

    def __init__(self, libc: ctypes.CDLL, machine: str) -> None:
        self._libc = libc
        libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
        self._create = system_calls.number(machine, "timer_create")
        self._set = system_calls.number(machine, "timer_settime")
        instructions = system_calls.program(machine, forks=False)
        self._instructions = ctypes.create_string_buffer(instructions, len(instructions))
        place = ctypes.addressof(self._instructions)
        self._program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions) // 8, place))

    def put_up(self, limits: Mapping[str, Any]) -> None:
        os.nice(5)
        self._end_after(limits["cpu_seconds"])
        seconds = math.ceil(limits["cpu_seconds"]) + 1
        _bound(resource.RLIMIT_CPU, seconds)
        for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK):
            _bound(limit, 0)
        _bound(resource.RLIMIT_NOFILE, _FILES)
        _bound(resource.RLIMIT_STACK, _STACK)
        _bound(resource.RLIMIT_AS, limits["memory"])
        if self._libc.prctl(_SET_SECCOMP, _FILTER, self._program, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")

    def _end_after(self, seconds: float) -> None:
        """SIGKILL by a timer, as RLIMIT_CPU counts whole seconds and begins with a signal that can be ignored."""
        event = ctypes.create_string_buffer(struct.pack("=QiiQ", 0, signal.SIGKILL, 0, 0), 64)
        timer = ctypes.c_int()
        whole, part = int(seconds), int(seconds % 1 * 1e9)
        when = ctypes.create_string_buffer(struct.pack("@llll", 0, 0, whole, max(part, 0 if whole else 1)))
        created = self._libc.syscall(self._create, ctypes.c_long(_PROCESS_CPU_TIME), event, ctypes.byref(timer))
        if created != 0 or self._libc.syscall(self._set, timer, ctypes.c_long(0), when, None) != 0:
            raise OSError(ctypes.get_errno(), "timer")


def _bound(limit: int, most: int) -> None:
    allowed = resource.getrlimit(limit)[1]
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(limit, (most, most))
