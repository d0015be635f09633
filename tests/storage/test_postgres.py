"""The PostgreSQL store where it differs from others: many writers, lost connections, a server that hangs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from innkeeper.core.changes import (
    AppendMessages,
    Change,
    DeleteSession,
    DeliverInjections,
    Fence,
    KeepClaim,
    RecordCredits,
    RequestCancel,
    SettleDelivery,
    TakeDeliveries,
    TakeQueued,
    UpdateSession,
)
from innkeeper.core.claims import Claim
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.core.outcomes import Accepted, Cancelling, Done, Ended
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord
from innkeeper.storage.postgres.journals import PostgresJournal
from innkeeper.storage.postgres.stores import PostgresStore
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.services import free_port, running_postgres
from tests.support.sizes import within
from tests.support.turns import (
    ANN,
    accept,
    accepted_by,
    begin,
    create,
    end,
    events,
    fence,
    inject,
    log_of,
    now,
    session_called,
    spoken,
    take_turn,
    user,
)


@pytest.fixture(scope="module")
def own_server() -> Iterator[str]:
    """A server that these tests may stop and reconfigure."""
    with running_postgres() as url:
        yield url


@pytest.fixture(scope="module")
def template(own_server: str) -> str:
    return a_migrated_database(own_server)


@pytest.fixture
def database(own_server: str, template: str) -> Iterator[str]:
    with a_copy_of(template, own_server) as url:
        yield url


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(database)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def administrator(own_server: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(own_server)
    yield connection
    connection.terminate()


async def test_two_processes_that_accept_in_one_session_agree_who_runs_and_leave_no_gap(
    store: PostgresStore, database: str
) -> None:
    async with asyncpg.create_pool(database, min_size=4) as other_pool:
        journals = [store.journal, PostgresJournal(other_pool)]
        calls = [journals[n % 2].commit((accept(f"q{n}", f"s{n // 16}", max_queue=64),)) for n in range(64)]
        accepted = [outcome for (outcome,) in await asyncio.gather(*calls)]
    for name in ("s0", "s1", "s2", "s3"):
        runs = [outcome.run for outcome in accepted if isinstance(outcome, Accepted) and outcome.run.session_id == name]
        assert len({run.session_key for run in runs}) == 1
        assert sorted(run.turn for run in runs) == list(range(1, 17))
        assert [run.turn for run in runs if run.status == "running"] == [1]
    connection = await asyncpg.connect(database)
    doubles = "SELECT count(*) FROM (SELECT id FROM sessions GROUP BY owner, id HAVING count(*) > 1) AS d"
    assert await connection.fetchval(doubles) == 0
    sequences = await connection.fetch("SELECT max(sequence) FROM sessions")
    assert [record[0] for record in sequences] == [1]
    await connection.close()


async def test_two_processes_that_write_in_one_session_leave_no_gap(store: PostgresStore, database: str) -> None:
    await store.journal.commit((create("s"),))
    key = (await session_called(store, "s")).key
    async with asyncpg.create_pool(database, min_size=4) as other_pool:
        journals = [store.journal, PostgresJournal(other_pool)]
        texts = [str(number) for number in range(64)]
        await asyncio.gather(*(journals[int(t) % 2].commit((_saying(key, t),)) for t in texts))
    stored = await store.sessions.messages(await session_called(store, "s"))
    assert [message.position for message in stored] == list(range(1, 65))
    assert sorted(message.message.text for message in stored) == sorted(texts)
    for parity in (0, 1):
        own = [int(m.message.text) for m in stored if int(m.message.text) % 2 == parity]
        assert own == sorted(own)


def _saying(key: str, text: str) -> AppendMessages:
    return AppendMessages(key, (user(text),), now())


async def test_connections_that_are_cut_at_any_moment_lose_nothing_and_double_nothing(
    store: PostgresStore, administrator: asyncpg.Connection
) -> None:
    await store.journal.commit((create("s"),))
    key = (await session_called(store, "s")).key
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname LIKE 'test_%' AND state <> 'idle'"
    )
    cuts, number, deadline = 0, 0, time.monotonic() + 3
    while time.monotonic() < deadline:
        calls = [store.journal.commit((_saying(key, str(number + n)),)) for n in range(8)]
        number += 8
        for _ in range(20):
            cuts += await administrator.fetchval(cut)
        await asyncio.gather(*calls)
    assert cuts > 20
    assert await spoken(store, "s") == [str(n) for n in range(number)]


class _Cutter:
    """A proxy that, once it is armed, hands the next COMMIT to the server and cuts the line before its answer."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self._server = (address.hostname, address.port)
        self.port = free_port()
        self.is_armed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(*self._server)
        try:
            await asyncio.gather(self._forward(reader, requests, writer), self._back(answers, writer))
        except OSError:
            pass
        finally:
            requests.close()
            writer.close()

    async def _forward(
        self, reader: asyncio.StreamReader, requests: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(65536):
            if self.is_armed and b"COMMIT" in data:
                self.is_armed = False
                writer.close()
            requests.write(data)
        requests.write_eof()

    @staticmethod
    async def _back(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await answers.read(65536):
            if not writer.is_closing():
                writer.write(data)
        writer.close()


@pytest.fixture
async def cutter(own_server: str) -> AsyncIterator[_Cutter]:
    proxy = _Cutter(own_server)
    async with await asyncio.start_server(proxy.serve, "127.0.0.1", proxy.port):
        yield proxy


async def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_made_twice(database: str, cutter: _Cutter) -> None:
    store = PostgresStore(f"postgresql://postgres@127.0.0.1:{cutter.port}/{database.rpartition('/')[2]}")
    await store.open()

    async def unanswered(change: Change, held: Fence | None = None) -> Any:
        cutter.is_armed = True
        (outcome,) = await store.journal.commit((change,), held)
        assert not cutter.is_armed
        return outcome

    first = await unanswered(accept("q1", "s"))
    waits = accept("q2", "s")
    queued = await unanswered(waits)
    for seq in (2, 3):
        assert await unanswered(events(seq, b"%d" % seq), fence(first)) == Done()
    assert await unanswered(end(first, "a1", seq=4), fence(first)) == Ended(queued.run.id)
    begun = await unanswered(begin(waits, queued))
    assert await unanswered(end(queued, "a2"), fence(queued, begun.epoch)) == Ended(None)
    key = first.run.session_key
    assert await log_of(store, first.run.id) == [b'{"type":"run"}', b"2", b"3", b'{"type":"done"}']
    for number in range(6):
        assert [m.position for m in (await unanswered(_saying(key, str(number)))).messages] == [number + 5]
    assert await spoken(store, "s") == ["q1", "a1", "q2", "a2", *"012345"]
    record = CreditRecord("credit", Decimal(1), "late")
    rest = (UpdateSession(key, now(), title="T"), RecordCredits(first.run.id, (record,)), create("t"))
    for change in (*rest, DeleteSession(key)):
        assert isinstance(await unanswered(change), Done)
    assert [session.id for session in (await store.sessions.page(ANN, limit=9))[0]] == ["t"]
    await store.close()


async def test_what_steers_queues_and_claims_is_neither_lost_nor_made_twice_either(
    database: str, cutter: _Cutter
) -> None:
    store = PostgresStore(f"postgresql://postgres@127.0.0.1:{cutter.port}/{database.rpartition('/')[2]}")
    await store.open()

    async def unanswered(*changes: Change, held: Fence | None = None) -> Any:
        cutter.is_armed = True
        outcomes = await store.journal.commit(changes, held)
        assert not cutter.is_armed
        return outcomes if len(outcomes) > 1 else outcomes[0]

    claim, made = Claim("key", "digest"), create("t")
    assert await unanswered(KeepClaim(ANN.owner, claim, made.session.key, now()), made) == (Done(), Done(made.session))
    assert await unanswered(KeepClaim(ANN.owner, Claim("alone", "digest"), "x", now())) == Done()
    running = await unanswered(accept("q", "s", claim=Claim("run", "digest"), webhook="https://example.com"))
    assert isinstance(running, Accepted)
    told = await unanswered(inject("one", claim=Claim("injection", "digest")))
    assert (told.worker, told.injection.run_id) == ("worker-1", running.run.id)
    steered = await unanswered(accept("two", "s", when_busy="steer", claim=Claim("steer", "digest")))
    assert steered.run_id == running.run.id
    delivered = await unanswered(DeliverInjections(1, now()), held=fence(running))
    assert [message.content for message in delivered.messages] == ["one", "two"]
    work = [await unanswered(accept("q", f"w{n}", background=True)) for n in range(2)]
    taken = await unanswered(TakeQueued("worker-1", now()))
    assert (taken.run.id, taken.run.attempt) == (work[0].run.id, 1)
    cancelled = await unanswered(RequestCancel(work[1].run.id, ANN.owner, "worker-2", Instant(1)))
    assert cancelled.fence is not None
    assert await unanswered(end(work[1], (), status="cancelled"), held=cancelled.fence) == Ended(None)
    assert await unanswered(RequestCancel(running.run.id, ANN.owner, "worker-2", Instant(1))) == Cancelling("worker-1")
    assert await unanswered(end(running, "a", seq=4), held=fence(running)) == Ended(None, is_awaited=True)
    (delivery,) = (await store.journal.commit((TakeDeliveries("w", now(), 9),)))[0].deliveries  # type: ignore[union-attr]
    assert await unanswered(SettleDelivery(delivery.id, True, None, now())) == Done()
    runs, _ = await store.runs.page(ANN, limit=9)
    assert sorted(run.status for run in runs) == ["cancelled", "completed", "running"]
    assert len(await log_of(store, running.run.id)) == 4
    await store.close()


async def test_a_server_that_hangs_fails_writes_and_reads_within_its_time_and_all_is_well_after(
    store: PostgresStore, administrator: asyncpg.Connection
) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    processes = [record[0] for record in await administrator.fetch("SELECT pid FROM pg_stat_activity")]
    directory = Path(await administrator.fetchval("SHOW data_directory"))
    processes.append(int((directory / "postmaster.pid").read_text().split()[0]))
    started = time.monotonic()
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        calls = [store.journal.commit((end(accepted, str(n)),), fence(accepted)) for n in range(20)]
        reads = [asyncio.ensure_future(store.sessions.find(ANN, "s")) for _ in range(20)]
        outcomes = await asyncio.gather(*calls, *reads, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StorageUnavailable}
        assert time.monotonic() - started < within(7, 30)
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    assert (await spoken(store, "s"))[0] == "q"
    assert len(await spoken(store, "s")) == 2


async def test_a_server_that_crashes_and_comes_back_is_waited_for(
    store: PostgresStore, database: str, administrator: asyncpg.Connection
) -> None:
    await store.close()
    await administrator.execute(f"ALTER DATABASE {database.rpartition('/')[2]} SET synchronous_commit = on")
    await store.open()
    accepted = await accepted_by(store, accept("q", "s"))
    victim = await administrator.fetchval("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'innkeeper%'")
    os.kill(victim, signal.SIGKILL)  # PostgreSQL restarts all of its processes then
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    assert await spoken(store, "s") == ["q", "a"]


async def test_several_servers_serve_one_database(store: PostgresStore, database: str) -> None:
    second = PostgresStore(database)
    await second.open()
    await take_turn(store, "one", "s")
    await take_turn(second, "two", "s")
    assert await spoken(store, "s") == await spoken(second, "s") == ["one", "Hello", "two", "Hello"]
    await second.close()


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("postgresql://locked:{secret}@{server}/postgres", "refused the user or the password"),
        ("postgresql://nobody_there:{secret}@{server}/postgres", "refused the user or the password"),
        ("postgres://postgres:{secret}@{server}/missing", "no database missing"),
        ("postgresql://postgres:{secret}@127.0.0.1:{free}/postgres", "cannot be reached"),
        ("postgresql://postgres:{secret}@no-such-host.invalid/postgres", "cannot be reached"),
        ("postgresql://postgres:{secret}/x@127.0.0.1/postgres", "percent-encoded"),
        ("postgresql://postgres:{secret}@{server}/postgres?sslmode={secret}", "percent-encoded"),
        ("postgresql://postgres:{secret}@[{secret}/postgres", "percent-encoded"),
        ("postgresql://postgres:{secret}@{server}/postgres?sslmode=require", "cannot be reached"),
    ],
)
async def test_a_database_that_cannot_be_used_is_named_with_the_cause_and_without_the_password(
    own_server: str, administrator: asyncpg.Connection, url: str, cause: str
) -> None:
    await _lock_a_user_out(administrator)
    server = own_server.partition("@")[2].partition("/")[0]
    with pytest.raises(SetupError, match=cause) as refused:
        await PostgresStore(url.format(secret=SECRET, server=server, free=free_port())).open()
    told = str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error!r} {error} {error.__dict__}", told
        error = None if error.__suppress_context__ else error.__context__


async def _lock_a_user_out(administrator: asyncpg.Connection) -> None:
    if await administrator.fetchval("SELECT 1 FROM pg_roles WHERE rolname = 'locked'"):
        return
    await administrator.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
    file = await administrator.fetchval("SHOW hba_file")
    rules = await administrator.fetchval("SELECT pg_read_file($1)", file)
    rules = f"host all locked all scram-sha-256\n{rules}".replace("'", "''").replace("\\", "\\\\")
    await administrator.execute(f"COPY (SELECT unnest(string_to_array('{rules}', E'\\n'))) TO '{file}'")
    await administrator.execute("SELECT pg_reload_conf()")


def test_the_label_shows_the_database_and_not_the_password() -> None:
    store = PostgresStore("postgres://me:hunter2@db.example:5433/inn%20keeper?sslmode=require&password=hunter2")
    assert store.label == "PostgreSQL, inn keeper at db.example:5433"


async def test_a_server_that_may_lose_what_it_acknowledged_is_warned_of(
    store: PostgresStore, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    await store.close()
    with caplog.at_level(logging.WARNING):
        await store.open()
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert "fsync=off" in warned
    assert "synchronous_commit=off" in warned
