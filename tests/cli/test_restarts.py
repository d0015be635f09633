"""`POST /restart`, `POST /kill` and `POST /agent/initialize`, where the server is a process of its own, or several."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import Folder
from tests.cli.test_shutdown import ASGI, INNKEEPER, MOUNTED, SLOW, UVICORN, an_admin, ask, is_gone, processes_of
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import within

AGENT = "import answers\nfrom innkeeper import register_agent\nregister_agent('one', lambda messages: answers.TEXT)\n"


THEIRS = """import pickle, typing, notes
from innkeeper import register_agent
def theirs(messages):
    return f"{pickle.loads(pickle.dumps(notes.NOTE))} {typing.get_type_hints(notes.Note)}"
register_agent("theirs", theirs)
"""
NOTES = """from __future__ import annotations
from dataclasses import dataclass
@dataclass
class Note:
    other: Note | None = None
NOTE = Note()
"""
HOLDING = """import os, socket
from innkeeper import register_agent
HELD = socket.create_server(("127.0.0.1", 0))
HELD.set_inheritable(True)
def links(messages):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return " ".join(found)
register_agent("held", lambda messages: os.readlink(f"/proc/self/fd/{HELD.fileno()}"))
register_agent("open", links)
"""


LATE = """import os, signal, socket
from innkeeper.cli.restarts import Restart
print("began", flush=True)
successor = Restart(socket.create_server(("127.0.0.1", 0)))
successor.is_asked = True
signal.signal(signal.SIGTERM, lambda *_: successor.give_up())
os.chdir = lambda path: os.kill(os.getpid(), signal.SIGTERM)
successor.depart(0)
"""


def post(server: ServerProcess, path: str, admin: dict[str, str], **more: object) -> httpx2.Response:
    return httpx2.post(f"{server.url}{path}", headers=admin, timeout=60, trust_env=False, **more)  # type: ignore[arg-type]


def audited(server: ServerProcess, admin: dict[str, str]) -> list[str]:
    url = f"{server.url}/api/v1/platform/audit"
    return [one["action"] for one in httpx2.get(url, headers=admin, trust_env=False).json()["entries"]]


def test_a_restart_lets_runs_end_keeps_the_process_and_refuses_no_connection(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", SLOW)
    server = innkeeper_server("mine.py")
    admin = an_admin(innkeeper_server)
    process, is_over = ask(server, "process").json()["output"], threading.Event()

    def knock() -> int:
        failures = 0
        while not is_over.wait(0.02):
            try:
                assert httpx2.get(f"{server.url}/live", timeout=60, trust_env=False).status_code == 200
            except httpx2.ConnectError:
                failures += 1
        return failures

    with ThreadPoolExecutor() as pool:
        knocking = pool.submit(knock)
        answer = pool.submit(ask, server, "slow")
        server.wait_for_log("(began)")
        innkeeper_server.write("mine.py", SLOW.replace("whole", "new and whole"))
        told = post(server, "/restart", admin)
        assert (told.status_code, told.json()) == (202, {"status": "restarting"})
        assert answer.result().json()["output"] == "the whole answer"
        assert ask(server, "slow").json()["output"] == "the new and whole answer"
        assert ask(server, "process").json()["output"] == process
        is_over.set()
        refused = knocking.result()
    assert refused == 0
    assert server.log.count("listens at") == 2
    assert audited(server, admin)[0] == "server.restart"
    assert server.terminate(timeout=20) == 0
    assert "Traceback" not in server.log


def test_a_server_within_another_app_is_restarted_and_sigterm_has_the_last_word(
    innkeeper_server: ServerFactory,
) -> None:
    innkeeper_server.write("mine.py", SLOW.replace("0.8", "2.5"))
    innkeeper_server.write("mounted.py", MOUNTED)
    server = innkeeper_server.start([*INNKEEPER, "mounted.py", "--port", "{port}"], readiness="/inn/live")
    admin = an_admin(innkeeper_server)
    assert post(server, "/inn/restart", admin).status_code == 202
    while server.log.count("listens at") < 2:
        time.sleep(0.05)
    with ThreadPoolExecutor() as pool:
        pool.submit(ask, server, "slow", "/inn")
        server.wait_for_log("(began)")
        assert post(server, "/inn/restart", admin).status_code == 202
        time.sleep(0.2)  # it drains
        server.send_signal(signal.SIGTERM)
        assert server.wait() == 0
    assert server.log.count("listens at") == 2


def test_a_kill_ends_the_process_at_once_and_its_run_is_told_after_the_next_start(
    innkeeper_server: ServerFactory,
) -> None:
    innkeeper_server.write("mine.py", SLOW.replace("0.8", "30"))
    server = innkeeper_server("mine.py")
    admin = an_admin(innkeeper_server)
    with ThreadPoolExecutor() as pool:
        cut = pool.submit(ask, server, "slow")
        server.wait_for_log("(began)")
        began = time.monotonic()
        told = post(server, "/kill", admin)
        assert (told.status_code, told.json()) == (202, {"status": "killing"})
        assert server.wait() == -signal.SIGKILL
        assert time.monotonic() - began < within(5, 20)
        with pytest.raises(httpx2.TransportError):
            cut.result()
    server.restart()
    assert audited(server, admin)[0] == "server.kill"
    runs = httpx2.get(f"{server.url}/runs?agent_name=slow", headers=admin, trust_env=False).json()["runs"]
    assert [run["status"] for run in runs] == ["interrupted"]


def test_several_processes_are_restarted_one_after_the_other_initialized_together_and_killed_at_once(
    innkeeper_server: ServerFactory, postgres_database: str
) -> None:
    env = {"DATABASE_URL": postgres_database}
    agent = "import os, answers\nfrom innkeeper import register_agent\n"
    agent += "register_agent('process', lambda messages: f'{os.getpid()}{answers.TEXT}')\n"
    innkeeper_server.write("mine.py", agent)
    innkeeper_server.write("answers.py", "TEXT = '1'\n")
    assert Folder(innkeeper_server.folder).run("migrate", env=env).code == 0
    server = innkeeper_server.start([*INNKEEPER, "mine.py", "--port", "{port}", "--workers", "2"], env=env)
    server.wait_for_log(r"Workers (2) processes\n")
    admin = an_admin(innkeeper_server, env)
    before = {one // 10 for one in processes_of(server, 2)}
    innkeeper_server.write("answers.py", "TEXT = '22'\n")
    assert post(server, "/agent/initialize", admin).status_code == 200
    deadline = time.monotonic() + 20
    while (told := {ask(server, "process").json()["output"] for _ in range(8)}) != {f"{one}22" for one in before}:
        assert time.monotonic() < deadline, f"{told} is not every process, and none ended"
    innkeeper_server.write("answers.py", "TEXT = ''\n")
    assert post(server, "/restart", admin).status_code == 202
    deadline = time.monotonic() + 60
    while not before.isdisjoint(after := processes_of(server, 2)) or not all(map(is_gone, before)):
        assert time.monotonic() < deadline
    assert "ended" not in server.log
    assert post(server, "/kill", admin).status_code == 202
    assert server.wait() == 137
    assert all(map(is_gone, after))


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "two"])
def test_under_another_server_a_restart_names_the_remedy(
    innkeeper_server: ServerFactory, postgres_database: str, options: list[str]
) -> None:
    env = {**ASGI, "DATABASE_URL": postgres_database}
    innkeeper_server.write("mine.py", SLOW)
    assert Folder(innkeeper_server.folder).run("migrate", env=env).code == 0
    server = innkeeper_server.start([*UVICORN, "innkeeper.main:app", "--port", "{port}", *options], env=env)
    admin = an_admin(innkeeper_server, env)
    refused = post(server, "/restart", admin)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "SERVER_NOT_OURS")
    assert "whoever started it has to restart it" in refused.json()["detail"]
    killed = post(server, "/kill", admin)
    assert killed.status_code == (409 if options else 202)
    assert options or server.wait() == -signal.SIGKILL


def test_a_changed_file_and_what_it_imports_are_served_and_a_broken_one_is_not(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", AGENT)
    innkeeper_server.write("answers.py", "TEXT = 'first'\n")
    innkeeper_server.write("agents/poet.yaml", "model: test\ninstructions: Old.\n")
    server = innkeeper_server.start([*INNKEEPER, "mine.py", "poet", "--port", "{port}"])
    admin = an_admin(innkeeper_server)

    def answer() -> str:
        return str(ask(server, "one").json()["output"])

    assert answer() == "first"
    innkeeper_server.write("answers.py", "TEXT = 'the second'\n")
    assert answer() == "first", "nothing is loaded unasked"
    assert post(server, "/agent/initialize", admin).json()["name"] == "one"
    assert answer() == "the second"
    for broken in ("TEXT = \n", "import nowhere_to_be_found\n", "raise RuntimeError('a fault of mine')\n"):
        innkeeper_server.write("answers.py", broken)
        refused = post(server, "/agent/initialize", admin)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "AGENT_NOT_INITIALIZED")
        assert "answers.py" in refused.json()["detail"]
        assert answer() == "the second"
    innkeeper_server.write("mine.py", AGENT.replace("'one'", "'renamed'"))
    innkeeper_server.write("answers.py", "TEXT = 'once more'\n")
    assert "offers no agent 'one' any more" in post(server, "/agent/initialize", admin).json()["detail"]
    innkeeper_server.write("mine.py", AGENT)
    asked = {"input": "x", "agent_name": "one"}
    headers = {**admin, "AGENT_REINITIALIZE": "true"}
    assert post(server, "/chat", headers, json=asked).json()["output"] == "once more"
    innkeeper_server.write("agents/poet.yaml", "model: test\ninstructions: Quite new.\n")
    assert post(server, "/agent/initialize", admin, json={"agent_name": "poet"}).status_code == 200
    prompts = httpx2.get(f"{server.url}/prompts", headers=admin, trust_env=False).json()["prompts"]
    assert [one["instructions"] for one in prompts] == ["Quite new."]
    assert "Traceback" not in server.log


def test_an_agent_that_is_made_anew_leaves_the_others_their_modules(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", AGENT)
    innkeeper_server.write("answers.py", "TEXT = 'first'\n")
    innkeeper_server.write("theirs.py", THEIRS)
    innkeeper_server.write("notes.py", NOTES)
    server = innkeeper_server.start([*INNKEEPER, "mine.py", "theirs.py", "--port", "{port}"])
    admin = an_admin(innkeeper_server)
    told = ask(server, "theirs").json()["output"]
    innkeeper_server.write("answers.py", "TEXT = 'second'\n")
    assert post(server, "/agent/initialize", admin, json={"agent_name": "one"}).status_code == 200
    assert ask(server, "one").json()["output"] == "second"
    assert ask(server, "theirs").json()["output"] == told
    innkeeper_server.write("notes.py", NOTES.replace("Note()", "Note(Note())"))
    assert post(server, "/agent/initialize", admin, json={"agent_name": "theirs"}).status_code == 200
    assert ask(server, "theirs").json()["output"] == told.replace("None)", "Note(other=None))", 1)


def test_what_a_library_left_open_is_not_handed_to_the_successor(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", HOLDING)
    server = innkeeper_server("mine.py")
    admin = an_admin(innkeeper_server)
    held = ask(server, "held").json()["output"]
    assert held.startswith("socket:")
    assert post(server, "/restart", admin).status_code == 202
    while server.log.count("listens at") < 2:
        time.sleep(0.05)
    assert held not in ask(server, "open").json()["output"]


def test_a_server_that_is_ending_promises_no_restart(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", SLOW)
    server = innkeeper_server("mine.py")
    admin = an_admin(innkeeper_server)
    clients = [httpx2.Client(base_url=server.url, headers=admin, trust_env=False) for _ in range(2)]
    with ThreadPoolExecutor() as pool, clients[0] as watching, clients[1] as asking:
        assert watching.get("/live").status_code == asking.get("/live").status_code == 200
        pool.submit(ask, server, "slow")
        server.wait_for_log("(began)")
        server.send_signal(signal.SIGTERM)
        while watching.get("/ready").status_code == 200:
            pass
        refused = asking.post("/restart")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "SHUTTING_DOWN")
    assert server.wait(timeout=20) == 0
    assert server.log.count("listens at") == 1


def test_a_signal_that_comes_in_the_last_moment_ends_the_process_and_no_successor_serves(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    ended = subprocess.run([sys.executable, "late.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "began\n", "")


def test_the_operators_document_is_obeyed_word_for_word(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("my_agent.py", SLOW)
    words = ["my_agent", "-p", "{port}", "-t", "0.2", "-m", "100", "--allowed-modes", "chat", "health"]
    server = innkeeper_server.start([*INNKEEPER, *words])
    paths = {"/agents": 200, "/health": 200, "/status": 200, "/agent/info": 404, "/prompts": 404, "/logs": 404}
    assert {path: httpx2.get(f"{server.url}{path}", trust_env=False).status_code for path in paths} == paths
