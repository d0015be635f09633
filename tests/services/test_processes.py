"""Processes that name themselves to others, and which of them have certainly died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.services.processes import is_gone, own_name

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the kernel does not tell")

PLACE = own_name().rsplit("/", 2)[0]
BEGAN = own_name().rsplit("/", 1)[1]


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process, and the name that it has given itself."""
    code = "from innkeeper.services.processes import own_name; print(own_name(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_process_that_lives_is_not_gone(child: tuple[subprocess.Popen[str], str]) -> None:
    assert not is_gone(own_name())
    assert not is_gone(child[1])


def test_a_process_that_was_killed_is_gone_before_anybody_has_waited_for_it(
    child: tuple[subprocess.Popen[str], str],
) -> None:
    process, name = child
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name)
    process.wait()
    assert is_gone(name)


def test_a_process_whose_id_is_used_again_is_gone() -> None:
    assert is_gone(f"{PLACE}/{os.getpid()}/{int(BEGAN) - 1}")


def test_nothing_is_said_of_processes_of_another_boot_machine_or_container() -> None:
    boot, namespace = PLACE.split("/", 1)
    for place in (f"{boot[:-1]}x/{namespace}", f"{boot}/pid:[1]", "?", ""):
        assert not is_gone(f"{place}/{os.getpid()}/1")
        assert not is_gone(f"{place}/999999999/1")


def test_a_process_that_exists_and_cannot_be_looked_at_is_not_gone() -> None:
    # Process id 0 stands for those that /proc does not show: it may be signalled and has no entry there.
    assert not is_gone(f"{PLACE}/0/1")


@pytest.mark.parametrize("pid", ["", "x", "-1", "1.5", "9" * 5000, "\0", "../1", " 1"])
def test_garbage_says_nothing(pid: str) -> None:
    for name in (pid, f"/{pid}/", f"{PLACE}/{pid}/1", f"{PLACE}/{pid}", f"a/b/c/{pid}"):
        assert not is_gone(name)
