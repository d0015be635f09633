"""Measures what tokens, rates, figures and credits add to a request: the same routes with all of it, and without.

`python -m bench.access [--quick]`. Both servers run all the time; the load is on one of them at a time, in short rounds
that alternate. What is quoted is processor time of the whole server process a request, and the median of the rounds'
differences.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.clients import CHAT, chat_body
from bench.reports import Figure, with_section
from bench.servers import ROOT, Server, on_uvicorn
from innkeeper import TokenManager
from innkeeper.config import load_settings

SECTION = "Authentication, limits and metering"
ROUTES: Mapping[str, tuple[str, str]] = {
    "a plain route (`GET /agents`)": ("/agents", ""),
    "a turn (`POST /v1/chat/completions`)": (CHAT, chat_body("instant")),
}
APP = on_uvicorn("bench.priced:app")
MOST = 60.0
_RATE = "999999999/day"
GUARDED = {
    "FORCE_AUTH": "true",
    "RATE_LIMIT_USER": _RATE,
    "ENABLE_METRICS": "true",
    "MAX_RUNS_PER_CALLER": "1000",
    "BENCH_PRICED": "yes",
}
OPEN = {"AGENT_AUTH_ENABLED": "false", "ENABLE_METRICS": "false", "BENCH_PRICED": ""}


@dataclass(slots=True)
class Side:
    """One of the servers, and the microseconds of a request of each round."""

    server: Server
    headers: tuple[str, ...] = ()
    rounds: list[float] = field(default_factory=list)

    def measure(self, path: str, body: str, seconds: float) -> None:
        command = [sys.executable, "-m", "bench.load", "--port", str(self.server.port), "--path", path]
        command += ["--body", body, "--connections", "16", "--seconds", str(seconds)]
        for header in self.headers:
            command += ["--header", header]
        before = self.server.cpu_seconds()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        if result["failure"]:
            raise RuntimeError(f"{path}: {result['failure']}\n{done.stderr}{self.server.log[-4000:]}")
        self.rounds.append((self.server.cpu_seconds() - before) / result["total"] * 1e6)


async def _a_token(folder: Path) -> str:
    async with TokenManager.open(load_settings({"data_dir": folder})) as tokens:
        return (await tokens.create("bench", "user")).text


def measure(rounds: int, seconds: float, scratch: Path) -> list[Figure]:
    guarded_folder = scratch / "guarded"
    token = asyncio.run(_a_token(guarded_folder))
    figures = []
    with (
        Server(APP, scratch, {**OPEN, "INNKEEPER_DATA_DIR": str(scratch / "open")}) as plain,
        Server(APP, scratch, {**GUARDED, "INNKEEPER_DATA_DIR": str(guarded_folder)}) as guarded,
    ):
        for name, (path, body) in ROUTES.items():
            print(f"{name} ...", flush=True)
            without, with_all = Side(plain), Side(guarded, (f"authorization: Bearer {token}",))
            for number in range(-1, rounds):
                for side in (without, with_all) if number % 2 else (with_all, without):
                    side.measure(path, body, seconds)
                if number < 0:
                    without.rounds.clear()
                    with_all.rounds.clear()
            added = [one - other for one, other in zip(with_all.rounds, without.rounds, strict=True)]
            figures += [
                Figure(f"{name}, without", "µs", None, median(without.rounds)),
                Figure(f"{name}, with all", "µs", None, median(with_all.rounds)),
                Figure(f"{name}, added", "µs", None, median(added), at_most=MOST),
            ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.access", description="Measure what guarding a request adds.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    rounds, seconds = (7, 0.5) if options.quick else (40, 0.5)
    try:
        figures = measure(rounds, seconds, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    told = [
        "- With: a token in each request, `FORCE_AUTH=true`, a rate that is counted and never reached, metrics, and an",
        "  agent with `@pricing`. Without: `AGENT_AUTH_ENABLED=false`, no rates, `ENABLE_METRICS=false`, no price.",
        f"- `python -m bench.access`: processor time of the server a request, SQLite, {rounds} rounds of {seconds:g} s",
        "  a side that alternate, 16 connections;"
        f" a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end",
    ]
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(results.read_text(), SECTION, figures, told)
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
