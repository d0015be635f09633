"""A server that is told to end while clients wait for code of theirs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.cli.conftest import ECHO, Folder
from tests.support.servers import ServerFactory
from tests.support.sizes import within

SOURCE = "import time\ndef tool(seconds):\n    time.sleep(seconds)\n    return seconds"


def test_calls_of_tools_end_in_time_or_are_answered(innkeeper_server: ServerFactory) -> None:
    pytest.importorskip("pydantic_monty")
    innkeeper_server.write("mine.py", ECHO)
    env = {"CODE_EXECUTION": "monty", "INNKEEPER_DRAIN_SECONDS": "2"}
    server = innkeeper_server("mine.py", env=env)
    token = Folder(innkeeper_server.folder).run("tokens", "create", "--scope", "code", env=env).output.strip()
    headers = {"authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60) as http, ThreadPoolExecutor(6) as threads:
        http.post("/api/sessions", json={"session_id": "s"}).raise_for_status()
        tool = {"name": "tool", "parameters": {"seconds": {}}, "function_code": SOURCE}
        http.post("/api/sessions/s/tools", json=tool).raise_for_status()

        def execute(seconds: float) -> httpx2.Response:
            return http.post("/api/sessions/s/tools/tool/execute", json={"arguments": {"seconds": seconds}})

        execute(0).raise_for_status()
        asked = [threads.submit(execute, seconds) for seconds in (1.5, 9, 9, 9)]  # as many as the sandbox has places
        time.sleep(0.7)
        waits = threads.submit(execute, 9)
        time.sleep(0.3)
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < within(6, 25)
        answers = [one.result() for one in (*asked, waits)]
    assert answers[0].json()["result"] == 1.5
    for answer in answers[1:4]:
        told = answer.json()["error"]
        assert (answer.status_code, told["code"]) == (422, "COMMAND_EXECUTION_FAILED")
        assert told["details"] == {"reason": "interrupted"}
    assert answers[4].status_code in (422, 503)
