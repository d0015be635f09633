"""Peers: a program of another user of this machine is a stranger."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from innkeeper.http import peers
from innkeeper.http.peers import Peers, owner_of
from tests.support.inns import Inn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell whose a socket is")

ASK = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
with socket.socket() as client:
    client.connect((b"127.0.0.1", int(sys.argv[1])))  # as bytes, because the codec for names is out of reach now
    client.sendall(b"GET /sessions HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
    print(client.recv(100).split()[1].decode())
"""


@contextmanager
def connected(host: str, *, over: str | None = None) -> Iterator[tuple[Any, Any, socket.socket]]:
    """Both ends of a connection as the server sees them, and the client's socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::") as listener,
        socket.create_connection((over or host, listener.getsockname()[1])) as client,
    ):
        connection, address = listener.accept()
        with connection:
            yield address[:2], connection.getsockname()[:2], client


@pytest.mark.parametrize(("host", "over"), [("127.0.0.1", None), ("::1", None), ("::", "127.0.0.1")])
@pytest.mark.parametrize("is_asked", [True, False], ids=["netlink", "proc"])
def test_the_system_tells_whose_a_socket_is(
    host: str, over: str | None, is_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_asked:
        monkeypatch.setattr(peers, "_NETLINK_SOCK_DIAG", 31)  # a protocol that there is not
    with connected(host, over=over) as (client, server, _):
        assert owner_of(client, server) == os.geteuid()
        assert owner_of(client, (server[0], 1)) is None
        assert owner_of((client[0], 1), server) is None


@pytest.mark.parametrize("is_asked", [True, False], ids=["netlink", "proc"])
def test_socket_that_nobody_holds_any_more_has_no_owner(is_asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_asked:
        monkeypatch.setattr(peers, "_NETLINK_SOCK_DIAG", 31)
    with connected("127.0.0.1") as (client, server, held):
        held.close()
        assert owner_of(client, server) is None


def test_what_cannot_be_a_connection_has_no_owner() -> None:
    for client in (("testclient", 1), ("", 0), (), ("127.0.0.1", "x"), None):
        assert owner_of(client, ("127.0.0.1", 8000)) is None
        assert not Peers().is_ours(client, ("127.0.0.1", 8000))


def test_a_connection_is_asked_about_once() -> None:
    known = Peers()
    with connected("127.0.0.1") as (client, server, held):
        assert known.is_ours(client, server)
        held.close()
        assert known.is_ours(client, server)
        assert not known.is_ours((*client,)[:1] + client[1:], server), "another tuple is another connection"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_of_this_machine_needs_a_token(inn: Inn) -> None:
    def asked(user: int) -> str:
        command = [sys.executable, "-I", "-S", "-c", ASK, inn.url.rpartition(":")[2], str(user)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()

    assert asked(0) == "200"
    assert asked(65534) == "401"
