"""What everything that counts towards rates does; each sentence of the port's docstring, over every adapter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from innkeeper.core.errors import SetupError
from innkeeper.core.rates import Rate, Verdict
from innkeeper.limiters.memory import MemoryLimiter
from innkeeper.limiters.redis import PREFIX, RedisLimiter
from innkeeper.ports.limits import Limiter
from tests.support.doorways import Doorway
from tests.support.sizes import within

MINUTE = Rate(5, 60)


@pytest.fixture(params=["memory", "redis"])
async def limiter(request: pytest.FixtureRequest) -> AsyncIterator[Limiter]:
    if request.param == "memory":
        opened: Limiter = MemoryLimiter()
    else:
        opened = RedisLimiter(request.getfixturevalue("redis_url"), patience=5)
    yield opened
    await opened.close()


@pytest.fixture
def who() -> str:
    """Somebody whom no other test counts."""
    return uuid4().hex


async def hit(limiter: Limiter, who: str, rate: Rate = MINUTE, rule: str = "user") -> Verdict:
    counting = limiter.hit(rule, who, rate)
    return counting if isinstance(counting, Verdict) else await counting


async def test_as_much_as_the_amount_is_allowed_and_nothing_beyond_it(limiter: Limiter, who: str) -> None:
    verdicts = [await hit(limiter, who) for _ in range(7)]
    assert [one.is_allowed for one in verdicts] == [True] * 5 + [False] * 2
    assert [one.remaining for one in verdicts] == [4, 3, 2, 1, 0, 0, 0]
    assert {one.limit for one in verdicts} == {5}


async def test_window_begins_with_the_first_and_what_is_refused_prolongs_nothing(limiter: Limiter, who: str) -> None:
    began = time.monotonic()
    lefts = [(await hit(limiter, who)).reset_after for _ in range(20)]
    passed = time.monotonic() - began
    assert 60 - passed - 0.1 <= lefts[0] <= 60
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] >= 60 - passed - 0.1


async def test_after_its_end_a_window_begins_anew(limiter: Limiter, who: str) -> None:
    rate = Rate(1, 1)
    assert (await hit(limiter, who, rate)).is_allowed
    refused = await hit(limiter, who, rate)
    assert not refused.is_allowed
    await asyncio.sleep(refused.reset_after + 0.01)
    again = await hit(limiter, who, rate)
    assert again.is_allowed
    assert within(0.9, 0) < again.reset_after <= 1


async def test_rules_and_callers_do_not_touch_each_other(limiter: Limiter, who: str) -> None:
    for _ in range(6):
        await hit(limiter, who)
    assert (await hit(limiter, f"{who}x")).remaining == 4
    assert (await hit(limiter, who, rule="chat")).remaining == 4
    assert not (await hit(limiter, who)).is_allowed


async def test_of_many_at_once_exactly_as_many_are_allowed(limiter: Limiter, who: str) -> None:
    rate = Rate(100, 60)
    verdicts = await asyncio.gather(*[hit(limiter, who, rate) for _ in range(500)])
    assert sum(one.is_allowed for one in verdicts) == 100
    assert sorted({one.remaining for one in verdicts}) == list(range(100))


async def test_a_closed_one_counts_all_the_same(limiter: Limiter, who: str) -> None:
    await hit(limiter, who)
    await limiter.close()
    await limiter.close()
    assert (await hit(limiter, who)).remaining == 3


# memory


def test_memory_is_bounded_and_who_was_first_is_forgotten_first() -> None:
    now = [0.0]
    limiter = MemoryLimiter(lambda: now[0], most=1000)
    for number in range(10_000):
        now[0] += 0.001
        limiter.hit("anonymous", str(number), MINUTE)
    assert len(limiter) == 1000
    assert limiter.hit("anonymous", "9999", MINUTE).remaining == 3
    assert limiter.hit("anonymous", "0", MINUTE).remaining == 4


def test_windows_that_have_ended_are_forgotten_by_and_by() -> None:
    now = [0.0]
    limiter = MemoryLimiter(lambda: now[0])
    for number in range(1000):
        limiter.hit("anonymous", str(number), MINUTE)
    now[0] = 60.0
    for number in range(600):
        limiter.hit("anonymous", f"late {number}", MINUTE)
    assert len(limiter) == 600


# Redis


async def test_processes_that_share_a_redis_count_together(redis_url: str, who: str) -> None:
    limiters = [RedisLimiter(redis_url, patience=5) for _ in range(3)]
    rate = Rate(70, 60)
    verdicts = await asyncio.gather(*[hit(limiter, who, rate) for limiter in limiters for _ in range(50)])
    assert sum(one.is_allowed for one in verdicts) == 70
    for limiter in limiters:
        await limiter.close()


async def test_nothing_is_left_in_redis_without_an_end(redis_url: str, who: str) -> None:
    from redis.asyncio import Redis

    limiter = RedisLimiter(redis_url, patience=5)
    await hit(limiter, who)
    async with Redis.from_url(redis_url) as client:
        assert 0 < await client.pttl(f"{PREFIX}:user:{MINUTE}:{who}") <= 60_000
    await limiter.close()


async def test_a_window_that_would_end_too_late_since_redis_had_another_time_ends_in_time(
    redis_url: str, who: str
) -> None:
    from redis.asyncio import Redis

    limiter = RedisLimiter(redis_url, patience=5)
    for _ in range(6):
        await hit(limiter, who)
    async with Redis.from_url(redis_url) as client:
        await client.pexpire(f"{PREFIX}:user:{MINUTE}:{who}", 3_600_000)  # as if its clock had been set back by an hour
    refused = await hit(limiter, who)
    assert not refused.is_allowed and refused.reset_after <= 60
    await limiter.close()


@pytest.fixture
async def doorway(redis_url: str) -> AsyncIterator[Doorway]:
    parts = urlsplit(redis_url)
    doorway = Doorway(parts.hostname or "", parts.port or 6379)
    await doorway.open()
    yield doorway
    doorway.thaw()
    doorway.shut()


@pytest.mark.parametrize("how", ["frozen", "shut"])
async def test_while_redis_is_away_a_process_counts_alone_and_waits_once(doorway: Doorway, who: str, how: str) -> None:
    limiter = RedisLimiter(f"redis://127.0.0.1:{doorway.port}")
    assert (await hit(limiter, who)).remaining == 4
    if how == "frozen":
        doorway.freeze()
    else:
        doorway.shut()
    began = time.monotonic()
    verdicts = await asyncio.gather(*[hit(limiter, who) for _ in range(20)])
    assert time.monotonic() - began < within(0.5, 4), "a quarter of a second, and not for each"
    assert sum(one.is_allowed for one in verdicts) == 5
    assert isinstance(limiter.hit("user", who, MINUTE), Verdict), "it is not asked again"
    await limiter.close()


async def test_when_redis_is_back_its_counts_hold_again(doorway: Doorway, who: str) -> None:
    limiter = RedisLimiter(f"redis://127.0.0.1:{doorway.port}")
    for _ in range(4):
        await hit(limiter, who)
    doorway.freeze()
    await hit(limiter, who)
    doorway.thaw()
    async with asyncio.timeout(30):
        while isinstance(counting := limiter.hit("other", who, MINUTE), Verdict):
            await asyncio.sleep(0.05)
        await counting
    assert (await hit(limiter, who)).remaining == 0
    await limiter.close()


def test_an_address_that_cannot_be_is_refused_without_being_told() -> None:
    with pytest.raises(SetupError) as refused:
        RedisLimiter("redis://:open-sesame@host:port/0")
    assert "REDIS_URL" in refused.value.message
    assert "sesame" not in refused.value.message
