"""A store whose process is killed at any moment has everything that it acknowledged, once."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.core.outcomes import Accepted, Ended
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.turns import ANN, Store, end, log_of, run_of, session_called, store_at, taken_over

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'data' / 'innkeeper.db'}"
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as copy:
        yield copy


def _acknowledged_until_killed(url: str, *, lines: int) -> list[list[str]]:
    """What the child was told, killed as soon as it has told us that much; the last line may be cut off."""
    command = [sys.executable, "-m", "tests.kill.committers", url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        told = b"".join(child.stdout.readline() for _ in range(lines))
        child.kill()
        told += child.stdout.read()
    return [line.split() for line in told.decode().split("\n")[:-1]]


async def _check(store: Store, acknowledged: list[list[str]]) -> None:
    for kind, name, *rest in acknowledged:
        if kind == "accepted":
            assert (await run_of(store, name)).last_seq >= 1
        elif kind == "events":
            assert (await log_of(store, name))[int(rest[0]) - 1] == rest[0].encode()
        elif kind == "ended":
            run = await run_of(store, name)
            assert (run.status, run.output, run.last_seq) == ("completed", name, 6)
            assert len(await log_of(store, name)) == 6
    last = {name: int(rest[0]) for kind, name, *rest in acknowledged if kind == "message"}
    for session_id, number in last.items():
        stored = await store.sessions.messages(await session_called(store, session_id))
        texts = [message.message.text for message in stored]
        assert texts in (_up_to(number), _up_to(number + 1))
        assert [message.position for message in stored] == list(range(1, len(stored) + 1))


def _up_to(number: int) -> list[str]:
    return [str(n) for n in range(1, number + 1)]


async def _check_and_settle_unfinished(store: Store, acknowledged: list[list[str]]) -> None:
    """As recovery does; the runs that it finds are those that nobody was told had ended, and no more than ran."""
    ended = {name for kind, name, *_ in acknowledged if kind == "ended"}
    unfinished = await taken_over(store)
    assert len(unfinished) <= 4
    for run, held in unfinished:
        assert run.id not in ended
        assert len(await log_of(store, run.id)) == run.last_seq
        change = end(Accepted(run, None), (), seq=run.last_seq + 1, status="interrupted")
        assert await store.journal.commit((change,), held) == (Ended(None),)
    assert await taken_over(store, worker="another") == ()


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_survives_a_kill_once_and_without_gaps(url: str) -> None:
    acknowledged: list[list[str]] = []
    for _ in range(5):
        acknowledged += _acknowledged_until_killed(url, lines=random.randint(1, 600))
        store = store_at(url)
        await store.open()
        await _check(store, acknowledged)
        await _check_and_settle_unfinished(store, acknowledged)
        await store.close()
    assert len(acknowledged) > 5
    assert {kind for kind, *_ in acknowledged} == {"message", "accepted", "events", "ended"}


async def test_a_kill_while_the_store_is_made_leaves_one_that_opens(tmp_path: Path) -> None:
    for attempt in range(4):
        url = f"sqlite:///{tmp_path / str(attempt) / 'innkeeper.db'}"
        command = [sys.executable, "-m", "tests.kill.committers", url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as child:
            while not (tmp_path / str(attempt) / "innkeeper.db").exists():
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.4))
            child.kill()
        store = store_at(url)
        await store.open()
        assert await store.runs.page(ANN, limit=1) is not None
        await store.close()
