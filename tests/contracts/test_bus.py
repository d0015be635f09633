"""What every bus does; each sentence of the port's docstring, over every adapter that it is about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from innkeeper.buses.memory import MemoryBus
from innkeeper.core.errors import SetupError
from innkeeper.ports.bus import Bus
from tests.support.buses import BusServer, Ear, PostgresServer, RedisServer
from tests.support.sizes import within

Buses = list[tuple[Bus, Ear]]

EVERY_CHARACTER = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != ",")


@pytest.fixture(params=["postgres", "redis"])
def server(request: pytest.FixtureRequest) -> BusServer:
    if request.param == "postgres":
        return PostgresServer(request.getfixturevalue("postgres_database"))
    return RedisServer(request.getfixturevalue("redis_url"))


@pytest.fixture(params=["memory", "postgres", "redis"])
def bus(request: pytest.FixtureRequest) -> Bus:
    """Any, not yet open."""
    match request.param:
        case "memory":
            return MemoryBus()
        case "postgres":
            return PostgresServer(request.getfixturevalue("postgres_database")).bus()
        case _:
            return RedisServer(request.getfixturevalue("redis_url")).bus()


@pytest.fixture
async def buses(server: BusServer) -> AsyncIterator[Buses]:
    """Three that are open, each as another process would have it."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(3):
            bus, ear = server.bus(), Ear()
            await bus.open(ear)
            stack.push_async_callback(bus.close)
            opened.append((bus, ear))
        yield opened


async def test_a_topic_reaches_every_other_process(buses: Buses) -> None:
    for number, (bus, _) in enumerate(buses):
        bus.publish(f"run:{number}")
    for number, (_, ear) in enumerate(buses):
        for other in {0, 1, 2} - {number}:
            await ear.hears(f"run:{other}")


async def test_receive_is_called_on_the_event_loop(server: BusServer, buses: Buses) -> None:
    loops = asyncio.Queue[object]()
    bus = server.bus()
    await bus.open(lambda _: loops.put_nowait(asyncio.get_running_loop()))
    buses[0][0].publish("a")
    assert await loops.get() is asyncio.get_running_loop()
    await bus.close()


async def test_what_is_published_in_one_turn_goes_out_together_each_topic_once(buses: Buses) -> None:
    (bus, _), (_, ear), _ = buses
    for topic in ("a", "b", "a", "c", "b"):
        bus.publish(topic)
    await ear.hears("c")
    assert ear.calls == [("a", "b", "c")]


async def test_a_topic_that_is_published_again_later_is_told_again(buses: Buses) -> None:
    (bus, _), (_, ear), _ = buses
    for times in range(1, 4):
        bus.publish("a")
        await ear.until(lambda times=times: len(ear.calls) == times)  # type: ignore[misc]
    assert ear.calls == [("a",)] * 3


async def test_a_topic_may_be_200_characters_of_any_kind_that_is_allowed(buses: Buses) -> None:
    (bus, _), (_, ear), _ = buses
    longest = (EVERY_CHARACTER * 3)[:200]
    bus.publish(longest)
    bus.publish(EVERY_CHARACTER)
    await ear.hears(EVERY_CHARACTER)
    assert ear.calls == [(longest, EVERY_CHARACTER)]


async def test_publishing_never_waits_and_never_fails(bus: Bus) -> None:
    await bus.open(Ear())
    began = time.monotonic()
    for number in range(50_000):
        bus.publish(f"run:{number}")
    assert time.monotonic() - began < within(1, 10)
    for topic in ("", "two words", "a,b", "ä", "a\n", "\0", "x" * 201):
        bus.publish(topic)
    await bus.close()


async def test_a_topic_that_is_none_takes_no_other_with_it(buses: Buses) -> None:
    (bus, _), (_, ear), _ = buses
    for topic in ("", "a", "two words", "b,c", "ä", "d\n", "x" * 201, "e"):
        bus.publish(topic)
    await ear.hears("e")
    assert ear.calls == [("a", "e")]


async def test_before_it_is_open_and_after_it_is_closed_publishing_does_nothing(
    server: BusServer, buses: Buses
) -> None:
    other = server.bus()
    other.publish("early")
    await other.open(Ear())
    other.publish("a")
    await buses[0][1].hears("a")
    await other.close()
    other.publish("late")
    buses[1][0].publish("b")
    await buses[0][1].hears("b")
    assert buses[0][1].topics == ["a", "b"]


async def test_a_closed_bus_tells_nothing_more(server: BusServer, buses: Buses) -> None:
    ear, bus = Ear(), server.bus()
    await bus.open(ear)
    await bus.close()
    buses[0][0].publish("a")
    await buses[1][1].hears("a")
    assert ear.calls == []


async def test_closing_is_idempotent(bus: Bus) -> None:
    await bus.close()
    await bus.open(Ear())
    await asyncio.gather(bus.close(), bus.close())
    await bus.close()


async def test_a_lost_connection_is_made_again_and_then_anything_may_have_happened(
    server: BusServer, buses: Buses
) -> None:
    assert await server.cut() >= len(buses)
    for _, ear in buses:
        await ear.until(lambda ear=ear: ear.calls == [()])  # type: ignore[misc]
    buses[0][0].publish("a")
    await buses[1][1].hears("a")
    await buses[2][1].hears("a")


async def test_what_cannot_be_reached_is_an_error_at_opening(server: BusServer) -> None:
    bus = server.bus(server.unreachable)
    with pytest.raises(SetupError, match="cannot be reached"):
        await bus.open(Ear())
    bus.publish("a")
    await bus.close()
