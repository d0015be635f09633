"""The process between the server and a program: it starts the program, and leaves nothing of it behind.

It is run by its path, imports nothing of Innkeeper, and reads nothing of what the program says. Whatever the program
starts and abandons becomes a child of this process (on Linux), so that it is found and ended, in whatever session or
process group it hides. The descriptor that it is told of leads to the server: anything read there is a wish to end the
program, and its end means that the server is gone. Invariant: it ends after everything that the program has started.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import sys
import termios
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 2.0
_LAST_SECONDS = 5.0
_STARTED = b"0"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def main() -> None:
    """`CONTROL pipe|terminal COMMAND…`; its exit code is the program's, or 128 and the number of a signal."""
    control, is_terminal, command = int(sys.argv[1]), sys.argv[2] == "terminal", sys.argv[3:]
    os.set_inheritable(control, False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    awake = _on_children()
    child, reason = _start(command, is_terminal)
    with contextlib.suppress(OSError):
        os.write(control, reason or _STARTED)
    _let_go_of_streams()
    code = _watched(child, control, awake)
    _end_all(child)
    os._exit(code)


def _on_children() -> int:
    """A descriptor that can be read once a child has ended."""
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    return awake


def _start(command: list[str], is_terminal: bool) -> tuple[int, bytes]:
    """The program's process, and the number of the error for which there is none."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        number = 0
        try:
            _become(command, is_terminal)
        except OSError as error:
            number = error.errno or 0
        finally:
            os.write(tell, str(number).encode())
            os._exit(127)
    os.close(tell)
    reason = os.read(told, 16)
    os.close(told)
    return child, reason


def _become(command: list[str], is_terminal: bool) -> None:
    os.setsid()
    if is_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (*_IGNORED, signal.SIGCHLD, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _let_go_of_streams() -> None:
    """What only the program and its children hold ends when they close it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _watched(child: int, control: int, awake: int) -> int:
    """The exit code of the program, once it has ended, or must."""
    deadline: float | None = None
    while True:
        patience = None if deadline is None else max(deadline - time.monotonic(), 0)
        readable = select.select([control, awake], [], [], patience)[0]
        if awake in readable:
            os.read(awake, 4096)
        code = _reaped(child)
        if code is not None:
            return code
        if control in readable:
            if not _word(control):
                return 128 + signal.SIGKILL
            if deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
                _signal_all(child, signal.SIGTERM)
        elif deadline is not None and time.monotonic() >= deadline:
            return 128 + signal.SIGKILL


def _word(control: int) -> bytes:
    try:
        return os.read(control, 64)
    except OSError:
        return b""


def _reaped(child: int) -> int | None:
    """Whatever has ended is buried; the exit code of `child` if it was among them."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                ended = os.waitstatus_to_exitcode(status)
                code = ended if ended >= 0 else 128 - ended
    return code


def _end_all(child: int) -> None:
    deadline = time.monotonic() + _LAST_SECONDS
    while _signal_all(child, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(0.005)
        _reaped(child)
    _reaped(child)


def _signal_all(child: int, number: int) -> int:
    """Signal everything that the program has started, and say how many they were."""
    found = _below(os.getpid())
    if found is None:  # no /proc: what stayed in the program's group is all that can be found
        try:
            os.killpg(child, number)
        except (ProcessLookupError, PermissionError):
            return 0
        return 1
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return len(found)


def _below(root: int) -> list[int] | None:
    """The processes that descend from `root` and have not ended; `None` where the system does not tell."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - it costs no import
    except OSError:
        return None
    children: dict[int, list[tuple[int, str]]] = {}
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - it costs no import
                state, parent = stat.read().rpartition(b")")[2].decode().split()[:2]
            children.setdefault(int(parent), []).append((pid, state))
    if not children:
        return None
    found, todo = [], [root]
    while todo:
        for pid, state in children.get(todo.pop(), ()):
            todo.append(pid)
            if state not in "ZX":
                found.append(pid)
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main()
