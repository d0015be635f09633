"""A program that writes to a store until it is killed, and says of each thing when it is acknowledged.

`python -m tests.kill.committers URL` prints `message SESSION NUMBER`, `accepted RUN`, `events RUN SEQ` and
`ended RUN`, a line each, only after the store's answer.
"""

from __future__ import annotations

import asyncio
import os
import sys

from innkeeper.core.changes import AppendMessages
from tests.support.turns import (
    Store,
    accept,
    accepted_by,
    create,
    end,
    events,
    fence,
    new_id,
    now,
    session_called,
    store_at,
    user,
)


def _tell(*words: object) -> None:
    os.write(1, f"{' '.join(map(str, words))}\n".encode())


async def _write_messages(store: Store) -> None:
    session_id = new_id()
    await store.journal.commit((create(session_id),))
    key = (await session_called(store, session_id)).key
    number = 0
    while True:
        number += 1
        await store.journal.commit((AppendMessages(key, (user(str(number)),), now()),))
        _tell("message", session_id, number)


async def _write_runs(store: Store) -> None:
    session_id = new_id()
    while True:
        accepted = await accepted_by(store, accept("q", session_id))
        run_id = accepted.run.id
        _tell("accepted", run_id)
        for seq in range(2, 6):
            await store.journal.commit((events(seq, b"%d" % seq),), fence(accepted))
            _tell("events", run_id, seq)
        await store.journal.commit((end(accepted, run_id, seq=6),), fence(accepted))
        _tell("ended", run_id)


async def _main(url: str) -> None:
    store = store_at(url)
    await store.open()
    await asyncio.gather(*(_write_messages(store) for _ in range(4)), *(_write_runs(store) for _ in range(4)))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
