"""Servers that are killed in the middle of uploads, and how much memory large files take of one that is not."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from innkeeper.blobs.local import LocalBlobs
from innkeeper.core.files import Place
from innkeeper.core.identity import LOCAL_CALLER
from innkeeper.core.times import Instant
from innkeeper.services.contents import Rubbish
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.servers import ServerFactory, ServerProcess
from tests.support.sizes import sized

AGENTS = """
from innkeeper import register_agent

async def echo(messages):
    return "yes"

register_agent("echo", echo)
"""
MIB = 1024 * 1024
ROUNDS = sized(8, 1)


@pytest.fixture
def server(innkeeper_server: ServerFactory) -> ServerProcess:
    innkeeper_server.write("inn.py", AGENTS)
    return innkeeper_server("inn.py", env={"INNKEEPER_DRAIN_SECONDS": "1", "RATE_LIMIT_ANONYMOUS": "off"})


def test_a_server_that_is_killed_during_uploads_loses_no_file_and_leaves_no_orphan(server: ServerProcess) -> None:
    told: dict[str, str] = {}
    for _ in range(ROUNDS):
        with ThreadPoolExecutor(6) as pool:
            uploads = [pool.submit(upload_until_cut, server.url, told, number) for number in range(6)]
            goal = len(told) + 8
            while len(told) < goal and not all(upload.done() for upload in uploads):
                time.sleep(0.01)
            time.sleep(random.random() * 0.1)
            server.kill()
        server.start()
        told_now = dict(told)
        with httpx2.Client(base_url=server.url, timeout=20) as client:
            for file_id, digest in told_now.items():
                content = client.get(f"/v1/files/{file_id}/content").content
                assert hashlib.sha256(content).hexdigest() == digest
    server.kill()
    kept, named = asyncio.run(after_the_rubbish_is_emptied(server.folder / "data"))
    assert kept == named
    assert len(named) >= len(told) > 0


def upload_until_cut(url: str, told: dict[str, str], number: int) -> None:
    """Uploads by turns: forms, files of a workspace, in pieces."""
    with suppress(httpx2.HTTPError), httpx2.Client(base_url=url, timeout=20) as client:
        for turn in range(200):
            data = random.randbytes(random.randrange(1, 700_000))
            if turn % 3 == 2:
                client.post("/sessions", json={"id": f"s{number}"})
                client.put(f"/sessions/s{number}/workspace/a.bin", content=pieces(data))
            else:
                answer = client.post("/v1/files", files={"file": ("a", data)}, data={"purpose": "batch"})
                if answer.status_code == 200:
                    told[answer.json()["id"]] = hashlib.sha256(data).hexdigest()


def pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 50_000):
        yield data[at : at + 50_000]


async def after_the_rubbish_is_emptied(data_dir: Path) -> tuple[set[str], set[str]]:
    """The blobs on disk, and those that rows name, two hours later."""
    store, blobs = SqliteStore(data_dir / "innkeeper.db"), LocalBlobs(data_dir / "blobs")
    await store.open()
    await blobs.open()
    later = Instant(time.time_ns() // 1000 + 2 * 3600 * 1_000_000)
    await Rubbish(journal=store.journal, blobs=blobs, now=lambda: later).empty()
    files, _ = await store.files.page(LOCAL_CALLER, later, limit=100_000)
    named = {file.blob for file in files}
    for number in range(6):
        session = await store.sessions.find(LOCAL_CALLER, f"s{number}")
        if session is not None:
            place = Place("session", session.key, session.owner.organization)
            named |= {one.blob for one in await store.workspaces.versions(place, "a.bin")}
    kept = {path.name for path in (data_dir / "blobs").rglob("*") if path.is_file()}
    await blobs.close()
    await store.close()
    return kept, named


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is asked for figures as Linux tells them")
def test_large_files_pass_through_without_being_held(server: ServerProcess) -> None:
    size, at_once = 25 * MIB, 4
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        room = client.post("/sessions", json={}).json()["id"]
        where = f"/sessions/{room}/workspace"
        client.put(f"{where}/warm", content=bytes(MIB))
        client.get(f"{where}/warm")
        before, watched = resident(server), Watched(server)
        with watched, ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda number: passes(server.url, f"{where}/{number}", size), range(at_once)))
    grown = watched.most - before
    assert grown < 40 * MIB, f"{grown / MIB:.1f} MiB more while {at_once} × 25 MiB went in and out"


def passes(url: str, where: str, size: int) -> None:
    """A file goes in and out, in pieces."""
    digest = hashlib.sha256()
    with httpx2.Client(base_url=url, timeout=60) as client:
        answer = client.put(where, content=(bytes(MIB) for _ in range(size // MIB)))
        assert answer.status_code == 201, answer.text
        with client.stream("GET", where) as sent:
            for piece in sent.iter_bytes():
                digest.update(piece)
    assert f'"{digest.hexdigest()}"' == answer.headers["etag"]


def resident(server: ServerProcess) -> int:
    told = Path(f"/proc/{server.pid}/status").read_text()
    return int(told.partition("VmRSS:")[2].split()[0]) * 1024


class Watched:
    """The most memory that a server has had."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(1)
        self._is_over = False
        self.most = 0

    def __enter__(self) -> None:
        self._watching = self._pool.submit(self._watch)

    def _watch(self) -> None:
        while not self._is_over:
            self.most = max(self.most, resident(self._server))
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self._watching.result()
        self._pool.shutdown()
