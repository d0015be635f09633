"""Tools of MCP servers that an agent declares: real servers, over stdio and HTTP, used over our own HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import AgentFailed
from innkeeper.core.events import ToolReturned
from innkeeper.runtimes.declared import DeclaredRuntime
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.testing.runtimes import play
from tests.support.inns import UNCOUNTED
from tests.support.servers import ServerFactory, ServerProcess, serve_app
from tests.support.sizes import IS_FULL

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
BARE = ["-I", "-S", str(ROOT / "tests/support/mcp_bare.py")]
TESTER = [sys.executable, "-m", "tests.support.mcp_server"]


def over_stdio(**options: Any) -> Json:
    """The test's server, as a process of ours."""
    env = {"PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return {"name": "t", "command": TESTER[0], "args": TESTER[1:], "env": env, **options}


def bare(what: str = "", **options: Any) -> Json:
    """A server that starts at once, and does wrong what is asked."""
    return {"name": "t", "command": sys.executable, "args": [*BARE, what], **options}


@contextmanager
def an_agent(data_dir: Path, servers: Any, **options: Any) -> Iterator[httpx2.Client]:
    """A client of a server whose agents are `a`, with these MCP servers, and `echo`."""
    app = ServerBase(settings=load_settings({"data_dir": data_dir, **UNCOUNTED}))
    app.agent("a")(Agent("a", "test", mcp_servers=servers, **options))

    @app.agent("echo")
    async def echo(messages: list[Json]) -> str:
        return "still here"

    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield client


def events(http: httpx2.Client, said: str, **fields: Any) -> list[Json]:
    """What a run tells."""
    answer = http.post("/chat/stream", json={"agent_name": "a", "input": said, **fields})
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def result(http: httpx2.Client, said: str) -> Json:
    """How the one call of a tool came out that a run makes."""
    (told,) = [event for event in events(http, said) if event["type"] == "tool_result"]
    return told


@pytest.fixture
def tester(innkeeper_server: ServerFactory) -> ServerProcess:
    """The test's server over HTTP."""
    return innkeeper_server.start([*TESTER, "http", "{port}"], env={"PYTHONPATH": str(ROOT)})


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or nobody has asked yet how it ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def eventually(holds: Callable[[], bool], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@dataclass
class Shared:
    """A server for several tests, whose MCP server keeps a journal."""

    http: httpx2.Client
    journal: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("data")
    journal = folder / "journal"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "open-sesame")
        patch.setenv("SOMETHING_ELSE", "of the server")
        with an_agent(folder, [over_stdio(env={"OWN_TOKEN": "given", "MCP_JOURNAL": str(journal)})]) as http:
            yield Shared(http, journal)


def check_tools(http: httpx2.Client) -> None:
    assert result(http, 'call t_add {"a": 1, "b": 2}')["result"] == 3
    assert result(http, 'call t_forecast {"city": "Bonn"}')["result"] == {"city": "Bonn", "degrees": 21}
    words, image = result(http, "call t_picture {}")["result"]
    assert (words, image["media_type"]) == ("a pixel", "image/png")
    assert "valid integer" in result(http, 'call t_add {"a": "x", "b": 2}')["error"]
    refused = events(http, "call t_refuse {}")
    assert ["the shop is closed" in event["error"] for event in refused if event["type"] == "tool_result"] == [True]
    assert refused[-1]["status"] == "completed"
    assert "the shop is closed" in refused[-1]["output"]


def test_tools_of_a_process_are_called_and_their_results_told(shared: Shared) -> None:
    check_tools(shared.http)


@pytest.mark.parametrize("isolated", [False, True])
def test_tools_over_http_are_called_and_their_results_told(
    tmp_path: Path, tester: ServerProcess, isolated: bool
) -> None:
    with an_agent(tmp_path, {"t": {"url": f"{tester.url}/mcp"}}, isolated=isolated) as http:
        check_tools(http)


def test_a_process_gets_its_own_environment_and_no_more(shared: Shared) -> None:
    told = json.loads(result(shared.http, "call t_environment {}")["result"].removeprefix("environment "))
    harmless = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
    assert set(told) - harmless - {"LC_CTYPE"} == {"OWN_TOKEN", "PYTHONPATH", "MCP_JOURNAL"}
    assert told["OWN_TOKEN"] == "given"
    assert told.get("HOME") == os.environ.get("HOME")


def test_a_run_that_is_cancelled_cancels_its_call(shared: Shared) -> None:
    http, journal = shared.http, shared.journal
    run = http.post("/chat", json={"agent_name": "a", "input": "call t_hang {}", "background": True}).json()
    assert eventually(lambda: journal.exists() and "hanging" in journal.read_text(), 30)
    http.post(f"/runs/{run['run_id']}/cancel")
    assert http.get(f"/runs/{run['run_id']}", params={"wait": 20}).json()["status"] == "cancelled"
    assert eventually(lambda: "cancelled" in journal.read_text())
    assert result(http, 'call t_add {"a": 1, "b": 2}')["result"] == 3
    assert journal.read_text().count("pid") == 1


def test_a_connection_serves_many_runs_and_is_made_again_when_it_broke(tmp_path: Path) -> None:
    with an_agent(tmp_path, [bare()]) as http:
        first, second = (result(http, "call t_process {}")["result"].split() for _ in range(2))
        assert (first[1], second[1]) == (second[1], first[1])
        assert (first[3], second[3]) == ("1", "2")
        os.kill(int(first[1]), signal.SIGKILL)
        third = result(http, "call t_process {}")["result"].split()
        assert third[1] != first[1]
        assert result(http, "call t_leave {}")["error"]
        fourth = result(http, "call t_process {}")["result"].split()
        assert fourth[1] != third[1]
    assert eventually(lambda: all(has_ended(int(one[1])) for one in (first, third, fourth)))


def test_a_server_over_http_may_be_restarted(tmp_path: Path, tester: ServerProcess) -> None:
    with an_agent(tmp_path, [{"name": "t", "url": f"{tester.url}/mcp"}]) as http:
        first = result(http, "call t_process {}")["result"]
        tester.kill()
        down = http.post("/chat", json={"agent_name": "a", "input": "call t_process {}"})
        assert (down.status_code, down.json()["error"]["code"]) == (500, "AGENT_FAILED")
        tester.start()
        assert result(http, "call t_process {}")["result"].split()[1] != first.split()[1]


@pytest.mark.parametrize(
    "server",
    [
        {"name": "broken", "command": "no-such-program-anywhere"},
        {"name": "broken", "command": "/no/such/program"},
        {"name": "broken", "command": sys.executable, "args": ["-c", "raise SystemExit(3)"]},
        {"name": "broken", "command": "cat"},
        {"name": "broken", "url": "http://127.0.0.1:9/mcp"},
        {"name": "broken", "command": TESTER[0], "args": [*TESTER[1:], "slow"], "env": {"PYTHONPATH": str(ROOT)}},
    ],
)
def test_a_server_that_cannot_be_used_fails_the_run_and_is_named_in_the_log(
    tmp_path: Path, server: Json, caplog: pytest.LogCaptureFixture
) -> None:
    with an_agent(tmp_path, [{**server, "start_timeout": 0.7}]) as http, caplog.at_level(logging.ERROR):
        answer = http.post("/chat", json={"agent_name": "a", "input": "Hello"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED")
        assert "The MCP server 'broken' of the agent 'a' cannot be used" in caplog.text
        assert http.post("/chat", json={"agent_name": "echo", "input": "Hello"}).json()["output"] == "still here"


def with_a_server_that_is(wrong: str) -> DeclaredRuntime:
    return DeclaredRuntime(Agent("a", "test", mcp_servers=[bare(wrong)]), "a", RuntimeSettings(environment=os.environ))


@pytest.mark.parametrize("wrong", ["no-object", "no-schema"])
async def test_a_server_that_offers_what_are_no_tools_fails_the_run_and_is_named(
    wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = with_a_server_that_is(wrong)
    with pytest.raises(AgentFailed, match="The MCP server 't' cannot be used"):
        await play(runtime, "call t_process {}")
    assert "The MCP server 't' of the agent 'a' cannot be used: 1 validation error" in caplog.text
    await runtime.close()


@pytest.mark.parametrize("wrong", ["cyclic", "noise", "output", "endless"])
async def test_a_server_that_lies_does_no_harm(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    runtime = with_a_server_that_is(wrong)
    told = [event for event in await play(runtime, "call t_process {}") if isinstance(event, ToolReturned)]
    assert [event.error is None for event in told] == [wrong != "output"]
    assert "Traceback" not in caplog.text
    await runtime.close()


async def test_what_a_server_logs_is_one_line_that_names_it(caplog: pytest.LogCaptureFixture) -> None:
    runtime = with_a_server_that_is("logs")
    with caplog.at_level(logging.DEBUG):
        await play(runtime, "call t_process {}")
    (record,) = [record for record in caplog.records if "Fire!" in record.getMessage()]
    assert (record.name.split(".")[0], record.levelname) == ("innkeeper", "WARNING")
    assert record.getMessage() == "The MCP server 't' logs: " + r'"Fire!\n\u001b[31mRUN"'
    await runtime.close()


async def test_the_client_tells_no_ids_of_sessions_at_servers(caplog: pytest.LogCaptureFixture) -> None:
    runtime = with_a_server_that_is("")
    await play(runtime, "Hello")  # the client has been imported, and set up
    with caplog.at_level(logging.DEBUG):
        assert not logging.getLogger("mcp.client.streamable_http").isEnabledFor(logging.INFO)
    await runtime.close()


def test_only_allowed_tools_are_offered_and_their_names_do_not_clash(tmp_path: Path) -> None:
    def add(a: int, b: int) -> str:
        """Adds, in its own way."""
        return f"{a}{b}"

    servers = {"mcpServers": {"one": over_stdio(name="one", allowed_tools=["add"])}}
    with an_agent(tmp_path, servers, tools=[add]) as http:
        both = events(http, 'call add {"a": 1, "b": 2}\ncall one_add {"a": 1, "b": 2}')
        assert {event["tool_name"]: event["result"] for event in both if event["type"] == "tool_result"} == {
            "add": "12",
            "one_add": 3,
        }
        unknown = events(http, "call one_process {}")
        assert not [event for event in unknown if event["type"] == "tool_result" and event.get("result")]


def test_a_call_that_needs_approval_waits_for_it(tmp_path: Path) -> None:
    with an_agent(tmp_path, [over_stdio(approval=["add"])]) as http:
        paused = events(http, 'call t_add {"a": 1, "b": 2}\ncall t_process {}')
        (asked,) = [event for event in paused if event["type"] == "requires_action"]
        assert [action["name"] for action in asked["actions"]] == ["t_add"]
        assert [event["tool_name"] for event in paused if event["type"] == "tool_result"] in ([], ["t_process"])
        decided = {asked["actions"][0]["id"]: "approve"}
        answers = [{"id": action_id, "decision": decision} for action_id, decision in decided.items()]
        answer = http.post(f"/runs/{asked['run_id']}/resume", json={"answers": answers})
        assert answer.status_code == 200, answer.text
        assert "t_add returned 3" in answer.json()["output"]


AGENT = """
import sys
from innkeeper import Agent, ServerBase

app = ServerBase()
server = {{"name": "t", "command": {command!r}, "args": {args!r}}}
app.agent("a")(Agent("a", "test", mcp_servers=[server]))
"""


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGKILL"] if IS_FULL else ["SIGKILL"])
def test_the_processes_of_servers_end_with_ours(innkeeper_server: ServerFactory, ending: str) -> None:
    if ending == "SIGKILL" and sys.platform != "linux":
        pytest.skip("only Linux ends the children of who is killed")
    arguments = [*BARE, *(["stubborn"] if ending == "SIGKILL" else [])]
    innkeeper_server.write("agents.py", AGENT.format(command=sys.executable, args=arguments))
    server = innkeeper_server("agents.py")
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as http:
        pid = int(result(http, "call t_process {}")["result"].split()[1])
    assert not has_ended(pid)
    if ending == "SIGTERM":
        assert server.terminate() == 0
        assert "Traceback" not in server.log
    else:
        os.kill(server.pid, signal.SIGKILL)
    assert eventually(lambda: has_ended(pid), 5)


async def test_agents_of_pydantic_ai_bring_their_own_servers(tmp_path: Path) -> None:
    import pydantic_ai
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    from innkeeper.runtimes.scripted import scripted_model

    transport = StdioTransport(TESTER[0], TESTER[1:], env={"PYTHONPATH": str(ROOT)}, keep_alive=False)
    app = ServerBase(settings=load_settings({"data_dir": tmp_path, **UNCOUNTED}))
    app.agent("a")(pydantic_ai.Agent(scripted_model(), toolsets=[MCPToolset(transport, init_timeout=30)]))
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=60, trust_env=False) as http:
        told = await asyncio.to_thread(result, http, 'call add {"a": 1, "b": 2}')
        assert told["result"] == 3


def test_no_request_brings_servers_of_its_own(tmp_path: Path) -> None:
    with an_agent(tmp_path, []) as http:
        asked = {"model": "a", "messages": [{"role": "user", "content": "Hello"}], "mcp_servers": ["http://x/mcp"]}
        answer = http.post("/v1/chat/completions", json=asked)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
