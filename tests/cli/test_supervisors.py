"""Several processes on one port: they live and end together, and one that ends is replaced.

What they serve here has no Innkeeper in it and opens no store: this is about the processes.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from threading import Event, Thread

import httpx2
import pytest

from tests.cli.conftest import Folder
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import within

STORE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
"""Nobody connects to it: it says that several processes may serve."""

APP = """
import os, time
from fastapi import FastAPI

app = FastAPI()

@app.get("/pid")
async def pid():
    time.sleep(0.05)  # on the event loop, so that whoever else asks meanwhile is answered by another process
    return os.getpid()
"""


def start(factory: ServerFactory, workers: int = 2, **env: str) -> ServerProcess:
    """Returns when all processes serve."""
    factory.write("mine.py", APP)
    command = [sys.executable, "-m", "innkeeper", "serve", "mine.py", "--port", "{port}", "--workers", str(workers)]
    server = factory.start(command, env=STORE | env, readiness="/pid")
    server.wait_for_log(r"Workers (\d+) processes\n")
    return server


def pid(url: str) -> int | None:
    """The process that answers, if it lives long enough to."""
    try:
        return int(httpx2.get(f"{url}/pid", timeout=20, trust_env=False).text)
    except httpx2.TransportError:
        return None


def pids(server: ServerProcess, number: int = 2) -> set[int]:
    """The processes that serve, once there are so many."""
    deadline = time.monotonic() + 40
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < deadline:
            found = {one for one in pool.map(pid, [server.url] * 8) if one is not None}
            if len(found) == number:
                return found
    raise AssertionError(f"not {number} processes serve, but {found}:\n{server.log}")


def is_gone(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return state == "" or state.startswith("Z")


def wait_until_gone(processes: set[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := {process for process in processes if not is_gone(process)}:
        assert time.monotonic() < deadline, f"{left} go on after {seconds} s"
        time.sleep(0.02)


@contextmanager
def refusals(port: int) -> Iterator[list[float]]:
    """When the port refused a connection meanwhile."""
    refused: list[float] = []
    is_over = Event()

    def knock() -> None:
        while not is_over.wait(0.005):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except ConnectionRefusedError:
                refused.append(time.monotonic())

    thread = Thread(target=knock)
    thread.start()
    try:
        yield refused
    finally:
        is_over.set()
        thread.join()


def test_the_screen_is_shown_once_and_says_how_many_processes_serve(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server, workers=3)
    assert pids(server, 3) <= children_of(server.pid)
    assert server.log.count("listens at") == 1
    assert server.log.count("  Workers 3 processes\n") == 1


def test_a_process_that_is_killed_is_replaced_and_the_port_never_refuses(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    first, second = pids(server)
    with refusals(server.port) as refused:
        os.kill(first, signal.SIGKILL)
        server.wait_for_log(f"Process ({first}), which served, ended: killed by SIGKILL")
        wait_until_gone({first}, 20)
        replaced = pids(server)
    assert second in replaced and first not in replaced
    assert refused == []


def test_all_processes_end_with_0_on_sigterm(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    processes = pids(server)
    assert server.terminate() == 0
    wait_until_gone(processes, 0.1)
    server.wait_for_refusal()
    assert "WARNING" not in server.log and "Traceback" not in server.log


def test_ctrl_c_which_reaches_every_process_ends_them_in_good_order(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    processes = pids(server)
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait() == 0
    wait_until_gone(processes, 0.1)
    assert "Traceback" not in server.log and "KeyboardInterrupt" not in server.log


@pytest.mark.parametrize("delay", [0, 0.1, 0.3])
def test_ctrl_c_while_they_start_ends_them_without_a_word(innkeeper_server: ServerFactory, delay: float) -> None:
    innkeeper_server.write("mine.py", APP)
    server = innkeeper_server.launch("mine.py", "--port", "0", "--workers", "2", env=STORE)
    deadline = time.monotonic() + 40
    while len(children := children_of(server.pid)) < 3:  # with Python's own, which keeps account of resources
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(delay)  # nobody tells how far they have come
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait() == 0
    wait_until_gone(children, 20)
    assert "Traceback" not in server.log and "KeyboardInterrupt" not in server.log


def children_of(process: int) -> set[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return {int(line.split()[0]) for line in listed.splitlines() if int(line.split()[1]) == process}


def test_a_supervisor_that_is_killed_leaves_no_process_and_a_free_port(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    processes = pids(server) | children_of(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    server.wait_for_refusal()
    wait_until_gone(processes, within(3, 20))
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_a_process_that_does_not_listen_is_killed_in_the_end(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server, INNKEEPER_DRAIN_SECONDS="0")
    processes = pids(server)
    os.kill(min(processes), signal.SIGSTOP)
    began = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - began < within(10.5, 25)
    wait_until_gone(processes, 20)


def test_who_is_told_to_end_all_at_once_while_they_end_in_time_does_not_wait(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    processes = pids(server)
    os.kill(min(processes), signal.SIGSTOP)
    server.send_signal(signal.SIGTERM)
    wait_until_gone({max(processes)}, within(3, 12))
    server.send_signal(signal.SIGUSR1)
    assert server.wait(timeout=within(3, 12)) == 137
    wait_until_gone(processes, 20)


def test_a_second_ctrl_c_ends_all_at_once(innkeeper_server: ServerFactory) -> None:
    server = start(innkeeper_server)
    processes = pids(server)
    os.kill(min(processes), signal.SIGSTOP)
    server.send_signal(signal.SIGINT)
    wait_until_gone({max(processes)}, within(3, 12))
    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=within(3, 12)) == 130
    wait_until_gone(processes, 20)


def test_what_keeps_all_processes_from_starting_is_told_once(folder: Folder) -> None:
    folder.write("mine.py", "missing()\n")
    message = folder.error("serve", "mine.py", "--port", "0", "--workers", "3", env=STORE)
    assert message.startswith("mine.py, line 1: NameError")


def test_an_app_that_does_not_start_is_told_once_with_its_traceback(folder: Folder) -> None:
    folder.write("mine.py", APP.replace("FastAPI()", "FastAPI(on_startup=[lambda: 1 / 0])"))
    result = folder.run("serve", "mine.py", "--port", "0", "--workers", "3", env=STORE)
    assert result.code == 1
    assert result.error.count("The app did not start.") == result.error.count("ZeroDivisionError") == 1


def test_processes_that_end_without_a_word_are_told_with_how_they_ended(folder: Folder) -> None:
    folder.write("mine.py", "import os\nos._exit(7)\n")
    result = folder.run("serve", "mine.py", "--port", "0", "--workers", "2", env=STORE)
    assert result.code == 1
    assert result.error.count("ended: exit code 7") == 2 and "Error: No process got as far" in result.error


def test_a_process_that_cannot_be_replaced_is_tried_again_ever_more_slowly_until_it_can(
    innkeeper_server: ServerFactory,
) -> None:
    server = start(innkeeper_server)
    first, second = pids(server)
    innkeeper_server.write("mine.py", "missing()\n")
    os.kill(first, signal.SIGKILL)
    server.wait_for_log(r"(?:exit code 1\. Another takes its place(?s:.*)){2}exit code 1.* in (0\.[48]) s")
    assert pid(server.url) == second
    innkeeper_server.write("mine.py", APP)
    assert second in pids(server)
    assert server.log.count("Error: mine.py, line 1: NameError") == server.log.count("exit code 1. Another") >= 3
    delays = [float(one) for one in re.findall(r"exit code 1\. Another takes its place in (\S+) s", server.log)]
    assert all(after == min(2 * before, 5) for before, after in pairwise(delays)), delays
    assert server.terminate() == 0


def test_reload_serves_with_one_process_and_says_so_once(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", APP)
    command = [sys.executable, "-m", "innkeeper", "serve", "mine.py", "--port", "{port}", "--workers", "3", "--reload"]
    server = innkeeper_server.start(command, env=STORE, readiness="/pid")
    warnings = [line for line in server.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("workers is 3, but one process serves: --reload starts one anew when a file changes.")
    assert len(pids(server, 1)) == 1
