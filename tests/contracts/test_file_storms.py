"""Everything at once that changes what is kept: in every store, the room that is counted is that of the rows."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from innkeeper.core.administration import Derived, ForgetUser
from innkeeper.core.changes import CreateSession, DeleteSession
from innkeeper.core.errors import Invalid, PreconditionFailed, QuotaExceeded
from innkeeper.core.file_changes import (
    ChangeWorkspace,
    DeleteFile,
    FileChange,
    KeepFile,
    Removal,
    ReserveBlobs,
    RubbishTaken,
    TakeRubbish,
    Write,
)
from innkeeper.core.files import Blob, Place, StoredFile
from innkeeper.core.identity import Caller
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from tests.support.turns import ANN, BOB, Store, new_id, new_session, now

LATER = Instant(2**60)
QUOTA = 600
PATHS = ("a", "a/b", "c", "d")


class Guests:
    """Ann and Bob, of one organization, each with sessions, all of whose files are changed at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sessions: list[tuple[Caller, Session]] = []
        self.files: list[str] = []
        self.blobs: set[str] = set()

    async def arrive(self) -> None:
        for caller in (ANN, BOB):
            for _ in range(2):
                session = new_session(new_id(), caller)
                await self.store.journal.commit((CreateSession(session),))
                self.sessions.append((caller, session))

    async def blob(self) -> Blob:
        blob = Blob(new_id(), random.randrange(1, 60), random.choice("xyz"), LATER)
        self.blobs.add(blob.id)
        await self.store.journal.commit((ReserveBlobs((blob.id,), LATER),))
        return blob

    async def act(self) -> None:
        for _ in range(12):
            with suppress(Invalid, PreconditionFailed, QuotaExceeded):
                await self.store.journal.commit((await self.change(),))

    async def change(self) -> FileChange:
        caller, session = random.choice(self.sessions)
        dice = random.random()
        if dice < 0.2:
            blob, owner = await self.blob(), caller.owner
            file_id = f"file-{new_id()}"
            self.files.append(file_id)
            file = StoredFile(
                file_id, owner, owner.user, "a", "user_data", "text/plain", blob.size, blob.digest, blob.id, now()
            )
            return KeepFile(file, blob.due_at, QUOTA)
        if dice < 0.35 and self.files:
            return DeleteFile(random.choice(self.files), now())
        writes = [Write(path, "text/plain", await self.blob()) for path in random.sample(PATHS, random.randrange(3))]
        going = {path for path in PATHS if random.random() < 0.2} - {write.path for write in writes}
        removals = [Removal(path) for path in going]
        place = Place("session", session.key, session.owner.organization)
        return ChangeWorkspace(place, tuple(writes), tuple(removals), "run", now(), 1, 3, QUOTA)

    async def leave(self) -> None:
        """One session is deleted, and everything of Bob's is erased, while the rest goes on."""
        await asyncio.sleep(0)
        _, session = self.sessions[0]
        await self.store.journal.commit((DeleteSession(session.key),))
        forget = ForgetUser(BOB.owner.user, BOB.owner.organization, "nobody", now())
        while (await self.store.journal.commit((forget,))) != (Derived(0),):
            pass

    async def sizes(self) -> dict[str, int]:
        """Of what rows name, by blob."""
        named: dict[str, int] = {}
        for caller in (ANN, BOB):
            files, _ = await self.store.files.page(caller, now(), limit=1000)
            named |= {file.blob: file.size for file in files}
        for _, session in self.sessions:
            place = Place("session", session.key, session.owner.organization)
            for path in PATHS:
                named |= {one.blob: one.size for one in await self.store.workspaces.versions(place, path)}
        return named


async def test_after_a_storm_the_room_is_what_rows_name_and_the_rest_is_rubbish(store: Store) -> None:
    guests = Guests(store)
    await guests.arrive()
    await asyncio.gather(*(guests.act() for _ in range(8)), guests.leave())
    named = await guests.sizes()
    assert 0 < sum(named.values()) == await store.files.room_of(ANN.owner.organization) <= QUOTA
    (taken,) = await store.journal.commit((TakeRubbish(LATER, Instant(LATER + 1), 10_000),))
    assert isinstance(taken, RubbishTaken)
    assert set(taken.blobs) | set(named) == guests.blobs
    assert not set(taken.blobs) & set(named)


async def test_files_that_are_deleted_while_their_user_is_forgotten_give_back_their_room_once(store: Store) -> None:
    guests = Guests(store)
    await guests.arrive()
    for _ in range(40):
        blob, file_id, owner = await guests.blob(), f"file-{new_id()}", BOB.owner
        file = StoredFile(
            file_id, owner, owner.user, "a", "user_data", "text/plain", blob.size, blob.digest, blob.id, now()
        )
        await store.journal.commit((KeepFile(file, blob.due_at, None),))
        guests.files.append(file_id)
    forget = ForgetUser(BOB.owner.user, BOB.owner.organization, "nobody", now())

    async def erase() -> None:
        while (await store.journal.commit((forget,))) != (Derived(0),):
            pass

    deletions = (store.journal.commit((DeleteFile(file_id, now()),)) for file_id in reversed(guests.files))
    await asyncio.gather(erase(), *deletions, erase())
    assert await store.files.room_of(BOB.owner.organization) == 0
