"""A server that keeps its files in a bucket: the same routes, over a real server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from moto.server import ThreadedMotoServer

from innkeeper.config import load_settings
from innkeeper.core.errors import SetupError
from innkeeper.wiring.openings import open_blobs
from tests.support.inns import running_inn
from tests.support.services import free_port

BUCKET = "inn-files"


@pytest.fixture(scope="module")
def bucket_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    url = f"http://127.0.0.1:{server._port}"
    assert httpx2.put(f"{url}/{BUCKET}").is_success
    yield url
    server.stop()


def test_files_go_to_the_bucket_and_come_from_it(
    bucket_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    settings = {"blob_store": "s3", "s3_bucket": BUCKET, "s3_endpoint_url": bucket_url, "s3_prefix": "inn/"}
    with running_inn(tmp_path, **settings) as inn, httpx2.Client(base_url=inn.url, timeout=20) as client:
        data = b"0123456789" * 100_000
        made = client.post("/v1/files", files={"file": ("a.bin", data)}, data={"purpose": "user_data"}).json()
        assert client.get(f"/v1/files/{made['id']}/content").content == data
        part = client.get(f"/v1/files/{made['id']}/content", headers={"range": "bytes=999995-"})
        assert (part.status_code, part.content) == (206, b"56789")
        client.post("/sessions", json={"id": "s"})
        assert client.put("/sessions/s/workspace/empty", content=b"").status_code == 201
        assert client.get("/sessions/s/workspace/empty").content == b""
        assert httpx2.get(f"{bucket_url}/{BUCKET}?list-type=2&prefix=inn/").text.count("<Key>") == 2
    assert not (tmp_path / "blobs").exists()


def test_a_bucket_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="S3_BUCKET"):
        open_blobs(load_settings({"data_dir": tmp_path, "blob_store": "s3"}))
