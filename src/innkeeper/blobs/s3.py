"""Blobs in a bucket of S3, or of whatever speaks its protocol. Large ones are uploaded in parts.

Credentials are handed in. What an upload that was cut off leaves in the bucket, `delete` removes as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.ports.blobs import Written

_PART = 8 * 1024 * 1024
"""Bytes of a part; S3 takes no fewer than 5 MiB but for the last one."""
_AT_ONCE = 256 * 1024
_GONE = ("NoSuchUpload", "NoSuchKey", "404")


class S3Blobs:
    """Implements `ports.blobs.BlobStore`. `environment` has AWS's usual variables."""

    def __init__(
        self, bucket: str, environment: Mapping[str, str], *, endpoint_url: str | None = None, prefix: str = ""
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._options: dict[str, Any] = {
            "endpoint_url": endpoint_url,
            "region_name": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1",
            "aws_access_key_id": environment.get("AWS_ACCESS_KEY_ID"),
            "aws_secret_access_key": environment.get("AWS_SECRET_ACCESS_KEY"),
            "aws_session_token": environment.get("AWS_SESSION_TOKEN"),
            "config": AioConfig(
                connect_timeout=5,
                read_timeout=30,
                retries={"max_attempts": 2, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        }
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        self._client = await self._stack.enter_async_context(get_session().create_client("s3", **self._options))
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except (BotoCoreError, ClientError, OSError) as error:
            await self.close()
            raise SetupError(f"The bucket {self._bucket!r} (S3_BUCKET) cannot be used: {error}.") from error

    async def put(self, blob: str, chunks: AsyncIterable[bytes]) -> Written:
        upload = _Upload(self._client, self._named(blob))
        digest, size, buffer = hashlib.sha256(), 0, bytearray()
        try:
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                buffer += chunk
                while len(buffer) >= _PART:
                    part = bytes(buffer[:_PART])
                    del buffer[:_PART]
                    await upload.part(part)
            await upload.finish(bytes(buffer))
        except BaseException:
            await upload.abort()
            raise
        return Written(size, digest.hexdigest())

    async def read(self, blob: str, first: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
        if size is not None and size <= 0:
            return
        last = "" if size is None else str(first + size - 1)
        ranged = {"Range": f"bytes={first}-{last}"} if first or size is not None else {}
        async with _told():
            try:
                found = await self._client.get_object(**self._named(blob), **ranged)
            except ClientError as error:
                if _code(error) == "InvalidRange":
                    return
                raise
            async with found["Body"] as body:
                while chunk := await body.read(_AT_ONCE):
                    yield chunk

    async def delete(self, blob: str) -> None:
        named = self._named(blob)
        async with _told():
            await self._client.delete_object(**named)
            begun = await self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=named["Key"])
            for upload in begun.get("Uploads", ()):
                await _aborted(self._client, named, upload["UploadId"])

    async def close(self) -> None:
        await self._stack.aclose()

    def _named(self, blob: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{blob}"}


class _Upload:
    """One blob on its way: in one request where it fits into a part, else in parts."""

    def __init__(self, client: Any, named: Mapping[str, str]) -> None:
        self._client = client
        self._named = named
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    async def part(self, data: bytes) -> None:
        async with _told():
            if self._id is None:
                self._id = (await self._client.create_multipart_upload(**self._named))["UploadId"]
            number = len(self._parts) + 1
            sent = await self._client.upload_part(
                **self._named, UploadId=self._id, PartNumber=number, Body=data, ContentLength=len(data)
            )
            self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    async def finish(self, data: bytes) -> None:
        async with _told():
            if self._id is None:
                await self._client.put_object(**self._named, Body=data, ContentLength=len(data))
                return
            if data:
                await self.part(data)
            await self._client.complete_multipart_upload(
                **self._named, UploadId=self._id, MultipartUpload={"Parts": self._parts}
            )

    async def abort(self) -> None:
        """Best effort: whoever empties the rubbish comes by as well."""
        if self._id is not None:
            try:
                await _aborted(self._client, self._named, self._id)
            except (BotoCoreError, ClientError, OSError):
                return


async def _aborted(client: Any, named: Mapping[str, str], upload_id: str) -> None:
    try:
        await client.abort_multipart_upload(**named, UploadId=upload_id)
    except ClientError as error:
        if _code(error) not in _GONE:
            raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """What the bucket refuses, in the words of the port; its own words may have addresses and names in them."""
    try:
        yield
    except (BotoCoreError, ClientError, OSError, TimeoutError) as error:
        raise StorageUnavailable("The store of files does not answer, or has lost this one.") from error
