"""A port that is given up: who has got through to it is known, and who has not is turned away."""

from __future__ import annotations

import socket
import sys

import pytest

from innkeeper.cli.listeners import listen_on, take, turn_away, waiting
from innkeeper.core.errors import SetupError


def connect(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname(), timeout=0.3)


def test_a_port_that_is_taken_refuses_until_it_is_listened_on() -> None:
    with take("127.0.0.1", 0) as listener:
        with pytest.raises(ConnectionRefusedError):
            connect(listener)
        listen_on([listener])
        connect(listener).close()


def test_a_port_that_somebody_listens_on_cannot_be_taken() -> None:
    with take("127.0.0.1", 0) as listener:
        listen_on([listener])
        with pytest.raises(SetupError, match=r"Port \d+ is in use"):
            take("127.0.0.1", listener.getsockname()[1])


def test_connections_that_nobody_has_taken_are_found_in_order_and_only_once() -> None:
    with take("127.0.0.1", 0) as listener:
        listen_on([listener])
        clients = [connect(listener) for _ in range(5)]
        found = waiting(listener)
        assert [one.getpeername() for one in found] == [one.getsockname() for one in clients]
        assert waiting(listener) == []
        for one in (*clients, *found):
            one.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can turn connections away before they begin")
def test_who_is_turned_away_is_never_connected_while_others_go_on() -> None:
    with take("127.0.0.1", 0) as listener:
        listen_on([listener])
        with connect(listener) as before:
            turn_away(listener)
            with pytest.raises(TimeoutError):
                connect(listener)
            (found,) = waiting(listener)
            with found:
                before.sendall(b"Hello")
                assert found.recv(5) == b"Hello"
