"""A store of files that is silent, slow to be read from, or has lost what it kept."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from moto.server import ThreadedMotoServer

from innkeeper.blobs.patience import Patience
from innkeeper.blobs.s3 import S3Blobs
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.ports.blobs import BlobStore
from innkeeper.services import contents
from tests.support.inns import Inn
from tests.support.services import free_port
from tests.support.sizes import within

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
BUCKET = "inn-outages"
ID, OTHER = "a" * 32, "b" * 32
PATIENCE = 0.3


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


class Bucket:
    """Answers as a bucket does that is there, and says nothing while it is silent."""

    def __init__(self) -> None:
        self.is_silent = False
        self.port = free_port()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while await reader.readuntil(b"\r\n\r\n"):
            if not self.is_silent:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def a_bucket() -> AsyncIterator[tuple[Bucket, S3Blobs]]:
    bucket = Bucket()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await bucket.serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", bucket.port)
    blobs = S3Blobs(BUCKET, KEYS, endpoint_url=f"http://127.0.0.1:{bucket.port}", patience=PATIENCE)
    yield bucket, blobs
    await blobs.close()
    bucket.close()
    server.close()


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server._port}"
    assert httpx2.put(f"{url}/{BUCKET}").is_success
    yield url
    server.stop()


async def test_who_reads_slowly_keeps_nobody_from_the_bucket(s3_url: str) -> None:
    blobs = S3Blobs(BUCKET, KEYS, endpoint_url=s3_url)
    await blobs.open()
    data = os.urandom(2_000_000)
    await blobs.put(ID, pieces(data))
    async with aclosing(blobs.read(ID)) as first:
        begun = await anext(first)
        others = [blobs.read(ID) for _ in range(60)]
        for other in others:
            await anext(other)
        async with asyncio.timeout(30):
            await blobs.put(OTHER, pieces(b"x"))
        assert begun + b"".join([piece async for piece in first]) == data
        for other in others:
            await other.aclose()
    await blobs.close()


async def test_a_bucket_that_is_silent_from_the_start_is_said_in_time() -> None:
    async with a_bucket() as (bucket, blobs):
        bucket.is_silent = True
        with pytest.raises(SetupError, match=r"S3_BUCKET.*nobody answers"):
            await asyncio.wait_for(blobs.open(), within(10, 60) * PATIENCE)


async def test_a_bucket_that_falls_silent_is_waited_for_once_and_not_by_each() -> None:
    async with a_bucket() as (bucket, blobs):
        await blobs.open()
        bucket.is_silent = True
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await blobs.put(ID, pieces(b"x"))
        for _ in range(100):
            with pytest.raises(StorageUnavailable):
                await anext(blobs.read(ID))
            with pytest.raises(StorageUnavailable):
                await blobs.delete(ID)
        assert time.monotonic() - began < within(10, 60) * PATIENCE, "and not 200 times as long"


async def test_one_request_that_takes_too_long_refuses_no_other_while_others_are_answered() -> None:
    patience = Patience(0.1, pause=60)
    silent = asyncio.Event()

    async def answer() -> str:
        await asyncio.sleep(0)
        return "yes"

    late = asyncio.create_task(patience.wait(silent.wait(), lambda error: False))
    await asyncio.sleep(0)
    assert await patience.wait(answer(), lambda error: False) == "yes"
    with pytest.raises(TimeoutError):
        await late
    assert await patience.wait(answer(), lambda error: False) == "yes"
    with pytest.raises(TimeoutError):
        await patience.wait(silent.wait(), lambda error: False)
    with pytest.raises(TimeoutError):
        await patience.wait(answer(), lambda error: False)


def _blob(inn: Inn) -> Path:
    """What was written last."""
    blobs = inn.app.kernel.settings.data_dir / "blobs"
    return max((path for path in blobs.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def file_id(ann: httpx2.Client) -> str:
    sent = {"file": ("a.txt", b"0123456789" * 6000)}
    return str(ann.post("/v1/files", files=sent, data={"purpose": "user_data"}).json()["id"])


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "gone"])
def test_of_contents_that_are_lost_no_answer_is_begun(
    inn: Inn, ann: httpx2.Client, file_id: str, is_there: bool
) -> None:
    blob = _blob(inn)
    blob.write_bytes(b"") if is_there else blob.unlink()
    for headers in ({}, {"range": "bytes=5-9"}):
        answer = ann.get(f"/v1/files/{file_id}/content", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "STORAGE_UNAVAILABLE")


def test_of_contents_that_are_cut_short_the_answer_is_cut_short_and_no_agent_is_told_a_half(
    inn: Inn, ann: httpx2.Client, room: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert ann.put(f"/sessions/{room}/workspace/long.txt", content=b"0123456789" * 10).status_code == 201
    blob = _blob(inn)
    blob.write_bytes(blob.read_bytes()[:50])
    with pytest.raises(httpx2.RemoteProtocolError):
        ann.get(f"/sessions/{room}/workspace/long.txt")
    assert "has lost a part" in caplog.text
    told = {"message": '[["read", "long.txt"]]', "session_id": room, "agent_name": "scribe"}
    with caplog.at_level(logging.CRITICAL):
        assert ann.post("/chat", json=told).status_code >= 500
    assert ann.get("/live").status_code == 200


class Unanswering:
    """A store of files that never says whether a blob is gone."""

    async def delete(self, blob: str) -> None:
        await asyncio.Event().wait()


async def test_the_end_of_a_server_waits_for_what_it_drops_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(contents, "_LAST_SECONDS", 0.05)
    nobody: Any = None
    files = contents.Contents(
        blobs=cast("BlobStore", Unanswering()),
        journal=nobody,
        files=nobody,
        now=nobody,
        new_id=nobody,
        limits=contents.FileLimits(),
    )
    files.drop((ID,))
    async with asyncio.timeout(30):
        await files.settled()
