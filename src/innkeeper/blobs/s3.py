"""Blobs in a bucket of S3, or of whatever speaks its protocol. Large ones are written and read in parts.

Credentials are handed in. What an upload that was cut off leaves in the bucket, `delete` removes as well.
Invariant: no connection to the bucket is held while a client sends or takes its bytes; there are few of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from innkeeper.blobs.patience import Patience
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.ports.blobs import Written

T = TypeVar("T")

_PART = 5 * 1024 * 1024
"""Bytes of a part that is written; S3 takes no fewer but for the last one."""
_WINDOW = 1024 * 1024
"""Bytes of a part that is read."""
_CONNECTIONS = 50
_PATIENCE = 15.0
"""Seconds for one request with all that it is tried again."""
_GONE = ("NoSuchUpload", "NoSuchKey", "404")


class S3Blobs:
    """Implements `ports.blobs.BlobStore`. `environment` has AWS's usual variables."""

    def __init__(
        self,
        bucket: str,
        environment: Mapping[str, str],
        *,
        endpoint_url: str | None = None,
        prefix: str = "",
        patience: float = _PATIENCE,
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
                connect_timeout=3,
                read_timeout=patience,
                max_pool_connections=_CONNECTIONS,
                retries={"total_max_attempts": 2, "mode": "standard"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        }
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._requests = _Requests(Patience(patience))

    async def open(self) -> None:
        self._client = await self._stack.enter_async_context(get_session().create_client("s3", **self._options))
        try:
            await self._requests.send(self._client.head_bucket(Bucket=self._bucket))
        except (StorageUnavailable, ClientError) as error:
            await self.close()
            why = error.__cause__ or error
            raise SetupError(
                f"The bucket {self._bucket!r} (S3_BUCKET) cannot be used: {str(why) or 'nobody answers'}."
            ) from error

    async def put(self, blob: str, chunks: AsyncIterable[bytes]) -> Written:
        upload = _Upload(self._client, self._requests, self._named(blob))
        digest, size, buffer = hashlib.sha256(), 0, bytearray()
        try:
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                buffer += chunk
                while len(buffer) >= _PART:
                    with memoryview(buffer) as held:
                        part = bytes(held[:_PART])
                    del buffer[:_PART]
                    await upload.part(part)
            await upload.finish(bytes(buffer))
        except ClientError as error:
            await upload.abort()
            raise _unavailable() from error
        except BaseException:
            await upload.abort()
            raise
        return Written(size, digest.hexdigest())

    async def read(self, blob: str, first: int = 0, size: int | None = None) -> AsyncGenerator[bytes]:
        named, at = self._named(blob), first
        end = None if size is None else first + size
        while end is None or at < end:
            count = _WINDOW if end is None else min(_WINDOW, end - at)
            window = await self._requests.send(self._window(named, at, count))
            if window:
                yield window
            if len(window) < count:
                return
            at += count

    async def _window(self, named: Mapping[str, str], first: int, count: int) -> bytes:
        try:
            found = await self._client.get_object(**named, Range=f"bytes={first}-{first + count - 1}")
            async with found["Body"] as body:
                return bytes(await body.read())
        except ClientError as error:
            if _code(error) == "InvalidRange":
                return b""
            raise _unavailable() from error

    async def delete(self, blob: str) -> None:
        named, send = self._named(blob), self._requests.send
        try:
            await send(self._client.delete_object(**named))
            begun = await send(self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=named["Key"]))
            for upload in begun.get("Uploads", ()):
                await send(_aborted(self._client, named, upload["UploadId"]))
        except ClientError as error:
            raise _unavailable() from error

    async def close(self) -> None:
        await self._stack.aclose()

    def _named(self, blob: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{blob}"}


class _Requests:
    """Sends requests, and waits no longer for an answer than there is patience."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience

    async def send(self, request: Coroutine[Any, Any, T]) -> T:
        """Raises: StorageUnavailable, where there is no answer; ClientError, where it is a refusal."""
        try:
            return await self._patience.wait(request, is_answer=lambda error: isinstance(error, ClientError))
        except (BotoCoreError, OSError, TimeoutError) as error:
            # Their own words may have addresses and names in them.
            raise _unavailable() from error


class _Upload:
    """One blob on its way: in one request where it fits into a part, else in parts."""

    def __init__(self, client: Any, requests: _Requests, named: Mapping[str, str]) -> None:
        self._client = client
        self._requests = requests
        self._named = named
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    async def part(self, data: bytes) -> None:
        send = self._requests.send
        if self._id is None:
            self._id = (await send(self._client.create_multipart_upload(**self._named)))["UploadId"]
        number = len(self._parts) + 1
        sent = await send(
            self._client.upload_part(
                **self._named, UploadId=self._id, PartNumber=number, Body=data, ContentLength=len(data)
            )
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    async def finish(self, data: bytes) -> None:
        send = self._requests.send
        if self._id is None:
            await send(self._client.put_object(**self._named, Body=data, ContentLength=len(data)))
            return
        if data:
            await self.part(data)
        parts = {"Parts": self._parts}
        await send(self._client.complete_multipart_upload(**self._named, UploadId=self._id, MultipartUpload=parts))

    async def abort(self) -> None:
        """Best effort: whoever empties the rubbish comes by as well."""
        if self._id is not None:
            with contextlib.suppress(StorageUnavailable, ClientError):
                await self._requests.send(_aborted(self._client, self._named, self._id))


async def _aborted(client: Any, named: Mapping[str, str], upload_id: str) -> None:
    try:
        await client.abort_multipart_upload(**named, UploadId=upload_id)
    except ClientError as error:
        if _code(error) not in _GONE:
            raise


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _unavailable() -> StorageUnavailable:
    return StorageUnavailable("The store of files does not answer, or has lost this one.")
