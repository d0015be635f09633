"""What is particular to Monty: the Python that it lacks, and the processes that it runs in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from innkeeper.core.errors import SetupError, ShuttingDown, SourceRejected
from innkeeper.ports.sandbox import CodeFailed, LimitExceeded, Limits, Outcome

pytest.importorskip("pydantic_monty")

from innkeeper.sandbox.monty import MontySandbox

LIMITS = Limits(cpu_seconds=0.3, wall_seconds=60)
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@pytest.fixture
async def sandbox() -> AsyncIterator[MontySandbox]:
    opened = MontySandbox(calls=2)
    await opened.open()
    yield opened
    await opened.close()


async def call(sandbox: MontySandbox, source: str) -> Any:
    return (await sandbox.call(source, "f", {}, hosts={}, limits=LIMITS)).value


async def burning(sandbox: MontySandbox, body: str = "while True: pass") -> asyncio.Task[Outcome]:
    """A call that takes very long, once it has begun."""
    begun = asyncio.Event()

    async def begin() -> None:
        begun.set()

    source, wide = f"def f():\n    begin()\n    {body}", Limits(cpu_seconds=60, wall_seconds=60)
    calling = asyncio.create_task(sandbox.call(source, "f", {}, hosts={"begin": begin}, limits=wide))
    await asyncio.wait_for(begun.wait(), 30)
    return calling


def group(pid: int) -> list[int]:
    """The processes that a child leads."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, group = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:3]
            if int(group) == pid and state != "Z":
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize(
    ("source", "line", "column", "reason"),
    [
        ("def f():\n    yield 1", 2, 5, "does not support yield expressions."),
        ("class A: ...\nclass B(A): ...\ndef f(): ...", 2, 1, "does not support class inheritance and metaclasses."),
        ("def f():\n    x = 1\n    del x", 3, 5, "does not support the 'del' statement."),
        ("async def f():\n    async with x: ...", 2, 5, "does not support async context managers (async with)."),
        ("async def f():\n    async for x in y: ...", 2, 5, "does not support async for loops."),
        ("class A:\n    @property\n    def a(self): ...\ndef f(): ...", 2, 5, "does not support method decorators"),
        ("def f():\n    import numpy.linalg", 2, 5, "There is no module 'numpy.linalg' in this sandbox."),
        ("from socket import socket\ndef f(): ...", 1, 1, "There is no module 'socket' in this sandbox."),
        ("x = 1; from . import y\ndef f(): ...", 1, 8, "relative import"),
    ],
)
async def test_what_monty_lacks_is_refused_with_its_place(
    sandbox: MontySandbox, source: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(SourceRejected) as refused:
        await sandbox.check_tool(source, "f", [])
    assert (refused.value.details["line"], refused.value.details["column"]) == (line, column)
    assert reason in refused.value.message


async def test_modules_that_monty_has_are_accepted(sandbox: MontySandbox) -> None:
    modules = ["asyncio", "dataclasses", "datetime", "functools", "itertools", "json", "math", "os.path", "random"]
    modules += ["re", "sys", "typing"]
    source = "from __future__ import annotations\n" + "".join(f"import {one}\n" for one in modules) + "def f(): ..."
    assert (await sandbox.check_tool(source, None, [])).name == "f"


async def test_an_exception_tells_the_line_of_the_source(sandbox: MontySandbox) -> None:
    with pytest.raises(CodeFailed, match=r"division by zero \(line 3\)"):
        await call(sandbox, "def f():\n    x = 0\n    return 1 / x\n")


async def test_time_runs_in_the_sandbox(sandbox: MontySandbox) -> None:
    source = (
        "import asyncio, time\nasync def f():\n    began = time.monotonic()\n"
        "    await asyncio.gather(asyncio.sleep(0.2), asyncio.sleep(0.2))\n    time.sleep(0.1)\n"
        "    return time.monotonic() - began"
    )
    passed = [await call(sandbox, source)]
    while passed[-1] >= 0.39 and len(passed) < 5:  # a busy machine wakes nobody in time; one after the other takes 0.5
        passed.append(await call(sandbox, source))
    assert 0.29 < passed[-1] < 0.39


async def test_code_that_fails_costs_no_process_and_code_beyond_a_limit_costs_one(sandbox: MontySandbox) -> None:
    before = sandbox.pids
    with pytest.raises(CodeFailed):
        await call(sandbox, "def f(): return nothing")
    assert sandbox.pids == before
    with pytest.raises(LimitExceeded):
        await call(sandbox, "def f(): return f()")
    assert not set(sandbox.pids) & set(before)


@on_linux
async def test_a_child_that_kept_much_memory_is_not_asked_again(sandbox: MontySandbox) -> None:
    before = sandbox.pids
    source = "def f():\n    items = ['x' * 1000 + str(one) for one in range(150000)]\n    return len(items)"
    wide = Limits(cpu_seconds=30, wall_seconds=60)
    assert (await sandbox.call(source, "f", {}, hosts={}, limits=wide)).value == 150000
    assert await call(sandbox, "def f(): return 1") == 1
    assert not set(sandbox.pids) & set(before)


async def test_stand_ins_for_what_only_the_interpreter_has_come_back_as_text(sandbox: MontySandbox) -> None:
    assert await call(sandbox, "class A: ...\ndef f(): return [A(), print]") == ["<A object>", "<function print>"]


async def test_there_are_never_more_children_than_calls_may_run(sandbox: MontySandbox) -> None:
    most = 0
    calls = [asyncio.create_task(call(sandbox, "def f():\n    while True: pass")) for _ in range(6)]
    while not all(one.done() for one in calls):
        most = max(most, len(sandbox.pids))
        await asyncio.sleep(0.01)
    assert most == 2
    await asyncio.gather(*calls, return_exceptions=True)


@on_linux
async def test_children_have_no_environment(sandbox: MontySandbox) -> None:
    for pid in sandbox.pids:
        processes = group(pid)
        assert len(processes) == 2
        assert [Path(f"/proc/{one}/environ").read_bytes() for one in processes] == [b"", b""]


@on_linux
async def test_a_child_that_dies_is_replaced(sandbox: MontySandbox) -> None:
    burns = await burning(sandbox)
    for pid in sandbox.pids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(CodeFailed, match="ended the process"):
        await burns
    assert await call(sandbox, "def f(): return 1") == 1


@on_linux
async def test_what_is_cancelled_leaves_no_process(sandbox: MontySandbox) -> None:
    burns = await burning(sandbox, "return 10 ** 10 ** 8")
    processes = [process for pid in sandbox.pids for process in group(pid)]
    burns.cancel()
    await asyncio.wait([burns])
    await asyncio.to_thread(_gone, processes)


@on_linux
async def test_closing_ends_every_process_and_every_call(sandbox: MontySandbox) -> None:
    burns = await burning(sandbox)
    processes = [process for pid in sandbox.pids for process in group(pid)]
    await sandbox.close()
    with pytest.raises(CodeFailed):
        await burns
    await asyncio.to_thread(_gone, processes)
    with pytest.raises(ShuttingDown):
        await call(sandbox, "def f(): return 1")


_SERVER = """
import asyncio
from innkeeper.ports.sandbox import Limits
from innkeeper.sandbox.monty import MontySandbox

async def main():
    sandbox = MontySandbox(2)
    await sandbox.open()
    begun, calls = asyncio.Semaphore(0), []

    async def begin():
        begun.release()

    limits = Limits(cpu_seconds=4, wall_seconds=3600)
    for body in ("while True: pass", "time.sleep(3600)"):
        source = f"import time\\ndef f():\\n    begin()\\n    {body}"
        call = sandbox.call(source, "f", {}, hosts={"begin": begin}, limits=limits)
        calls.append(asyncio.create_task(call))
    for _ in calls:
        await begun.acquire()
    print(*sandbox.pids, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@on_linux
def test_children_of_a_server_that_was_killed_end_by_themselves() -> None:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        processes = [process for pid in pids for process in group(pid)]
        server.kill()
    assert len(processes) == 4
    _gone(processes)


def _gone(processes: list[int]) -> None:
    until = time.monotonic() + 80
    while any(_lives(process) for process in processes):
        assert time.monotonic() < until
        time.sleep(0.02)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_sandbox_without_its_interpreter_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONTY_BIN", "/nowhere/monty")
    with pytest.raises(SetupError, match="Monty sandbox does not start on this machine"):
        await MontySandbox().open()


async def test_a_sandbox_without_its_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    with pytest.raises(SetupError, match=r"pip install \"innkeeper\[code\]\""):
        await MontySandbox().open()
