"""Listeners: the socket that a server will serve, taken before anything heavy is loaded, so that a port in use is
told at once and by name."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from innkeeper.core.errors import SetupError

_LISTENING = "0A"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`; port 0 is any that is free.

    Raises: SetupError that names the port, who holds it, and the remedy.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise SetupError(f"The address {host!r} is unknown ({error.strerror}). Choose another with --host.") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _refused(error, host, port) from error
    listener.setblocking(False)
    return listener


def _refused(error: OSError, host: str, port: int) -> SetupError:
    if error.errno == errno.EADDRINUSE:
        holder = _holder(port)
        by = f" by process {holder}" if holder else ""
        return SetupError(f"Port {port} is in use{by}. Stop that, or choose another port with --port.")
    if error.errno == errno.EACCES:
        return SetupError(f"Port {port} needs more rights than this user has. Choose one above 1023 with --port.")
    if error.errno == errno.EADDRNOTAVAIL:
        return SetupError(f"{host} is no address of this machine. Choose another with --host.")
    return SetupError(f"Listening on {host}:{port} failed: {error.strerror}.")


def _holder(port: int) -> str | None:
    """The process that listens on `port`, as far as this system and this user's rights tell."""
    links = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not links:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            held = {str(link.readlink()) for link in (folder / "fd").iterdir()}
        except OSError:
            continue
        if links & held:
            return f"{folder.name} ({_name(folder)})"
    return None


def _inodes(port: int) -> set[str]:
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for cells in map(str.split, lines):
            if cells[3] == _LISTENING and int(cells[1].rpartition(":")[2], 16) == port:
                found.add(cells[9])
    return found


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "unknown"
