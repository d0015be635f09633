"""What the server logs is written to its store: behind its back, in bounds, and without what opens doors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from innkeeper.core.context import reset_context, set_context, set_request_id
from innkeeper.core.control_changes import KeepLogs
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.logs import NOBODY, Level, LogFilter, LogRecord
from innkeeper.http.contexts import RequestState, new_id, now
from innkeeper.ports.journal import Journal
from innkeeper.storage.postgres.stores import PostgresStore
from innkeeper.storage.sqlite.stores import SqliteStore
from innkeeper.telemetry.logs import AT_ONCE, LINGER_SECONDS, MOST_CHARACTERS, MOST_RECORDS, LogWriter
from tests.support.doorways import Doorway
from tests.support.sizes import IS_FULL, within

ANYBODY = Caller(NOBODY)
ANN = Owner("acme", "ann")


@asynccontextmanager
async def writing(journal: Journal, level: str = "INFO", *, shows_errors: bool = False) -> AsyncIterator[LogWriter]:
    """A writer of everything that is logged; when it is left, everything has been written."""
    writer = LogWriter(journal, level, new_id=new_id, now=now, shows_errors=shows_errors)
    writer.open()
    try:
        yield writer
    finally:
        await writer.close()


async def written(store: SqliteStore | PostgresStore, wanted: LogFilter | None = None) -> list[LogRecord]:
    """What there is in the store, oldest first."""
    records: list[LogRecord] = []
    after = None
    while True:
        page = await store.logs.page(ANYBODY, wanted or LogFilter(), limit=5000, after=after, sees_all=True)
        records += page.records
        after = page.next
        if after is None:
            return records[::-1]


async def everything_written(writer: LogWriter) -> None:
    while writer.handler.waiting or writer._pending:
        await asyncio.sleep(0.05)


class Witness:
    """A journal that passes everything on and tells of it."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.batches: list[int] = []
        self.came = asyncio.Event()

    def commit(self, changes: Any, fence: Any = None) -> Any:
        self.batches += [len(change.records) for change in changes if isinstance(change, KeepLogs)]
        answer = self._journal.commit(changes, fence)
        answer.add_done_callback(lambda _: self.came.set())
        return answer


async def test_what_is_logged_is_written_with_its_level_its_logger_and_its_time(
    store: SqliteStore, log: logging.Logger
) -> None:
    before = now()
    async with writing(store.journal):
        log.info("the %s is %d %% full", "disk", 90)
        logging.getLogger("another").critical("it burns")
        log.debug("details")
    first, second = await written(store)
    assert (first.level, first.logger, first.message) == (Level.INFO, "an.agent", "the disk is 90 % full")
    assert (first.source, first.owner, first.session_id, first.request_id) == ("server", NOBODY, None, None)
    assert (second.level, second.logger, second.message) == (Level.CRITICAL, "another", "it burns")
    assert before <= first.created_at <= second.created_at <= now()
    assert first.metadata == {}


async def test_what_is_kept_begins_at_the_configured_level(store: SqliteStore, log: logging.Logger) -> None:
    async with writing(store.journal, "DEBUG"):
        log.debug("details")
    async with writing(store.journal, "ERROR"):
        log.warning("not this")
        log.log(35, "nor this")
        log.log(45, "this")
    assert [(one.level, one.message) for one in await written(store)] == [
        (Level.DEBUG, "details"),
        (Level.ERROR, "this"),
    ]


async def test_nothing_is_taken_before_and_after(store: SqliteStore, log: logging.Logger) -> None:
    log.warning("before")
    async with writing(store.journal):
        handlers = list(logging.root.handlers)
    log.warning("after")
    assert await written(store) == []
    assert len(logging.root.handlers) == len(handlers) - 1


async def test_what_a_run_says_names_its_session_and_is_its_owners(store: SqliteStore, log: logging.Logger) -> None:
    context = RequestState()
    context.run_id, context.session_id, context.owner = "run_1", "s", ANN
    token = set_context(context)
    request = set_request_id("req-1")
    async with writing(store.journal):
        log.info("in the run")
        await asyncio.to_thread(log.info, "in a thread of the run")
        logging.getLogger("innkeeper.storage.somewhere").error("of the store")
    reset_context(token)
    request.var.reset(request)
    *of_run, of_store = await written(store)
    for record in of_run:
        assert (record.owner, record.session_id, record.request_id) == (ANN, "s", "req-1")
        assert record.metadata == {"run_id": "run_1"}
    assert (of_store.owner, of_store.session_id, of_store.request_id) == (NOBODY, None, "req-1")


async def test_secrets_and_forged_lines_are_not_written(store: SqliteStore, log: logging.Logger) -> None:
    async with writing(store.journal):
        log.info("asked with %s", "Authorization: Bearer ikabcdefghij012345.secretsecret\r\nERROR forged")
        log.info("x" * 100_000)
    first, second = await written(store)
    assert first.message == r"asked with Authorization: ***\r\nERROR forged"
    assert len(second.message) == 4096


async def test_text_of_an_exception_is_not_written_unless_errors_are_shown(
    store: SqliteStore, log: logging.Logger
) -> None:
    async def fail(*, shows_errors: bool = False) -> list[LogRecord]:
        async with writing(store.journal, shows_errors=shows_errors):
            try:
                raise RuntimeError("the secret is open-sesame")
            except RuntimeError as error:
                log.exception("it failed: %s", error)
                log.error(error)
                log.error("%(why)s", {"why": error})
        return await written(store)

    hidden = await fail()
    assert [one.message for one in hidden] == ["it failed: RuntimeError", "RuntimeError", "RuntimeError"]
    assert [one.metadata for one in hidden] == [{"exception": "RuntimeError"}, {}, {}]
    shown = (await fail(shows_errors=True))[3:]
    assert shown[0].message == "it failed: the secret is open-sesame"
    traceback = shown[0].metadata["traceback"]
    assert isinstance(traceback, list)
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "RuntimeError: the secret is open-sesame"


class Explosive:
    def __str__(self) -> str:
        raise OSError("never look at me")


@pytest.mark.parametrize("values", [("%s", Explosive()), ("%d", "text"), ("%s %s", 1), (Explosive(),), ("%", 1)])
async def test_what_has_no_text_hurts_nobody(
    store: SqliteStore, log: logging.Logger, values: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handler raises
    async with writing(store.journal) as writer:
        monkeypatch.setattr(log, "handlers", [writer.handler])
        log.error(*values)
    assert len(await written(store)) == 1


async def test_lines_from_many_threads_are_all_written_in_order(store: SqliteStore, log: logging.Logger) -> None:
    def speak(number: int) -> None:
        for line in range(200):
            log.info("%d %d", number, line)

    async with writing(store.journal) as writer:
        await asyncio.gather(*(asyncio.to_thread(speak, number) for number in range(8)))
    assert writer.handler.dropped == 0
    said = [tuple(map(int, one.message.split())) for one in await written(store)]
    for number in range(8):
        assert [line for speaker, line in said if speaker == number] == list(range(200))


async def test_lines_are_written_many_at_a_time_and_soon(store: SqliteStore, log: logging.Logger) -> None:
    witness = Witness(store.journal)
    async with writing(witness):
        began = time.perf_counter()
        for number in range(3):
            log.info("line %d", number)
        await witness.came.wait()
        assert witness.batches == [3]
        assert time.perf_counter() - began < within(4 * LINGER_SECONDS, 20)
        witness.came.clear()
        log.info("later")
        await witness.came.wait()
    assert witness.batches == [3, 1]


async def test_a_full_batch_waits_for_nobody(store: SqliteStore, log: logging.Logger) -> None:
    witness = Witness(store.journal)
    async with writing(witness):
        began = time.perf_counter()
        for number in range(AT_ONCE + 1):
            log.info("line %d", number)
        await witness.came.wait()
        assert not IS_FULL or time.perf_counter() - began < LINGER_SECONDS
        witness.came.clear()
        await witness.came.wait()
    assert witness.batches == [AT_ONCE, 1]


async def test_a_flood_is_bounded_and_told_of_once(
    store: SqliteStore, log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="innkeeper")
    log.propagate = False
    try:
        async with writing(store.journal) as writer:
            log.addHandler(writer.handler)
            began = time.thread_time()
            for number in range(100_000):
                log.info("line %d", number)
            took = time.thread_time() - began
            assert writer.handler.waiting == MOST_RECORDS
            await everything_written(writer)
    finally:
        log.propagate = True
        log.handlers.clear()
    assert took < 10
    said = [one.message for one in await written(store)]
    assert said[:MOST_RECORDS] == [f"line {number}" for number in range(100_000 - MOST_RECORDS, 100_000)]
    told = f"{100_000 - MOST_RECORDS} log records were dropped: they came faster than they could be written"
    assert [one.getMessage() for one in caplog.records] == [told]
    assert said[MOST_RECORDS:] == [told]


async def test_long_lines_are_bounded_by_their_size(store: SqliteStore, log: logging.Logger) -> None:
    async with writing(store.journal) as writer:
        for number in range(3000):
            log.info("%d %s", number, "x" * 10_000)
        assert writer.handler.waiting <= MOST_CHARACTERS / 8192
        assert writer.handler.dropped == 3000 - writer.handler.waiting


async def test_a_write_does_not_write_what_it_logs_itself(store: SqliteStore, log: logging.Logger) -> None:
    class Talkative(Witness):
        def commit(self, changes: Any, fence: Any = None) -> Any:
            log.warning("a commit")
            asyncio.get_running_loop().call_soon(log.warning, "after a commit")
            return super().commit(changes, fence)

    witness = Talkative(store.journal)
    async with writing(witness):
        log.warning("first")
        await witness.came.wait()
    assert [one.message for one in await written(store)] == ["first"]


async def test_while_the_store_is_away_lines_wait_and_are_written_once_when_it_is_back(
    distant_store: PostgresStore, doorway: Doorway, log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="innkeeper")
    async with writing(distant_store.journal) as writer:
        log.info("before")
        doorway.shut()
        for number in range(300):
            log.info("while it is away %d", number)
        while not any("wait for the store" in one.getMessage() for one in caplog.records):
            await asyncio.sleep(0.05)
        log.info("still away")
        await doorway.open()
        await everything_written(writer)
    records = await written(distant_store)
    said = [one.message for one in records if one.logger == log.name]
    expected = ["before", *(f"while it is away {number}" for number in range(300)), "still away"]
    assert said == expected
    assert sum("wait for the store" in one.message for one in records) == 1
    assert sum("written again" in one.message for one in records) == 1


async def test_an_end_waits_for_a_store_that_is_away_only_a_moment(
    distant_store: PostgresStore, doorway: Doorway, log: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    async with writing(distant_store.journal) as writer:
        doorway.shut()
        log.warning("lost")
        began = time.perf_counter()
        await writer.close()
        assert time.perf_counter() - began < within(4, 20)
    assert "1 log records were not written to the store before the server stopped" in caplog.text


async def test_who_has_not_set_logging_up_still_reads_warnings(
    store: SqliteStore, log: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    async with writing(store.journal), writing(store.journal):
        log.warning("to be read")
        log.info("not to be read")
        monkeypatch.setattr(log, "handlers", [logging.NullHandler()])
        log.warning("handled elsewhere")
    assert capsys.readouterr().err == "to be read\n"


async def test_what_is_logged_when_the_loop_is_gone_hurts_nobody(store: SqliteStore, log: logging.Logger) -> None:
    def serve() -> LogWriter:
        async def open_only() -> LogWriter:
            writer = LogWriter(store.journal, "INFO", new_id=new_id, now=now, shows_errors=False)
            writer.open()
            return writer

        return asyncio.run(open_only())

    writer = await asyncio.to_thread(serve)
    log.warning("nobody writes this")
    writer.abandon()
    assert writer.handler not in logging.root.handlers
