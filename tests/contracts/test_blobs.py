"""The port of blobs over every adapter: a folder, and a bucket of a real server that speaks S3."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from innkeeper.blobs.local import LocalBlobs
from innkeeper.blobs.s3 import S3Blobs
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.ports.blobs import BlobStore
from tests.support.services import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
BUCKET = "innkeeper-files"
ID = "0197f0c0a1b27c3d8e4f5a6b7c8d9eaf"


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server._port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    made: BlobStore
    if request.param == "local":
        made = LocalBlobs(tmp_path / "blobs")
    else:
        url = request.getfixturevalue("s3_url")
        await _make_bucket(url)
        made = S3Blobs(BUCKET, KEYS, endpoint_url=url, prefix=f"{os.urandom(4).hex()}/")
    await made.open()
    yield made
    await made.close()


async def _make_bucket(url: str) -> None:
    import httpx2

    async with httpx2.AsyncClient() as client:
        assert (await client.put(f"{url}/{BUCKET}")).is_success


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def whole(blobs: BlobStore, blob: str, first: int = 0, size: int | None = None) -> bytes:
    return b"".join([piece async for piece in blobs.read(blob, first, size)])


@pytest.mark.parametrize("size", [0, 1, 300_000, 17 * 1024 * 1024 + 5], ids=["none", "one", "some", "several parts"])
async def test_a_blob_is_read_as_it_was_written(blobs: BlobStore, size: int) -> None:
    data = (os.urandom(1024) * (size // 1024 + 1))[:size]
    written = await blobs.put(ID, pieces(*(data[at : at + 100_000] for at in range(0, size, 100_000))))
    assert (written.size, written.digest) == (size, hashlib.sha256(data).hexdigest())
    assert await whole(blobs, ID) == data


async def test_any_part_of_it_is_read_and_nothing_beyond_its_end(blobs: BlobStore) -> None:
    data = os.urandom(600_000)
    await blobs.put(ID, pieces(data))
    for first, size in ((0, 1), (5, 10), (299_999, 300_000), (599_999, 1), (599_999, 50), (10, None), (7, 0)):
        assert await whole(blobs, ID, first, size) == data[first : None if size is None else first + size]
    assert await whole(blobs, ID, 600_000, 5) == b""
    assert await whole(blobs, ID, 700_000) == b""


async def test_what_is_not_there_cannot_be_read_and_need_not_be_deleted(blobs: BlobStore) -> None:
    with pytest.raises(StorageUnavailable):
        await whole(blobs, ID)
    await blobs.delete(ID)
    await blobs.put(ID, pieces(b"x"))
    await blobs.delete(ID)
    with pytest.raises(StorageUnavailable):
        await whole(blobs, ID)


@pytest.mark.parametrize("sent", [1000, 9 * 1024 * 1024], ids=["little", "a part"])
async def test_a_blob_whose_bytes_stop_coming_is_not_there(blobs: BlobStore, sent: int) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield bytes(sent)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(ID, cut())
    with pytest.raises(StorageUnavailable):
        await whole(blobs, ID)


async def test_a_put_that_is_cancelled_leaves_nothing(blobs: BlobStore) -> None:
    reached = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        reached.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(blobs.put(ID, endless()))
    await reached.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    with pytest.raises(StorageUnavailable):
        await whole(blobs, ID)


async def test_of_a_folder_nobody_else_sees_anything_and_nothing_is_left_of_what_was_cut(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    await blobs.open()

    async def cut() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(ID, cut())
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
    await blobs.put(ID, pieces(b"x"))
    for path in (tmp_path / "blobs", *(tmp_path / "blobs").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    await blobs.close()


async def test_no_name_but_the_servers_own_reaches_the_disk(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    await blobs.open()
    for name in ("../../canary", "/etc/passwd", "A" * 32, "a" * 7, "a/b" * 8, "a\0b" * 8):
        with pytest.raises(ValueError, match="named by the server"):
            await blobs.put(name, pieces(b"x"))
        with pytest.raises(ValueError, match="named by the server"):
            await whole(blobs, name)
    await blobs.close()


async def test_a_bucket_that_is_not_there_or_an_address_where_nobody_is_is_said_at_once(s3_url: str) -> None:
    for blobs in (
        S3Blobs("no-such-bucket", KEYS, endpoint_url=s3_url),
        S3Blobs(BUCKET, KEYS, endpoint_url=f"http://127.0.0.1:{free_port()}"),
    ):
        with pytest.raises(SetupError, match="S3_BUCKET"):
            await blobs.open()
