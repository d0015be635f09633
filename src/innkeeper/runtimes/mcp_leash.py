"""What an MCP server's process begins as, so that it ends with this server however that one ends.

It is run by its path, imports nothing of Innkeeper, asks the kernel to be killed when its parent is, and becomes the
server that its arguments name: `mcp_leash.py PARENT_PID COMMAND ARGUMENT…`. Only Linux offers that; elsewhere a
server is started as it is, and learns from the end of its standard input that it is not needed any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit(1)  # it ended before the kernel knew
    try:
        os.execvp(command[0], command)  # noqa: S606 - there is to be no shell
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
