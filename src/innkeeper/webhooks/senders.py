"""Senders: `ports.senders.Sender` over HTTP, to the operator's list of hosts only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from innkeeper.core.errors import Invalid
from innkeeper.ports.senders import DeliveryFailed
from innkeeper.webhooks.origins import MAX_URL, AllowedOrigins, origin_of

if TYPE_CHECKING:
    from innkeeper.webhooks.posts import Posts

_SETTING = "webhook_allowed_hosts (WEBHOOK_ALLOWED_HOSTS)"


class HttpSender:
    """Belongs to one event loop. `seconds` bounds one delivery from its first byte to the receiver's status."""

    def __init__(self, allowed_hosts: Iterable[str], *, seconds: float = 10.0) -> None:
        """Raises: SetupError for an entry that cannot be."""
        self._allowed = AllowedOrigins(allowed_hosts)
        self._seconds = seconds
        self._posts: Posts | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    def check(self, url: str) -> None:
        if refusal := self._refusal(url):
            raise Invalid(f"webhook: {refusal}", param="webhook")

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        if refusal := self._refusal(url):
            raise DeliveryFailed(refusal)
        try:
            async with asyncio.timeout(self._seconds):
                posts = self._posts or await self._open()
                status = await posts.post(url, body, headers)
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._seconds:g} s") from None
        if not 200 <= status < 300:
            raise DeliveryFailed(f"answered with {status}")

    async def close(self) -> None:
        self._is_closed = True
        async with self._opening:
            posts, self._posts = self._posts, None
            if posts is not None:
                await posts.close()

    def _refusal(self, url: str) -> str | None:
        if not self._allowed:
            return f"webhooks are off on this server; its operator names who may be told in {_SETTING}."
        if len(url) > MAX_URL:
            return f"a URL has at most {MAX_URL} characters."
        origin = origin_of(url)
        if origin is None:
            return (
                "give an absolute http or https URL in ASCII, without user name, password or fragment; a host with "
                "other letters is written in its xn-- form, without a dot at its end, and anything else "
                "percent-encoded."
            )
        if origin not in self._allowed:
            return f"its scheme, host and port are not among those that this server's {_SETTING} names."
        return None

    async def _open(self) -> Posts:
        """The connections, made at the first delivery and in a thread: few servers ever need them."""
        async with self._opening:
            if self._is_closed:
                raise DeliveryFailed("the server is stopping")
            if self._posts is None:
                self._posts = await asyncio.to_thread(_new_posts)
            return self._posts


def _new_posts() -> Posts:
    from innkeeper.webhooks.posts import Posts

    return Posts()
