"""The bus over Redis where it differs: its addresses, its errors, and what a user must be allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from innkeeper.buses.redis import RedisBus
from innkeeper.core.errors import SetupError
from tests.support.buses import Ear
from tests.support.services import free_port, running_redis

SECRET = "hunter2"


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """`host:port` of a server that these tests may reconfigure."""
    with running_redis() as url:
        yield urlsplit(url).netloc


@pytest.fixture
async def server(own_server: str) -> AsyncIterator[str]:
    """`host:port`, where the default user's password is "another" and `mute` may only subscribe."""
    async with Redis.from_url(f"redis://{own_server}") as administrator:
        user: dict[str, Any] = {
            "enabled": True,
            "passwords": [f"+{SECRET}"],
            "reset_passwords": True,
            "categories": ["+@all"],
        }
        await administrator.acl_setuser("mute", channels=["*"], commands=["-publish"], **user)
        await administrator.acl_setuser("deaf", reset_channels=True, **user)
        await administrator.config_set("requirepass", "another")
        yield own_server
        await administrator.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("redis://:{secret}@{server}", "refused the user or the password"),
        ("redis://nobody:{secret}@{server}/0", "refused the user or the password"),
        ("redis://{server}/0?client_name={secret}", "refused the user or the password"),
        ("redis://mute:{secret}@{server}", "innkeeper:wakes"),
        ("redis://deaf:{secret}@{server}", "innkeeper:wakes"),
        ("redis://:another@{server}/99", "refused the connection"),
        ("redis://:{secret}@127.0.0.1:{free}/0", "cannot be reached"),
        ("redis://:{secret}@no-such-host.invalid/0", "cannot be reached"),
        ("rediss://:{secret}@{server}/0", "cannot be reached"),
        ("unix:///no/such/socket?password={secret}", "cannot be reached"),
        ("redis://:{secret}/x@127.0.0.1/0", "percent-encoded"),
        ("redis://localhost:{free}/{secret}@127.0.0.1", "percent-encoded"),
        ("redis://localhost:{free}?client_name={secret}@127.0.0.1", "percent-encoded"),
        ("redis://localhost:{free}#{secret}@127.0.0.1", "percent-encoded"),
        ("redis://:{secret}@{server}/0?protocol={secret}", "percent-encoded"),
        ("redis://:{secret}@{server}/0?unheard={secret}", "percent-encoded"),
        ("redis://:{secret}@[{secret}/0", "percent-encoded"),
        ("http://:{secret}@{server}", "percent-encoded"),
        ("{secret}", "percent-encoded"),
    ],
)
async def test_a_redis_that_cannot_be_used_is_told_with_the_cause_and_without_the_password(
    server: str, url: str, cause: str
) -> None:
    with pytest.raises(SetupError, match=cause) as refused:
        await RedisBus(url.format(secret=SECRET, server=server, free=free_port()), patience=1.0).open(Ear())
    told = str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error!r} {error} {error.__dict__}", told
        error = None if error.__suppress_context__ else error.__context__


@pytest.mark.parametrize("answer", [b"-ERR unknown command, with args beginning with: hunter2\r\n", b"220 hunter2\r\n"])
async def test_what_is_no_redis_cannot_make_a_message_show_the_password(answer: bytes) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(SetupError, match="Is it a Redis") as refused:
        await RedisBus(f"redis://:{SECRET}@127.0.0.1:{port}").open(Ear())
    assert SECRET not in str(refused.value)
    server.close()


async def test_a_password_is_used_and_its_special_characters_are_percent_encoded(own_server: str) -> None:
    async with Redis.from_url(f"redis://{own_server}") as administrator:
        await administrator.config_set("requirepass", "a/b@c#d?e:f")
        bus, heard = RedisBus(f"redis://:a%2Fb%40c%23d%3Fe%3Af@{own_server}/0"), Ear()
        await bus.open(heard)
        await administrator.publish("innkeeper:wakes", "0123456789abcdef a")
        await heard.hears("a")
        await bus.close()
        await administrator.config_set("requirepass", "")
