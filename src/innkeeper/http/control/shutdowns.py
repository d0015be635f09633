"""Shutdowns: how a server is told to stop by one of its own requests, as gracefully as SIGTERM would.

`innkeeper serve` says how (`House.stop`). Where uvicorn was started by other means, it is told as far down as it takes.
In a process that is no server's own, such as a program with a test client in it, there is no way: the signal would
end the program.
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


def _stop_of_uvicorn() -> Callable[[], None] | None:
    """What ends the uvicorn that heeds signals in this process, if one does."""
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if not any(_package_of(base) == "uvicorn" for base in type(server).__mro__):
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
