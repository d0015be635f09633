"""Processes: how one names itself to others of its machine, so that they can tell when it has died.

The name holds what tells machines, boots and process namespaces apart; a name from anywhere else says nothing.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_NOWHERE = "?"
_DIED = "died"


@cache
def _place() -> str:
    """This boot of this machine and this namespace of processes; Linux tells it, other systems do not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return _NOWHERE


def _began(pid: int) -> str | None:
    """When the process began, in the kernel's ticks: process ids are used again. `None` if it cannot be seen."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return _DIED if state in "ZX" else rest[18]


def _exists(pid: int) -> bool:
    """Whether there is a process of that id; those of other users may be hidden from /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def own_name() -> str:
    """What tells this process to others."""
    pid = os.getpid()
    return f"{_place()}/{pid}/{_began(pid)}"


def is_gone(name: str) -> bool:
    """Whether the process that called itself so has certainly died."""
    place, _, pid = name.rpartition("/")[0].rpartition("/")
    told = name.rpartition("/")[2]
    if place != _place() or place == _NOWHERE or not (pid.isdecimal() and len(pid) < 11):
        return False
    began = _began(int(pid))
    return not _exists(int(pid)) if began is None else began != told
