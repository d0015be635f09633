"""Work on files that is given up half-way, names that are long, and a blob that cannot be removed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from innkeeper.blobs.local import LocalBlobs
from innkeeper.blobs.threads import opened
from innkeeper.core.errors import Invalid, StorageUnavailable
from innkeeper.core.file_changes import ReserveBlobs
from innkeeper.core.paths import checked, safe_name
from innkeeper.core.times import Instant
from innkeeper.services.contents import Rubbish
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import now

QUADRATIC = "a" + "\u0301\u0327" * 50_000
"""Some ten seconds of work for whoever normalises it."""


async def test_a_descriptor_stays_open_while_a_thread_writes_to_it(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    await blobs.open()
    full = tmp_path / "blobs" / ".incoming" / "blob-that-waits"
    os.mkfifo(full)  # whoever writes to it waits for its reader
    reader = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
    is_asked = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        is_asked.set()
        yield b""

    putting = asyncio.create_task(blobs.put("blob-that-waits", chunks()))
    while not await asyncio.to_thread(read_some, reader):
        pass
    putting.cancel()
    done, _ = await asyncio.wait((putting,), timeout=0.2)
    assert not done and not is_asked.is_set(), "the thread that writes has not been waited for"
    os.close(reader)
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert not full.exists()
    await blobs.close()


def read_some(descriptor: int) -> bytes:
    time.sleep(0.001)
    try:
        return os.read(descriptor, 1000)
    except BlockingIOError:
        return b""


async def test_a_file_that_is_opened_for_nobody_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    begun, go_on, descriptors = threading.Event(), threading.Event(), list[int]()

    def opening() -> int:
        begun.set()
        go_on.wait(5)
        descriptors.append(os.open(tmp_path / "file", os.O_RDONLY))
        return descriptors[0]

    async def in_thread(work: object) -> None:
        assert callable(work)
        thread = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            await asyncio.shield(thread)
        except asyncio.CancelledError:
            await thread
            raise

    waiting = asyncio.create_task(opened(in_thread, opening))
    await asyncio.to_thread(begun.wait, 5)
    waiting.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(OSError) as raised:
        os.fstat(descriptors[0])
    assert raised.value.errno == errno.EBADF


async def test_a_blob_that_cannot_be_removed_keeps_no_other_from_going(tmp_path: Path) -> None:
    store, blobs = SqliteStore(tmp_path / "innkeeper.db"), LocalBlobs(tmp_path / "blobs")
    await store.open()
    await blobs.open()
    names = [f"blob-number-{number}" for number in range(3)]
    for name in names:
        await blobs.put(name, nothing())
    stuck, last = (path for path in (tmp_path / "blobs" / name[-2:] / name for name in names[1:]))
    stuck.unlink()
    stuck.mkdir()
    await store.journal.commit((ReserveBlobs(tuple(names), Instant(now())),))
    later = Instant(now() + 1)
    with pytest.raises(StorageUnavailable):
        await Rubbish(journal=store.journal, blobs=blobs, now=lambda: later).empty()
    assert not last.exists()
    stuck.rmdir()
    much_later = Instant(now() + 3600 * 1_000_000)
    assert await Rubbish(journal=store.journal, blobs=blobs, now=lambda: much_later).empty() == 1
    await blobs.close()
    await store.close()


async def nothing() -> AsyncIterator[bytes]:
    yield b""


def test_how_long_a_name_is_judged_does_not_grow_with_the_square_of_its_length() -> None:
    begun = time.process_time()
    with pytest.raises(Invalid, match="characters"):
        checked(QUADRATIC)
    safe_name(QUADRATIC)
    assert time.process_time() - begun < 1
