"""The processes that sandboxes run code in: how they end, whatever they were doing."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from innkeeper.core.errors import ShuttingDown
from innkeeper.sandbox.children import Children

FLOODS = """
import os, sys
for written in range(1000):
    os.write(1, b"x" * 65536)
    if written == 3:
        open(sys.argv[1], "w").close()
"""


async def test_a_child_whose_output_nobody_reads_ends_when_it_is_told_to(tmp_path: Path) -> None:
    has_flooded = tmp_path / "flooded"  # by then more is on its way than asyncio takes ahead of a reader
    children = Children([sys.executable, "-I", "-c", FLOODS, str(has_flooded)], 1)
    async with children.one() as child:
        while not has_flooded.exists():
            await asyncio.sleep(0.01)
    await asyncio.wait_for(children.close(), 30)
    assert not child.is_alive
    assert children.pids == []


async def test_a_child_that_starts_while_all_are_ended_ends_too() -> None:
    children = Children([sys.executable, "-I", "-c", "import sys; sys.stdin.read()"], 1)
    started: list[int] = []

    async def use() -> None:
        async with children.one() as child:
            started.append(child.pid)

    using = asyncio.create_task(use())
    await asyncio.sleep(0)  # it is being started
    await children.close()
    with pytest.raises(ShuttingDown):
        await asyncio.wait_for(using, 10)
    assert (started, children.pids) == ([], [])
