"""Posts: one POST and what its receiver answers with, bounded in time and in bytes.

It goes straight to the URL: no proxy of the environment, no redirect, no cookie, no credential. It is made on the
transport because a client writes the whole URL, with what is secret in it, to the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import httpx2

from innkeeper.ports.senders import DeliveryFailed

MAX_BODY = 64 * 1024
"""Bytes of an answer's body that are read, so that its connection can be used again."""

_BODY_SECONDS = 1.0
_LIMITS = httpx2.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=15.0)
_HEADERS = {"user-agent": "Innkeeper", "accept": "*/*", "accept-encoding": "identity"}
_LONGEST_REASON = 200


class Posts:
    """A pool of connections. Making one reads the system's certificates, which takes a while."""

    def __init__(self) -> None:
        self._transport = httpx2.AsyncHTTPTransport(limits=_LIMITS)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer. Raises: DeliveryFailed if there is none."""
        try:
            request = httpx2.Request("POST", url, content=body, headers={**_HEADERS, **headers})
            answer = await self._transport.handle_async_request(request)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise DeliveryFailed(f"{type(error).__name__}: {error}"[:_LONGEST_REASON].rstrip(": ")) from None
        try:
            await _drain(answer)
        finally:
            await answer.aclose()
        return answer.status_code

    async def close(self) -> None:
        await self._transport.aclose()


async def _drain(answer: httpx2.Response) -> None:
    """Read a short body to its end; a long, slow or broken one costs the connection and nothing else."""
    size = 0
    with contextlib.suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in answer.aiter_raw():
                size += len(part)
                if size > MAX_BODY:
                    return
