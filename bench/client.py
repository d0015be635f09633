"""Measures the Python client: what importing it takes, and what a call costs beside the same bare httpx2 request.

`python -m bench.client [--quick]`. The server is a thread that answers with bytes it has ready, so that nothing but the
client's own work differs.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from statistics import median

import httpx2

from bench.reports import Figure, with_section
from bench.servers import ROOT
from innkeeper_client import ChatServerClient

SECTION = "The Python client"
MOST_IMPORT_MS = 150
BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "echo",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
ASKED = {"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}


def _answer(connection: socket.socket) -> None:
    with connection:
        data = b""
        while more := connection.recv(65536):
            data += more
            top, _, body = data.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            if len(body) >= length:
                connection.sendall(ANSWER)
                data = b""


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _each(call: Callable[[], object], times: int) -> float:
    """Processor time of this process for one call, in µs, the answering thread's included."""
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times * 1e6


def calls(rounds: int, times: int) -> list[Figure]:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx2.Client() as bare, ChatServerClient(base_url=url) as client:
        plain = lambda: bare.post(f"{url}/v1/chat/completions", json=ASKED).json()  # noqa: E731
        whole = lambda: client.create_completion("echo", ["Hello"])  # noqa: E731
        _each(plain, times), _each(whole, times)
        pairs = [(_each(plain, times), _each(whole, times)) for _ in range(rounds)]
    return [
        Figure("a call, bare httpx2", "µs", None, median(one for one, _ in pairs)),
        Figure("a call, `create_completion`", "µs", None, median(other for _, other in pairs)),
        Figure("added by the client", "µs", None, median(other - one for one, other in pairs)),
    ]


def _import_ms() -> float:
    """As `python -X importtime` tells it, from bytecode."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-X", "importtime", "-c", "import innkeeper.client"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "src", env=environment).stderr
    return int(told.splitlines()[-1].split("|")[1]) / 1000


def imports(rounds: int) -> list[Figure]:
    _import_ms()
    found = median(_import_ms() for _ in range(rounds))
    return [Figure("`import innkeeper.client`", "ms", None, found, at_most=MOST_IMPORT_MS)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.client", description="Measure the Python client.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    options = parser.parse_args()
    rounds, times = (5, 200) if options.quick else (15, 1000)
    figures = [*imports(rounds), *calls(rounds, times)]
    told = [
        f"- `python -m bench.client`: medians of {rounds} rounds of {times} calls that alternate, processor time of",
        "  client and answering thread together;"
        f" a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end",
    ]
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(results.read_text(), SECTION, figures, told)
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
