"""Measures what tokens, rates, figures and credits add to a request: the same routes with all of it, and without.

`python -m bench.access [--quick]`. The apps live in this process and are called without sockets, in short rounds that
alternate: two servers of the same program differ by more than what is to be measured. What is quoted is processor time
of the whole process a request, its committing thread included, in the quietest tenth of each app's rounds, because
whatever else the machine does only ever adds to it. A second app without anything tells how far that can be trusted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.clients import CHAT, chat_body
from bench.reports import Figure, with_section
from bench.servers import ROOT
from innkeeper import ServerBase, TokenManager, pricing
from innkeeper.config import load_settings

SECTION = "Authentication, limits and metering"
ROUTES: Mapping[str, tuple[str, str, bytes]] = {
    "a plain route (`GET /agents`)": ("GET", "/agents", b""),
    "a turn (`POST /v1/chat/completions`)": ("POST", CHAT, chat_body("instant").encode()),
}
MOST = 60.0
AT_ONCE, IN_A_ROUND = 16, 160
_OPEN: dict[str, Any] = {"auth_enabled": False, "enable_metrics": False}
_GUARDED: dict[str, Any] = {
    "force_auth": True,
    "rate_limit_user": "999999999/day",
    "enable_metrics": True,
    "max_runs_per_caller": 1000,
}


async def instant(messages: list[dict[str, Any]]) -> str:
    return "Hello! How can I help you today?"


@pricing(credits_per_request=0.001)
async def priced(messages: list[dict[str, Any]]) -> str:
    return "Hello! How can I help you today?"


@dataclass(slots=True)
class Side:
    """One of the apps, and the microseconds of a request of each round, by route."""

    app: ServerBase
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    rounds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ROUTES})

    def quietest(self, route: str) -> float:
        """The first decile."""
        return sorted(self.rounds[route])[len(self.rounds[route]) // 10]

    async def measure(self, route: str) -> None:
        async def ask_in_turn() -> None:
            for _ in range(IN_A_ROUND // AT_ONCE):
                await self._ask(*ROUTES[route])

        gc.collect()
        before = time.process_time()
        await asyncio.gather(*(ask_in_turn() for _ in range(AT_ONCE)))
        await asyncio.sleep(0.01)  # for what is done behind the answers
        self.rounds[route].append((time.process_time() - before) / IN_A_ROUND * 1e6)

    async def _ask(self, method: str, path: str, body: bytes) -> None:
        pending = [{"type": "http.request", "body": body, "more_body": False}]
        statuses = []

        async def receive() -> dict[str, Any]:
            return pending.pop() if pending else await asyncio.Future()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"), *self.headers]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 5000), "server": ("127.0.0.1", 8000), "state": {},
        }  # fmt: skip
        await self.app(scope, receive, send)
        if statuses != [200]:
            raise RuntimeError(f"{method} {path}: {statuses}")


async def _side(stack: AsyncExitStack, folder: Path, agent: Any, options: dict[str, Any], *, is_guarded: bool) -> Side:
    settings = load_settings({"data_dir": folder, **options})
    app = ServerBase(settings=settings)
    app.agent("instant")(agent)
    await stack.enter_async_context(app.router.lifespan_context(app))
    if not is_guarded:
        return Side(app)
    async with TokenManager.open(settings) as tokens:
        token = (await tokens.create("bench", "user")).text
    return Side(app, [(b"authorization", f"Bearer {token}".encode())])


async def measure(rounds: int, scratch: Path) -> list[Figure]:
    async with AsyncExitStack() as stack:
        without = await _side(stack, scratch / "without", instant, _OPEN, is_guarded=False)
        with_all = await _side(stack, scratch / "with", priced, _GUARDED, is_guarded=True)
        again = await _side(stack, scratch / "again", instant, _OPEN, is_guarded=False)
        sides = [without, with_all, again]
        for number in range(-3, rounds):
            for side in sides if number % 2 else reversed(sides):
                for route in ROUTES:
                    await side.measure(route)
            if number == -1:
                for side in sides:
                    side.rounds = {name: [] for name in ROUTES}
            elif number >= 0 and not number % 25:
                print(f"{number} of {rounds} rounds ...", flush=True)
    figures = []
    for name in ROUTES:
        base = without.quietest(name)
        figures += [
            Figure(f"{name}, without", "µs", None, base),
            Figure(f"{name}, with all", "µs", None, with_all.quietest(name)),
            Figure(f"{name}, added", "µs", None, with_all.quietest(name) - base, at_most=MOST),
            Figure(f"{name}, a second app without, added", "µs", None, again.quietest(name) - base),
        ]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.access", description="Measure what guarding a request adds.")
    parser.add_argument("--quick", action="store_true", help="RESULTS.md is left as it is")
    options = parser.parse_args()
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    rounds = 20 if options.quick else 200
    try:
        figures = asyncio.run(measure(rounds, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    told = [
        "- With: a token in each request, `FORCE_AUTH=true`, a rate that is counted and never reached, metrics, and an",
        "  agent with `@pricing`. Without: `AGENT_AUTH_ENABLED=false`, no rates, `ENABLE_METRICS=false`, no price.",
        "- `python -m bench.access`: processor time of one process in which the apps are called in turn, a request,"
        " SQLite,",
        f"  the first decile of {rounds} rounds of {IN_A_ROUND} requests, {AT_ONCE} at a time;"
        f" a load of {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end",
    ]
    results = ROOT / "bench" / "RESULTS.md"
    text = with_section(results.read_text(), SECTION, figures, told)
    print(text[text.index(f"## {SECTION}") :])
    if not options.quick:
        results.write_text(text)


if __name__ == "__main__":
    main()
