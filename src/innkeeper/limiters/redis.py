"""Counts in Redis: those of all processes that share it.

What is asked in one turn of the loop, and while the last answer is under way, goes out together over one connection.
While Redis does not answer, this process counts for itself: requests go on, each at its rate a process, and nobody
waits for more than `patience` seconds, nor twice. It uses the driver's connection and not its client, which would
connect again by itself, wait for it, and make a connection for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import exceptions
from redis.asyncio import ConnectionPool

from innkeeper.core.errors import SetupError
from innkeeper.core.rates import Rate, Verdict
from innkeeper.limiters.memory import MemoryLimiter

_logger = logging.getLogger(__name__)

PREFIX = "innkeeper:rates"
_PAUSE = 1.0
_LOOKS = 5
_MOST_AT_ONCE = 200
_SCRIPT = """
local count = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 or left > tonumber(ARGV[1]) then -- without an end, or the clock was set back
    redis.call('PEXPIRE', KEYS[1], ARGV[1])
    left = tonumber(ARGV[1])
end
return {count, left}
"""

T = TypeVar("T")
Connection = Any
"""The driver's own; half of its methods have no types."""


@dataclass(frozen=True, slots=True)
class _Asked:
    rule: str
    who: str
    rate: Rate
    answer: asyncio.Future[Verdict]

    @property
    def command(self) -> tuple[str, str]:
        return f"{PREFIX}:{self.rule}:{self.rate}:{self.who}", str(self.rate.seconds * 1000)


class RedisLimiter:
    """Implements `ports.limits.Limiter`. It belongs to the loop that asks, and begins anew where that is another."""

    def __init__(self, url: str, *, patience: float = 0.25) -> None:
        """Raises: SetupError for an address that cannot be one."""
        self._patience = patience
        self._alone = MemoryLimiter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._line: Connection = None
        self._script = ""
        self._waiting: list[_Asked] = []
        self._asking: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        try:
            self._pool: Any = ConnectionPool.from_url(
                url,
                protocol=2,
                client_name=f"innkeeper-rates-{os.getpid()}",
                socket_connect_timeout=None,
                socket_timeout=None,
            )
        except (ValueError, TypeError, exceptions.RedisError):  # their text may quote a piece of the URL
            raise SetupError(
                "REDIS_URL is not an address that can be used; it should read redis://user:password@host:port/0,"
                " rediss://… or unix:///path, with special characters percent-encoded."
            ) from None

    def hit(self, rule: str, who: str, rate: Rate) -> Verdict | Awaitable[Verdict]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._line, self._waiting, self._asking, self._returning = None, [], None, None
        if self._returning is not None:
            return self._alone.hit(rule, who, rate)
        asked = _Asked(rule, who, rate, loop.create_future())
        self._waiting.append(asked)
        if self._asking is None or self._asking.done():
            self._asking = loop.create_task(self._ask_all())
        return asked.answer

    async def close(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            return
        tasks = [task for task in (self._asking, self._returning) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._alone_for(self._waiting)
        await self._hang_up()
        self._loop = None

    async def _ask_all(self) -> None:
        """Ask until nobody waits."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
            try:
                answers = await self._patiently(self._ask(batch))
            except BaseException as error:
                self._waiting = [*batch, *self._waiting]
                if not isinstance(error, Exception):
                    raise
                self._lose(error)
                return
            for one, (count, left) in zip(batch, answers, strict=True):
                if not one.answer.done():  # whoever asked may have left
                    one.answer.set_result(_verdict(one.rate, count, left))

    async def _patiently(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises: TimeoutError. A loop that stood still finds the answers that came meanwhile before it gives up."""
        task = asyncio.get_running_loop().create_task(work)
        try:
            for _ in range(_LOOKS):
                if (await asyncio.wait({task}, timeout=self._patience / _LOOKS))[0]:
                    return task.result()
        finally:
            task.cancel()
        raise TimeoutError

    async def _ask(self, batch: Sequence[_Asked]) -> list[tuple[int, int]]:
        if self._line is None:
            await self._connect()
        line = self._line
        commands = [("EVALSHA", self._script, "1", *one.command) for one in batch]
        await line.send_packed_command(line.pack_commands(commands))
        return [tuple(await line.read_response()) for _ in batch]

    async def _connect(self) -> None:
        line = self._line = self._pool.make_connection()
        await line.connect()
        await line.send_command("SCRIPT", "LOAD", _SCRIPT)
        self._script = (await line.read_response()).decode()

    # while it is away

    def _lose(self, error: Exception) -> None:
        """From now on this process counts alone, until Redis is back."""
        # The error's text is not ours, and may hold anything.
        _logger.warning(
            "Redis does not answer (%s): until it does, each process counts for itself, for rate limits",
            type(error).__name__,
        )
        waiting, self._waiting = self._waiting, []
        self._returning = asyncio.get_running_loop().create_task(self._return())
        self._alone_for(waiting)

    def _alone_for(self, waiting: Sequence[_Asked]) -> None:
        for one in waiting:
            if not one.answer.done():
                one.answer.set_result(self._alone.hit(one.rule, one.who, one.rate))

    async def _return(self) -> None:
        while True:
            await self._hang_up()
            await asyncio.sleep(_PAUSE)
            with contextlib.suppress(OSError, TimeoutError, exceptions.RedisError):
                await self._patiently(self._connect())
                _logger.info("Redis is back, and rate limits are counted there")
                self._returning = None
                return

    async def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(Exception):
                await line.disconnect(nowait=True)


def _verdict(rate: Rate, count: int, left: int) -> Verdict:
    return Verdict(count <= rate.amount, rate.amount, max(rate.amount - count, 0), left / 1000)
