"""Measures commands: how long one takes to and fro, with `?wait`, beyond what a plain route costs.

`python -m bench.commands [--quick]`; PostgreSQL is measured where it can be had. Each round asks a plain route and
then has a command executed, so that both meet the same moments of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.events import Connection, stores
from bench.reports import Figure, with_section
from bench.servers import ROOT, Server

SECTION = "Commands"
_WARM_UP = 20
_BODY: dict[str, Any] = {"command_type": "DummyEngineCommand", "parameters": {"prompt": "Hello, world!"}}


async def round_trips(port: int, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a plain route, and of a command until its end."""
    connection = await Connection.open(port)
    session_id = await connection.new_session()
    plain, commands = list[float](), list[float]()
    for _ in range(times + _WARM_UP):
        began = time.monotonic()
        await connection.ask("GET", "/health")
        between = time.monotonic()
        await connection.ask("POST", f"/api/sessions/{session_id}/commands?wait=10", _BODY)
        commands.append((time.monotonic() - between) * 1e3)
        plain.append((between - began) * 1e3)
        await asyncio.sleep(0.002)
    connection.close()
    return plain[_WARM_UP:], commands[_WARM_UP:]


def measure(times: int, scratch: Path) -> list[Figure]:
    figures = list[Figure]()
    command = [sys.executable, "-m", "innkeeper", "serve", "bench/product.py", "--port", "{port}"]
    with stores() as found:
        for name, environment in found:
            with Server(command, scratch, {"INNKEEPER_DATA_DIR": str(scratch / name), **environment}) as server:
                print(f"Commands, {name} ...", flush=True)
                plain, commands = uvloop.run(round_trips(server.port, times))
            beyond = median(commands) - median(plain)
            figures += [
                Figure(f"plain route, {name}, median", "ms", None, median(plain)),
                Figure(f"command with `?wait`, {name}, median", "ms", None, median(commands)),
                Figure(f"beyond the plain route, {name}, median", "ms", None, beyond, at_most=5.0),
                Figure(f"command with `?wait`, {name}, p99", "ms", None, sorted(commands)[len(commands) * 99 // 100]),
            ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.commands", description="Measure commands.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    try:
        figures = measure(100 if options.quick else 1000, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    circumstances = (
        f"- `python -m bench.commands`; a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end"
    )
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(results.read_text(), SECTION, figures, [circumstances])
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
