"""What buses over a network do beyond their contract: what they send, and how they live through bad times."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Collection

import pytest

from innkeeper.buses.messages import MOST_BYTES, new_sender
from innkeeper.ports.bus import Bus
from tests.support.buses import BusServer, Ear
from tests.support.doorways import Doorway
from tests.support.sizes import within


@pytest.fixture
async def ear(server: BusServer) -> AsyncIterator[Ear]:
    """Of another process, whose bus nothing happens to."""
    heard, bus = Ear(), server.bus()
    await bus.open(heard)
    yield heard
    await bus.close()


@pytest.fixture
async def doorway(server: BusServer) -> AsyncIterator[Doorway]:
    async with server.doorway() as opened:
        yield opened


PATIENCE = within(0.3, 0.6)


@pytest.fixture
async def behind(server: BusServer, doorway: Doorway) -> AsyncIterator[tuple[Bus, Ear]]:
    """A bus that is connected through the doorway, and loses its patience soon."""
    bus, heard = server.bus(server.through(doorway.port), patience=PATIENCE), Ear()
    await bus.open(heard)
    yield bus, heard
    await bus.close()


async def test_many_topics_of_one_turn_are_few_messages(server: BusServer, ear: Ear) -> None:
    bus = server.bus()
    await bus.open(Ear())
    topics = [f"run:{number:036}" for number in range(1000)]
    async with server.overheard() as messages:
        for topic in topics * 2:
            bus.publish(topic)
        await ear.hears(topics[-1])
        await bus.close()
        await server.say("the end")
        async with asyncio.timeout(30):
            while messages[-1:] != ["the end"]:
                await asyncio.sleep(0.01)
    assert ear.topics == topics
    assert len(messages) == 7  # 1,000 topics of 41 bytes, 192 in each
    assert len(messages[0]) > MOST_BYTES - 41


async def test_a_bus_is_not_told_what_it_published_itself(server: BusServer, ear: Ear) -> None:
    bus, own = server.bus(), Ear()
    await bus.open(own)
    bus.publish("a")
    await ear.hears("a")
    await server.say(f"{new_sender()} b")  # comes after it, on the same connection
    await own.hears("b")
    assert own.topics == ["b"]
    await bus.close()


async def test_what_others_send_on_the_channel_is_passed_over(server: BusServer, ear: Ear) -> None:
    await server.say("", "hello", "run:1", "a,b", f"{new_sender()} two words", f"{new_sender()} ä", "x" * 7_999)
    await server.say(f"{new_sender()} a")
    await ear.hears("a")
    assert ear.calls == [("a",)]


async def test_a_receiver_that_raises_is_called_again(server: BusServer, caplog: pytest.LogCaptureFixture) -> None:
    heard, bus, other = Ear(), server.bus(), server.bus()

    def receive(topics: Collection[str]) -> None:
        heard(topics)
        raise RuntimeError("not now")

    await bus.open(receive)
    await other.open(Ear())
    for topic in ("a", "b"):
        other.publish(topic)
        await heard.hears(topic)
    await asyncio.gather(bus.close(), other.close())
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["not now", "not now"]


async def test_what_is_published_right_before_closing_is_sent(server: BusServer, ear: Ear) -> None:
    bus = server.bus()
    await bus.open(Ear())
    bus.publish("a")
    await bus.close()
    await ear.hears("a")


async def test_while_the_server_is_away_publishing_neither_waits_nor_fails_and_is_made_up_for(
    server: BusServer, doorway: Doorway, ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    bus, own = server.bus(server.through(doorway.port)), Ear()
    await bus.open(own)
    doorway.shut()
    began = time.monotonic()
    for number in range(20_000):
        bus.publish(f"run:{number}")
    assert time.monotonic() - began < within(0.5, 4)
    await _logged("cannot be reached", caplog)
    bus.publish("meanwhile")
    assert own.calls == []
    await doorway.open()
    await own.until(lambda: own.calls == [()])
    async with asyncio.timeout(within(5, 9)):  # and not only when it looks after its connection again
        await ear.hears("run:9999")
    assert len(ear.topics) == 10_000  # what would be kept in memory has a limit
    bus.publish("after")
    await ear.hears("after")
    await bus.close()


@pytest.mark.parametrize("frozen", [[0], [-1], None], ids=["the-first", "the-last", "all"])
async def test_a_connection_over_which_nothing_comes_any_more_is_noticed_without_being_used(
    behind: tuple[Bus, Ear],
    doorway: Doorway,
    ear: Ear,
    frozen: list[int] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus, own = behind
    doorway.freeze(frozen)
    await _logged("was lost", caplog)
    bus.publish("a")
    doorway.thaw()
    await own.until(lambda: own.calls == [()])
    await ear.hears("a")


async def test_a_bus_over_which_nothing_is_said_stays_connected(
    behind: tuple[Bus, Ear], ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    bus, own = behind
    await asyncio.sleep(7 * PATIENCE)  # longer than all of its spells of waiting
    bus.publish("a")
    await ear.hears("a")
    assert "was lost" not in caplog.text
    assert own.calls == []


async def test_closing_while_the_server_does_not_answer_takes_a_moment_only(
    behind: tuple[Bus, Ear], doorway: Doorway
) -> None:
    bus, _ = behind
    doorway.freeze()
    bus.publish("a")
    began = time.monotonic()
    await bus.close()
    assert time.monotonic() - began < within(2.5, 15)


async def test_closing_while_the_server_is_away_is_quick_and_leaves_nothing_behind(
    behind: tuple[Bus, Ear], doorway: Doorway, caplog: pytest.LogCaptureFixture
) -> None:
    bus, own = behind
    doorway.shut()
    await _logged("was lost", caplog)
    began = time.monotonic()
    await bus.close()
    assert time.monotonic() - began < within(0.5, 5)
    assert own.calls == []
    del bus
    gc.collect()  # a connection that is left open is a warning, and so an error
    assert [task.get_name() for task in asyncio.all_tasks() if "_keep" in repr(task) or "_listen" in repr(task)] == []


async def test_a_bus_can_be_opened_again(server: BusServer, ear: Ear) -> None:
    bus = server.bus()
    for topic in ("a", "b"):
        await bus.open(Ear())
        bus.publish(topic)
        await ear.hears(topic)
        await bus.close()


async def test_losses_are_logged_without_the_address_being_told_in_full(
    server: BusServer, doorway: Doorway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bus, heard = server.bus(_with_password(server.through(doorway.port))), Ear()
    await bus.open(heard)
    await server.cut()
    await heard.until(lambda: heard.calls == [()])
    await bus.close()
    told = [record.getMessage() for record in caplog.records if record.name.startswith("innkeeper.buses")]
    assert ["was lost" in told[0], "is back" in told[-1]] == [True, True]
    assert all(f"127.0.0.1:{doorway.port}" in line and "hunter2" not in line for line in told)


async def _logged(words: str, caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(30):
        while words not in caplog.text:
            await asyncio.sleep(0.01)


def _with_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{'postgres' if scheme == 'postgresql' else 'default'}:hunter2@{rest.rpartition('@')[2]}"
