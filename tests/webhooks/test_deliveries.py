"""Deliveries: what is due is sent, what fails is tried again, and nothing is lost with the process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from innkeeper.core.errors import SetupError
from innkeeper.core.runs import Run
from innkeeper.core.webhooks import RETRIES
from innkeeper.services.webhooks import AT_ONCE, Deliveries, notice, signed
from innkeeper.webhooks.senders import HttpSender
from tests.support.receivers import Receiver, running_receiver, silence, status
from tests.support.sizes import within
from tests.webhooks.books import Book, Clock

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
Start = Callable[..., Deliveries]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> Book:
    return Book(clock)


@pytest.fixture
async def start(receiver: Receiver, book: Book, clock: Clock) -> AsyncIterator[Start]:
    """Starts a process's deliveries; `seconds` is the sender's patience."""
    async with AsyncExitStack() as stack:

        def begin(
            *,
            worker: str = "w1",
            seconds: float = 5,
            now: Callable[[], int] = clock,
            retries: Sequence[float] = RETRIES,
        ) -> Deliveries:
            sender = HttpSender([receiver.host], seconds=seconds)
            deliveries = Deliveries(journal=book, sender=sender, now=now, worker=worker, secret=SECRET, retries=retries)
            deliveries.start()
            stack.push_async_callback(sender.close)
            stack.push_async_callback(deliveries.stop, 0)
            return deliveries

        yield begin


async def test_what_is_due_at_start_arrives_signed_and_is_settled(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    book.add("msg_1", run, f"{receiver.url}?key=1")
    start()
    request = await receiver.next()
    settled = await book.next_settled()
    assert (request.target, request.body) == ("/hook?key=1", notice(run))
    expected = signed(SECRET, "msg_1", clock.now // 1_000_000, request.body)
    assert {name: request.headers[name] for name in expected} == expected
    assert request.headers["content-type"] == "application/json"
    assert (settled.id, settled.is_delivered, settled.retry_at) == ("msg_1", True, None)


async def test_wake_sends_at_once_what_became_due_later(receiver: Receiver, book: Book, run: Run, start: Start) -> None:
    book.add("msg_1", run, receiver.url)
    deliveries = start()
    await book.next_settled()
    began = time.monotonic()
    book.add("msg_2", run, receiver.url)
    deliveries.wake()
    assert (await book.next_settled()).id == "msg_2"
    assert time.monotonic() - began < within(2, 4), "less than until the store is looked at anyway"


async def test_what_fails_is_tried_again_after_the_times_of_the_schedule_and_then_given_up(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers += [status(500)] * 10
    book.add("msg_1", run, f"{receiver.url}/T0-path?T0-query")
    deliveries, stamps = start(), []
    for pause in (5, 30, 120, 600, 3_600, 21_600):
        settled = await book.next_settled()
        assert not settled.is_delivered
        assert settled.retry_at is not None
        assert 0.9 * pause <= (settled.retry_at - clock.now) / 1_000_000 <= 1.1 * pause
        stamps.append(clock.now // 1_000_000)
        clock.now = settled.retry_at
        deliveries.wake()
    last = await book.next_settled()
    assert (last.is_delivered, last.retry_at) == (False, None)
    requests = receiver.requests
    assert {(request.headers["webhook-id"], request.body) for request in requests} == {("msg_1", notice(run))}
    assert [int(request.headers["webhook-timestamp"]) for request in requests[:6]] == stamps
    assert len(requests) == 7
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.rpartition("; ")[2][:5] for line in lines] == ["tried"] * 6 + ["given"]
    assert all(f"http://{receiver.host} did not take it" in line and "answered with 500" in line for line in lines)
    assert "T0" not in caplog.text
    assert SECRET[6:] not in caplog.text


async def test_a_retry_is_not_made_before_its_time(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    receiver.answers.append(status(500))
    book.add("msg_1", run, receiver.url)
    deliveries = start()
    settled = await book.next_settled()
    assert settled.retry_at is not None
    clock.now = settled.retry_at - 1
    book.add("msg_2", run, receiver.url)
    deliveries.wake()
    assert (await book.next_settled()).id == "msg_2"
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["msg_1", "msg_2"]


async def test_pauses_differ_so_that_what_failed_together_is_not_tried_together(
    receiver: Receiver, book: Book, run: Run, start: Start
) -> None:
    receiver.answers += [status(500)] * 8
    for number in range(8):
        book.add(f"msg_{number}", run, receiver.url)
    start()
    assert len({(await book.next_settled()).retry_at for _ in range(8)}) == 8


async def test_a_retry_is_made_by_itself_when_its_time_has_come(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    receiver.answers += [status(500), status(503)]
    book.add("msg_1", run, receiver.url)
    began = time.monotonic()
    start(now=lambda: time.time_ns() // 1_000, retries=(0.05, 0.05))
    assert [(await book.next_settled()).is_delivered for _ in range(3)] == [False, False, True]
    assert 0.09 < time.monotonic() - began < within(3, 20)


async def test_at_most_eight_are_sent_at_once_and_the_ninth_when_one_is_done(
    receiver: Receiver, book: Book, run: Run, start: Start
) -> None:
    free = asyncio.Event()

    async def once_free(writer: asyncio.StreamWriter) -> None:
        await free.wait()
        await status(200)(writer)

    receiver.answers += [once_free] * 20
    for number in range(20):
        book.add(f"msg_{number}", run, receiver.url)
    start()
    for _ in range(AT_ONCE):
        await receiver.next()
    held = [row for row in book.rows.values() if row.held_until]
    assert (len(held), len(receiver.requests)) == (8, 8), "what is not sent yet is left to others"
    free.set()
    async with asyncio.timeout(4):  # less than until the store is looked at anyway
        assert {(await book.next_settled()).id for _ in range(20)} == set(book.rows)


async def test_what_a_killed_process_had_under_way_is_sent_again_under_the_same_id(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    receiver.answers.append(silence)
    book.add("msg_1", run, receiver.url)
    killed = start(worker="w1")
    first = await receiver.next()
    book.is_away = True  # a process that is killed tells the store nothing
    await killed.stop(0)
    book.is_away = False
    other = start(worker="w2")
    clock.advance(59)
    other.wake()
    book.add("msg_2", run, receiver.url)
    assert (await book.next_settled()).id == "msg_2"
    clock.advance(2)
    other.wake()
    settled = await book.next_settled()
    assert (settled.id, settled.is_delivered) == ("msg_1", True)
    again = receiver.requests[-1]
    assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
    assert again.headers["webhook-timestamp"] != first.headers["webhook-timestamp"]


async def test_two_processes_send_each_delivery_once(receiver: Receiver, book: Book, run: Run, start: Start) -> None:
    for number in range(40):
        book.add(f"msg_{number}", run, receiver.url)
    start(worker="w1")
    start(worker="w2")
    assert sorted([(await book.next_settled()).id for _ in range(40)]) == sorted(book.rows)
    assert len(receiver.requests) == 40


async def test_a_server_that_stops_hands_back_what_is_under_way(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    receiver.answers.append(silence)
    book.add("msg_1", run, receiver.url)
    stopping = start()
    await receiver.next()
    await stopping.stop(0.05)
    handed_back = await book.next_settled()
    assert (handed_back.is_delivered, handed_back.retry_at) == (False, clock.now)
    start(worker="w2")
    assert (await book.next_settled()).is_delivered


async def test_a_server_that_stops_lets_what_is_under_way_arrive_and_takes_nothing_more(
    receiver: Receiver, book: Book, run: Run, start: Start
) -> None:
    free = asyncio.Event()

    async def once_free(writer: asyncio.StreamWriter) -> None:
        await free.wait()
        await status(200)(writer)

    receiver.answers.append(once_free)
    book.add("msg_1", run, receiver.url)
    deliveries = start()
    await receiver.next()
    stopping = asyncio.create_task(deliveries.stop(5))
    await asyncio.wait([stopping], timeout=0.1)
    book.add("msg_2", run, receiver.url)
    free.set()
    await stopping
    assert (await book.next_settled()).is_delivered
    deliveries.wake()
    assert (book.rows["msg_2"].attempt, len(receiver.requests)) == (0, 1)


async def test_a_store_that_is_away_delays_and_loses_nothing(
    receiver: Receiver, book: Book, run: Run, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    book.is_away = True
    book.add("msg_1", run, receiver.url)
    deliveries = start()
    for _ in range(3):
        book.refused.clear()
        deliveries.wake()
        await book.refused.wait()
    assert caplog.text.count("webhooks wait for the store") == 1

    async def while_the_store_goes_away(writer: asyncio.StreamWriter) -> None:
        book.is_away = True
        book.refused.clear()
        await status(200)(writer)

    receiver.answers.append(while_the_store_goes_away)
    book.is_away = False
    deliveries.wake()
    await receiver.next()
    await book.refused.wait()
    book.is_away = False
    assert (await book.next_settled()).is_delivered
    assert len(receiver.requests) == 1


async def test_what_waits_for_the_store_for_longer_than_it_is_held_is_not_sent_again_by_its_own_process(
    receiver: Receiver, book: Book, clock: Clock, run: Run, start: Start
) -> None:
    async def while_the_store_goes_away(writer: asyncio.StreamWriter) -> None:
        book.is_away = True
        await status(200)(writer)

    receiver.answers.append(while_the_store_goes_away)
    book.add("msg_1", run, receiver.url)
    deliveries = start()
    await receiver.next()
    await book.refused.wait()
    clock.advance(61)
    book.is_away = False
    deliveries.wake()
    assert (await book.next_settled()).is_delivered
    assert (book.rows["msg_1"].attempt, len(receiver.requests)) == (2, 1)


async def test_a_slow_receiver_does_not_hold_up_another(book: Book, run: Run, receiver: Receiver, clock: Clock) -> None:
    async with running_receiver() as slow:
        slow.answers += [silence] * 7
        sender = HttpSender([receiver.host, slow.host], seconds=30)
        for number in range(7):
            book.add(f"slow_{number}", run, slow.url)
        for number in range(5):
            book.add(f"msg_{number}", run, receiver.url)
        deliveries = Deliveries(journal=book, sender=sender, now=clock, worker="w1", secret=SECRET)
        deliveries.start()
        assert {(await book.next_settled()).id for _ in range(5)} == {f"msg_{number}" for number in range(5)}
        await deliveries.stop(0)
        await sender.close()


async def test_an_idle_loop_asks_the_store_seldom(book: Book, receiver: Receiver, run: Run, start: Start) -> None:
    book.add("msg_1", run, receiver.url)
    start()
    await book.next_settled()
    for _ in range(100):
        await asyncio.sleep(0)
    assert book.takings == 1


def test_without_a_secret_deliveries_cannot_be_made(book: Book, clock: Clock) -> None:
    with pytest.raises(SetupError, match="WEBHOOK_SECRET"):
        Deliveries(journal=book, sender=HttpSender(["a.example"]), now=clock, worker="w1", secret=None)
