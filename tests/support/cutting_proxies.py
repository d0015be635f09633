"""Cutting proxies: TCP between a client and a server, cut off after so many bytes of answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit


@dataclass(slots=True)
class CuttingProxy:
    url: str
    cuts: int = 0


@contextmanager
def cutting_proxy(upstream: str, lengths: Iterable[int]) -> Iterator[CuttingProxy]:
    """Each new connection is cut after the next of `lengths` bytes; when there is no more, connections stay whole."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = CuttingProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threading.Thread(target=_serve, args=(listener, proxy, urlsplit(upstream), iter(lengths)), daemon=True).start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(listener: socket.socket, proxy: CuttingProxy, upstream: SplitResult, lengths: Iterator[int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        try:
            server = socket.create_connection((upstream.hostname, upstream.port))
        except OSError:
            client.close()
            continue
        left = next(lengths, None)
        threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
        threading.Thread(target=_pass_back, args=(server, client, left, proxy), daemon=True).start()


def _pass_on(client: socket.socket, server: socket.socket) -> None:
    with suppress(OSError):
        while data := client.recv(65536):
            server.sendall(data)
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)


def _pass_back(server: socket.socket, client: socket.socket, left: int | None, proxy: CuttingProxy) -> None:
    with server, client:
        with suppress(OSError):
            while data := server.recv(65536):
                if left is not None and len(data) >= left:
                    proxy.cuts += 1
                    client.sendall(data[:left])
                    break
                client.sendall(data)
                left = None if left is None else left - len(data)
        for end in (client, server):  # closing alone would wait for whoever reads
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
