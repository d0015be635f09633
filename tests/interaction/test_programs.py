"""Programs as agents of a real server, over HTTP: what clients see of them, and that nothing of them is left behind."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.programs import CLAUDE, CODEX, GEMINI, KEPT, PYTHON, is_gone
from tests.support.servers import ServerFactory, ServerProcess

AGENTS = """
import os
from innkeeper import Program, register_agent

HERE = os.path.dirname(os.path.abspath(__file__))
PATH = f"{HERE}/bin:{os.environ['PATH']}"
PYTHON = %(python)r

def script(source):
    return [*PYTHON, "-c", source]

for name, arguments in (("claude", ()), ("codex", ()), ("gemini", ["--skip-trust"])):
    register_agent(name, Program.preset(name, *arguments, env={"PATH": PATH}))
register_agent("claude-kept", Program.preset("claude", kept=True, env={"PATH": PATH}))
register_agent("claude-typed", Program.preset("claude", terminal=True, env={"PATH": PATH}))
register_agent("kept", Program(script(open(f"{HERE}/kept_program.py").read()), output="jsonl", kept=True))
register_agent("cat", Program(["cat"], provider="coreutils", description="Repeats.", model="none"))
register_agent("environment", Program(script("import os; print(sorted(os.environ))"), env_names=["MINE"]))
register_agent("variable", Program(["printenv", "MINE"], env_names=["MINE"]))
register_agent("writer", Program(["sh", "-c", "cat notes.txt; cat >> notes.txt; echo new > made.txt"]))
WRITES = "while read line; do echo $line >> kept.txt; printf 'ok> '; done"
register_agent("kept-writer", Program(["sh", "-c", WRITES], kept=True, end="ok> "))
register_agent("failing", Program(["sh", "-c", "echo a secret >&2; exit 3"]))
register_agent("missing", Program(["there-is-no-such-program"], remedy="Buy it"))
register_agent("flood", Program(["yes"], max_output=2_000_000))
register_agent("tree", Program(script(open(f"{HERE}/tree.py").read())))
"""

TREE = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
    time.sleep(60)
with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as children:
    os.write(1, f"{os.getpid()} {children.read()}".encode())
time.sleep(60)
"""

SECRETS = {"API_KEY_SECRET": "x" * 32, "OPENAI_API_KEY": "x", "MINE": "the operator's"}


def written(folder: ServerFactory) -> Path:
    for name, source in (("claude", CLAUDE), ("codex", CODEX), ("gemini", GEMINI)):
        program = folder.write(
            f"bin/{name}", f'#!/bin/sh\nexec {" ".join(PYTHON)} {folder.folder}/bin/{name}.py "$@"\n'
        )
        program.chmod(0o755)
        folder.write(f"bin/{name}.py", source)
    folder.write("kept_program.py", KEPT)
    folder.write("tree.py", TREE)
    return folder.write("programs.py", AGENTS % {"python": PYTHON})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    factory = ServerFactory(tmp_path_factory.mktemp("programs"))
    written(factory)
    yield factory("programs.py", env={**SECRETS, "ENV_HEADERS": "MINE"})
    factory.close()


def ask(server: ServerProcess, agent: str, said: str, **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"agent_name": agent, "input": said, **more}
    return httpx2.post(f"{server.url}/chat", json=body, headers=headers, timeout=60, trust_env=False).json()


def frames(answer: httpx2.Response) -> Iterator[Any]:
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def test_programs_are_models_with_their_provider(server: ServerProcess) -> None:
    listed = httpx2.get(f"{server.url}/v1/models", trust_env=False).json()["data"]
    providers = {one["id"]: one["provider"] for one in listed}
    assert providers["claude"] == providers["claude-kept"] == "claude"
    assert (providers["codex"], providers["gemini"], providers["cat"]) == ("codex", "gemini", "coreutils")
    assert providers["failing"] == "program"


def test_what_a_program_does_is_streamed_as_events(server: ServerProcess) -> None:
    body = {"agent_name": "claude", "input": "hello"}
    with httpx2.stream("POST", f"{server.url}/chat/stream", json=body, timeout=60, trust_env=False) as answer:
        told = list(frames(answer))
    kinds = [one["type"] for one in told]
    assert [kind for kind in kinds if kind != "text"] == [
        "run",
        "reasoning",
        "tool_call",
        "tool_result",
        "usage",
        "done",
    ]
    assert told[-1]["output"] == "Let me look.\n\nYou said: hello"
    assert told[-1]["usage"] == {"input_tokens": 34, "output_tokens": 7, "total_tokens": 41}


@pytest.mark.parametrize("agent", ["claude", "codex", "gemini"])
def test_a_session_goes_on_with_the_programs_own_conversation(server: ServerProcess, agent: str) -> None:
    session = ask(server, agent, "one")["session_id"]
    assert ask(server, agent, "two", session_id=session)["output"].endswith("resumed You said: two")
    assert "User: one" in ask(server, "cat", "three", session_id=session)["output"]
    told = ask(server, agent, "four", session_id=session)["output"]
    assert "resumed" not in told.partition("User: one")[0], "it has not heard what another agent was told"
    assert told.endswith("User: four")


def test_a_process_is_kept_for_each_session_until_that_is_deleted(server: ServerProcess) -> None:
    answers = [ask(server, "kept", text, session_id="k1") for text in ("one", "two")]
    first, second = (json.loads(answer["output"]) for answer in answers)
    assert first["pid"] == second["pid"]
    assert second["heard"] == ["one", "two"]
    assert httpx2.delete(f"{server.url}/sessions/k1", trust_env=False).status_code == 204
    assert is_gone(first["pid"])


def test_claude_that_is_kept_answers_turn_by_turn(server: ServerProcess) -> None:
    answers = [ask(server, "claude-kept", text, session_id="k2")["output"] for text in ("one", "two")]
    assert answers == ["Let me look.\n\nYou said: one", "Let me look.\n\nYou said: two"]


def test_claude_in_a_terminal_goes_on_with_its_conversation(server: ServerProcess) -> None:
    answers = [ask(server, "claude-typed", text, session_id="k3")["output"] for text in ("one", "two")]
    assert answers == ["Let me look.\n\nYou said: one", "Let me look.\n\nresumed You said: two"]


def test_secrets_of_the_server_never_reach_a_program(server: ServerProcess) -> None:
    told = ask(server, "environment", "hi")["output"]
    assert "PATH" in told
    assert "MINE" in told
    for name in ("API_KEY_SECRET", "OPENAI_API_KEY", "INNKEEPER_DATA_DIR", "PYTHONPATH"):
        assert name not in told


def test_a_request_sets_a_variable_for_its_program(server: ServerProcess) -> None:
    assert ask(server, "variable", "hi")["output"] == SECRETS["MINE"]
    assert ask(server, "variable", "hi", headers={"X-Env-MINE": "the caller's"})["output"] == "the caller's"


@pytest.mark.parametrize("agent", ["failing", "missing", "flood"])
def test_a_program_that_fails_fails_its_run_and_only_the_log_says_why(server: ServerProcess, agent: str) -> None:
    error = ask(server, agent, "hi")["error"]
    assert error["code"] == "AGENT_FAILED"
    assert error["message"] == "The agent failed. The server's log has the reason."
    reasons = {
        "failing": "exit code 3. It wrote: a secret",
        "missing": "Buy it",
        "flood": "printed more than 2000000 bytes",
    }
    assert reasons[agent] in server.log


def test_a_missing_program_is_warned_of_at_the_start(server: ServerProcess) -> None:
    before_the_first_run = server.log.partition("failed:")[0]
    assert "there-is-no-such-program" in before_the_first_run


def test_files_that_a_program_writes_are_versions_in_its_sessions_workspace(server: ServerProcess) -> None:
    ask(server, "cat", "hi", session_id="w1")
    place = f"{server.url}/sessions/w1/workspace"
    httpx2.put(f"{place}/notes.txt", content=b"first\n", trust_env=False).raise_for_status()
    assert ask(server, "writer", "second", session_id="w1", history="replace")["output"] == "first"
    assert httpx2.get(f"{place}/notes.txt", trust_env=False).text.startswith("first\n")
    listed = httpx2.get(place, trust_env=False).json()
    assert {one["path"]: one["version_count"] for one in listed} == {"made.txt": 1, "notes.txt": 2}


def test_files_of_a_program_that_is_kept_are_versions_after_each_turn(server: ServerProcess) -> None:
    place = f"{server.url}/sessions/w2/workspace/kept.txt"
    for text, written in (("one", "one\n"), ("two", "one\ntwo\n")):
        assert ask(server, "kept-writer", text, session_id="w2")["output"] == ""
        assert httpx2.get(place, trust_env=False).text == written


def begun(server: ServerProcess) -> tuple[list[int], str, httpx2.Client]:
    """A run of `tree` under way: its processes, its id, and the client that reads along."""
    client = httpx2.Client(timeout=60, trust_env=False)
    body = {"agent_name": "tree", "input": "hi", "on_disconnect": "cancel"}
    answer = client.send(client.build_request("POST", f"{server.url}/chat/stream", json=body), stream=True)
    run_id, said = "", ""
    for frame in frames(answer):
        run_id = frame.get("run_id") or run_id
        said += frame.get("content", "")
        if said:
            break
    pids = [int(word) for word in said.split()]
    assert len(pids) > 1
    return pids, run_id, client


linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of grandchildren that hide")


@linux
@pytest.mark.parametrize("end", ["cancel", "disconnect"])
def test_all_that_a_program_has_started_ends_with_its_run(server: ServerProcess, end: str) -> None:
    pids, run_id, client = begun(server)
    if end == "cancel":
        httpx2.post(f"{server.url}/runs/{run_id}/cancel", trust_env=False).raise_for_status()
    client.close()
    assert all(map(is_gone, pids))


@linux
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_all_that_a_program_has_started_ends_with_the_server(
    innkeeper_server: ServerFactory, end: signal.Signals
) -> None:
    written(innkeeper_server)
    server = innkeeper_server("programs.py", env={"INNKEEPER_DRAIN_SECONDS": "0"})
    pids, _, client = begun(server)
    pids.append(json.loads(ask(server, "kept", "one")["output"])["pid"])
    server.send_signal(end)
    server.wait()
    assert all(map(is_gone, pids))
    client.close()
