"""Listeners: the socket that a server serves, from taking it to giving it up.

It is taken before anything heavy is loaded, so that a port in use is told at once and by name, and refuses connections
until somebody can answer them, so that a balancer goes elsewhere. Giving it up loses nobody who has got through to it:
what the system has accepted would be reset with the socket, so it is served first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from innkeeper.core.errors import SetupError

FIRST_HANDED = 3
"""The descriptor at which sockets are handed over, by systemd's custom."""

_LISTENING = "0A"
_BACKLOG = 2048

_TCP_NOTSENT_LOWAT = 25
_UNSENT_BYTES = 128 * 1024
"""What the system keeps for a client beyond what is on its way; it would be megabytes for one that does not read."""

_SO_ATTACH_FILTER = 26
_NEWCOMERS_ONLY = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # of these SYN and ACK
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else keep it
)
"""A classic BPF program, as its instructions: code, jump if true, jump if false, operand."""


def take(host: str, port: int) -> socket.socket:
    """A socket that holds `host` and `port`, and does not listen yet; port 0 is any that is free.

    A socket for them that this process was handed, by its predecessor or by systemd, may listen already.

    Raises: SetupError that names the port, who holds it, and the remedy.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise SetupError(f"The address {host!r} is unknown ({error.strerror}). Choose another with --host.") from error
    if (handed := _handed(address[0], port)) is not None:
        return handed
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _refused(error, host, port) from error
    listener.setblocking(False)
    return listener


def _handed(host: object, port: int) -> socket.socket | None:
    """The one socket that was handed to this process, if it is for that address."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    with contextlib.suppress(OSError):
        listener = socket.socket(fileno=FIRST_HANDED)
        held = listener.getsockname()
        if listener.type == socket.SOCK_STREAM and held[0] == host and port in (0, held[1]):
            os.set_inheritable(listener.fileno(), False)
            listener.setblocking(False)
            return listener
        listener.close()
    return None


def _bound_buffers(listener: socket.socket) -> None:
    """For all connections that will be taken there."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def listen_on(listeners: Iterable[socket.socket]) -> None:
    """Take connections from now on.

    Raises: SetupError if somebody else has begun to listen there meanwhile.
    """
    for listener in listeners:
        _bound_buffers(listener)
        try:
            listener.listen(_BACKLOG)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise _refused(error, host, port) from error


def keep_from_forks(sockets: Sequence[socket.socket]) -> None:
    """Processes that agents fork close these: else one that outlives the server would keep its port."""

    def close() -> None:
        for one in sockets:
            if (descriptor := one.fileno()) != -1:
                os.close(descriptor)

    os.register_at_fork(after_in_child=close)


def turn_away(listener: socket.socket) -> None:
    """Let no further connection begin, for a moment before `listener` is closed everywhere; those begun get through.

    Without this, whoever comes between the last accept and the close would be connected and then reset. Now it tries
    again a second later, as TCP does by itself, and is refused, which tells a balancer to go elsewhere. On systems
    other than Linux it does nothing.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _NEWCOMERS_ONLY))
    handle = struct.pack("HL", len(_NEWCOMERS_ONLY), ctypes.addressof(program))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, handle)


def waiting(listener: socket.socket) -> list[socket.socket]:
    """The connections that the system has accepted on `listener` and nobody has taken yet."""
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = listener.accept()
        except ConnectionError:
            continue  # it has left while it waited
        except OSError:
            return found
        connection.setblocking(False)
        found.append(connection)


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
