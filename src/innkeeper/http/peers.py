"""Peers: whose program is at the other end of a connection from this machine.

On a machine with several users, whoever can open a socket to a loopback address is not yet the one who runs the server.
Linux tells the user of a socket: asked for exactly one by netlink, or, where that is not to be had, in the table of
/proc. Where neither can tell, the peer is nobody we know. Other systems tell nothing, and there it is not asked.
Invariant: a socket that nobody holds any more has no owner; the system would call it root's.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = 1
_EVERY_STATE = 0xFFFFFFFF
_LISTENING = 10
_ANSWER_SIZE = 16 + 72
_PATIENCE_SECONDS = 0.2
_REMEMBERED = 4096

Address = IPv4Address | IPv6Address


class Peers:
    """Tells whether a peer's socket belongs to the user of this process, once for each connection.

    A server gives each request of a connection the same tuple, so that the tuple stands for the connection.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[Any, bool]] = OrderedDict()

    def is_ours(self, client: Any, server: Any) -> bool:
        """Whether the process at `client`, connected to `server` here, is run by the user who runs this one."""
        if sys.platform != "linux":
            return True
        key = id(client)
        known = self._known.get(key)
        if known is not None and known[0] is client:
            return known[1]
        is_ours = owner_of(client, server) == os.geteuid()
        self._known[key] = (client, is_ours)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return is_ours


def owner_of(client: Any, server: Any) -> int | None:
    """The user id of the socket that is bound to `client` and connected to `server`, both (address, port)."""
    try:
        local, remote = _plain(client[0]), _plain(server[0])
        ports = int(client[1]), int(server[1])
    except (ValueError, TypeError, IndexError):
        return None
    try:
        return _asked(local, ports[0], remote, ports[1])
    except OSError:
        return _looked_up(local, ports[0], remote, ports[1])


def _plain(address: str) -> Address:
    """An address as the connection itself has it: IPv4 where that is written as IPv6."""
    found = ip_address(address)
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def _asked(local: Address, local_port: int, remote: Address, remote_port: int) -> int | None:
    """Ask the kernel for the one socket. Raises: OSError if it does not answer such questions here."""
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    ends = struct.pack("!HH16s16s", local_port, remote_port, local.packed, remote.packed)
    anywhere = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    asked = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _EVERY_STATE) + ends + anywhere
    head = struct.pack("=IHHII", 16 + len(asked), _SOCK_DIAG_BY_FAMILY, _REQUEST, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(_PATIENCE_SECONDS)
        kernel.sendto(head + asked, (0, 0))
        answer = kernel.recv(4096)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _ANSWER_SIZE:
        return None
    state = answer[17]
    found_ports = struct.unpack_from("!HH", answer, 20)
    user, inode = struct.unpack_from("=II", answer, 80)
    is_it = state != _LISTENING and found_ports == (local_port, remote_port) and inode != 0
    return int(user) if is_it else None


def _looked_up(local: Address, local_port: int, remote: Address, remote_port: int) -> int | None:
    wanted = {
        f"{_cell(one[0], mapped=mapped)}:{one[1]:04X} {_cell(two[0], mapped=mapped)}:{two[1]:04X}"
        for one, two in [((local, local_port), (remote, remote_port))]
        for mapped in (False, True)
    }
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for cells in map(str.split, lines):
            if f"{cells[1]} {cells[2]}" in wanted and cells[9] != "0":
                return int(cells[7])
    return None


def _cell(address: Address, *, mapped: bool) -> str:
    """An address as /proc/net writes it: in words of four bytes, each as this machine keeps a number."""
    packed = address.packed
    if mapped and address.version == 4:
        packed = b"\x00" * 10 + b"\xff\xff" + packed
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))
