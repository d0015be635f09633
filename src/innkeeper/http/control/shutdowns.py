"""Shutdowns: how a server is told to stop by one of its own requests, as gracefully as SIGTERM would; or at once; or to
begin anew.

`innkeeper serve` says how (`House.stop`, `House.kill`, `House.restart`). Where uvicorn was started by other means, it
is told as far down as it takes. In a process that is no server's own, such as a program with a test client in it, there
is no way: the signal would end the program.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial

from innkeeper.http.deps import House


def find_stop(house: House) -> Callable[[], None] | None:
    """What stops the server of this house; `None` where that is not ours to do."""
    return house.stop or _stop_of_uvicorn()


def find_restart(house: House) -> Callable[[], None] | None:
    """What begins the server of this house anew; `None` where nobody here can."""
    return house.restart or _of_our_server("restart")


def find_kill(house: House) -> Callable[[], None] | None:
    """What ends the server of this house at once; `None` where that is not ours to do."""
    if (kill := house.kill or _of_our_server("kill")) is not None:
        return kill
    # What a foreign parent has started it would start again.
    is_alone = _uvicorn() is not None and multiprocessing.parent_process() is None
    return partial(os.kill, os.getpid(), signal.SIGKILL) if is_alone else None


def _of_our_server(what: str) -> Callable[[], None] | None:
    """What `innkeeper serve` has said of an app in which another app holds this house."""
    found = getattr(_uvicorn(), what, None)
    return found if callable(found) else None


def _uvicorn() -> object | None:
    """The uvicorn that heeds signals in this process, or what is made of one."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if any(_package_of(base) == "uvicorn" for base in type(server).__mro__) else None


def _stop_of_uvicorn() -> Callable[[], None] | None:
    """What ends the uvicorn that heeds signals in this process, if one does."""
    server = _uvicorn()
    if server is None:
        return None
    keeper = multiprocessing.parent_process()
    work = getattr(multiprocessing.current_process(), "_target", None)
    if keeper is not None and keeper.pid and _package_of(getattr(work, "func", work)) in ("uvicorn", "innkeeper"):
        # Under --workers and --reload another process would take the place of this one.
        return partial(os.kill, keeper.pid, signal.SIGTERM)
    if _package_of(type(server)) == "uvicorn":
        # After a signal it would end itself by that signal, and not with 0.
        return partial(setattr, server, "should_exit", True)
    return partial(os.kill, os.getpid(), signal.SIGTERM)


def _package_of(thing: object) -> str:
    return str(getattr(thing, "__module__", "")).partition(".")[0]
