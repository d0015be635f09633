"""Several processes that serve one port count as one server, whichever of them is asked and whichever is killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2

from tests.cli.conftest import Folder
from tests.support.scrapes import Scrape, scraped_until
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
import asyncio
import os
from innkeeper import register_agent

def counting(messages):
    return str(os.getpid())

async def staying(messages):
    yield f"{os.getpid()}\\n"
    await asyncio.sleep(600)

register_agent("counting", counting)
register_agent("staying", staying)
"""


def start(factory: ServerFactory, database: str, temporary: Path) -> ServerProcess:
    temporary.mkdir()
    env = {"DATABASE_URL": database, "TMPDIR": str(temporary), "INNKEEPER_DRAIN_SECONDS": "1"}
    assert Folder(factory.folder).run("migrate", env=env).code == 0
    factory.write("mine.py", AGENTS)
    command = [sys.executable, "-m", "innkeeper", "serve", "mine.py", "--port", "{port}", "--workers", "2"]
    server = factory.start(command, env=env)
    server.wait_for_log(r"Workers (2) processes\n")
    return server


def turns(server: ServerProcess, until: set[int]) -> tuple[int, set[int]]:
    """So many turns, on connections of their own, until as many processes have answered besides those of `until`."""
    count, processes = 0, set[int]()
    while len(processes - until) < 2 - len(until):
        answer = httpx2.post(f"{server.url}/chat", json={"input": "Hi"}, timeout=20, trust_env=False)
        count, processes = count + 1, processes | {int(answer.json()["output"])}
    return count, processes


def completed(told: Scrape) -> float:
    return told.get("innkeeper_runs_total", agent="counting", status="completed")


def scrapes(server: ServerProcess, number: int) -> list[Scrape]:
    """Scrapes on connections of their own, so that any process may answer."""
    answers = [httpx2.get(f"{server.url}/metrics", timeout=20, trust_env=False) for _ in range(number)]
    return [Scrape(answer.text) for answer in answers]


def test_every_process_tells_the_figures_of_all_and_none_is_lost_with_its_process(
    innkeeper_server: ServerFactory, postgres_database: str, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    server = start(innkeeper_server, postgres_database, temporary)
    made, processes = turns(server, set())
    for told in scrapes(server, 20):
        assert completed(told) == told.get("innkeeper_run_duration_seconds_count", agent="counting") == made
        assert told.get("innkeeper_workers") == 2
        assert told.values("process_resident_memory_bytes", "worker") == {"1", "2"}
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as http:
        body = {"agent_name": "staying", "input": "Hi"}
        with http.stream("POST", "/chat/stream", json=body) as stream:
            lines = stream.iter_lines()  # which ends the response when nobody holds it any more
            victim = int(_text(lines))
            for told in scrapes(server, 10):
                assert told.get("innkeeper_runs_active", state="running") == 1
                assert told.get("innkeeper_streams_open", kind="sse") == 1
            os.kill(victim, signal.SIGKILL)
            server.wait_for_log(r"(killed by SIGKILL)")
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as http:
        told = scraped_until(http, lambda one: one.get("innkeeper_runs_total", agent="staying") == 1, timeout=30)
        assert told.get("innkeeper_runs_total", agent="staying", status="interrupted") == 1
        assert told.get("innkeeper_runs_active") == told.get("innkeeper_streams_open") == 0
        assert completed(told) == made
    more, _ = turns(server, processes - {victim})
    assert {completed(told) for told in scrapes(server, 10)} == {made + more}
    assert server.terminate(timeout=15) == 0
    assert "Traceback" not in server.log
    assert list(temporary.iterdir()) == []


def _text(lines: Iterator[str]) -> str:
    """What the first frame with text says."""
    frame = next(line for line in lines if '"type":"text"' in line)
    return str(json.loads(frame.removeprefix("data: "))["content"])
