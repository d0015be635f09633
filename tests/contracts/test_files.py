"""Files and workspaces in every store: what is reserved, kept and thrown away, and how much room that takes."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from innkeeper.core.administration import Derived, ForgetUser
from innkeeper.core.changes import CreateSession, DeleteSession
from innkeeper.core.errors import Invalid, PreconditionFailed, QuotaExceeded
from innkeeper.core.file_changes import (
    ChangeWorkspace,
    DeleteFile,
    DropRubbish,
    ForgetFiles,
    KeepFile,
    Removal,
    ReserveBlobs,
    RubbishTaken,
    TakeRubbish,
    WorkspaceChanged,
    Write,
)
from innkeeper.core.files import Blob, Place, StoredFile
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.sessions import Session
from innkeeper.core.times import Instant
from innkeeper.storage.programs.proofs import proof
from tests.support.turns import ANN, BOB, Store, new_id, new_session, now

LATER = Instant(2**60)
ACME = "acme"


async def reserved(store: Store, size: int = 10, digest: str = "d") -> Blob:
    blob = Blob(new_id(), size, digest, LATER)
    assert await store.journal.commit((ReserveBlobs((blob.id,), LATER),)) == (Done(),)
    return blob


def file_of(blob: Blob, caller: Caller = ANN, **fields: object) -> StoredFile:
    owner = caller.owner
    file = StoredFile(
        f"file-{new_id()}",
        owner,
        owner.user,
        "a.txt",
        "user_data",
        "text/plain",
        blob.size,
        blob.digest,
        blob.id,
        now(),
    )
    return replace(file, **fields)  # type: ignore[arg-type]


async def kept(store: Store, caller: Caller = ANN, size: int = 10, **fields: object) -> StoredFile:
    blob = await reserved(store, size)
    file = file_of(blob, caller, **fields)
    assert await store.journal.commit((KeepFile(file, blob.due_at, None),)) == (Done(),)
    return file


async def rubbish(store: Store) -> tuple[str, ...]:
    """What is due now, held for good."""
    (taken,) = await store.journal.commit((TakeRubbish(now(), LATER, 100),))
    assert isinstance(taken, RubbishTaken)
    return taken.blobs


async def a_session(store: Store) -> tuple[Session, Place]:
    session = new_session(new_id(), ANN)
    await store.journal.commit((CreateSession(session),))
    return session, Place("session", session.key, ACME)


def changing(place: Place, *writes: Write, removals: tuple[Removal, ...] = (), **limits: object) -> ChangeWorkspace:
    change = ChangeWorkspace(place, writes, removals, "client", now(), 10, 100, None)
    return replace(change, **limits)  # type: ignore[arg-type]


async def written(store: Store, place: Place, path: str, size: int = 10, digest: str = "d", **fields: object) -> Blob:
    blob = await reserved(store, size, digest)
    write = replace(Write(path, "text/plain", blob), **fields)  # type: ignore[arg-type]
    (outcome,) = await store.journal.commit((changing(place, write),))
    assert isinstance(outcome, WorkspaceChanged)
    return blob


async def test_a_file_that_is_kept_is_found_by_its_owner_alone_and_is_no_rubbish_any_more(store: Store) -> None:
    file = await kept(store)
    assert await store.files.find(ANN, file.id, now()) == file
    assert await store.files.find(BOB, file.id, now()) is None
    assert await store.files.room_of(ACME) == 10
    assert await rubbish(store) == ()


async def test_a_blob_that_nobody_keeps_is_rubbish_when_it_is_due_and_then_held_by_one_taker(store: Store) -> None:
    due, early = new_id(), new_id()
    await store.journal.commit((ReserveBlobs((due,), Instant(1)), ReserveBlobs((early,), LATER)))
    assert await rubbish(store) == (due,)
    assert await rubbish(store) == ()
    assert await store.journal.commit((DropRubbish((due, early)),)) == (Done(),)


async def test_a_blob_that_is_being_removed_is_not_kept(store: Store) -> None:
    blob = Blob(new_id(), 10, "d", Instant(1))
    await store.journal.commit((ReserveBlobs((blob.id,), blob.due_at),))
    assert await rubbish(store) == (blob.id,)
    _, place = await a_session(store)
    assert await store.journal.commit((KeepFile(file_of(blob), blob.due_at, None),)) == (Missing(),)
    assert await store.journal.commit((changing(place, Write("a", "text/plain", blob)),)) == (Missing(),)
    assert await store.files.room_of(ACME) == 0


async def test_what_would_exceed_the_quota_is_refused_and_takes_no_room(store: Store) -> None:
    await kept(store, size=60)
    blob = await reserved(store, 41)
    with pytest.raises(QuotaExceeded):
        await store.journal.commit((KeepFile(file_of(blob), blob.due_at, 100),))
    assert await store.files.room_of(ACME) == 60
    fits = await reserved(store, 40)
    assert await store.journal.commit((KeepFile(file_of(fits), fits.due_at, 100),)) == (Done(),)


async def test_twenty_at_once_never_exceed_the_quota(store: Store) -> None:
    blobs = [await reserved(store, 10) for _ in range(20)]
    answers = await asyncio.gather(
        *(store.journal.commit((KeepFile(file_of(blob), blob.due_at, 75),)) for blob in blobs), return_exceptions=True
    )
    assert sum(answer == (Done(),) for answer in answers) == 7
    assert sum(isinstance(answer, QuotaExceeded) for answer in answers) == 13
    assert await store.files.room_of(ACME) == 70


async def test_a_file_that_is_deleted_gives_back_its_room_and_becomes_rubbish(store: Store) -> None:
    file = await kept(store)
    assert await store.journal.commit((DeleteFile(file.id, now()),)) == (Done(),)
    assert await store.journal.commit((DeleteFile(file.id, now()),)) == (Missing(),)
    assert await store.files.room_of(ACME) == 0
    assert await rubbish(store) == (file.blob,)


async def test_a_file_whose_time_is_over_is_not_there_and_is_forgotten(store: Store) -> None:
    over, stays = await kept(store, expires_at=Instant(5)), await kept(store, expires_at=LATER)
    assert await store.files.find(ANN, over.id, now()) is None
    assert (await store.files.page(ANN, now(), limit=10))[0] == [stays]
    assert await store.journal.commit((ForgetFiles(now(), 10),)) == (Derived(1),)
    assert await rubbish(store) == (over.blob,)


async def test_pages_go_either_way_and_know_purposes(store: Store) -> None:
    files = [await kept(store, purpose=purpose) for purpose in ("vision", "batch", "vision")]
    await kept(store, BOB)
    assert await store.files.page(ANN, now(), limit=2) == (files[:0:-1], True)
    assert await store.files.page(ANN, now(), limit=2, after=files[1].id) == (files[:1], False)
    assert await store.files.page(ANN, now(), limit=2, is_ascending=True) == (files[:2], True)
    assert await store.files.page(ANN, now(), limit=9, purpose="vision") == ([files[2], files[0]], False)


async def test_each_write_is_a_version_and_the_oldest_go_beyond_those_that_are_kept(store: Store) -> None:
    _, place = await a_session(store)
    blobs = [await reserved(store, 10, f"d{number}") for number in range(4)]
    for blob in blobs:
        await store.journal.commit((changing(place, Write("a/b.txt", "text/plain", blob), kept_versions=2),))
    assert [one.digest for one in await store.workspaces.versions(place, "a/b.txt")] == ["d3", "d2", "d1"]
    (current,) = await store.workspaces.all(place)
    assert (current.version, current.digest, current.version_count) == (4, "d3", 3)
    assert await store.workspaces.find(place, "a/b.txt") == replace(current, version_count=1)
    older = await store.workspaces.find(place, "a/b.txt", 2)
    assert older is not None and older.digest == "d1"
    assert await store.workspaces.find(place, "a/b.txt", 1) is None
    assert await store.files.room_of(ACME) == 30
    assert await rubbish(store) == (blobs[0].id,)


async def test_conditions_are_judged_against_the_current_version(store: Store) -> None:
    _, place = await a_session(store)
    with pytest.raises(PreconditionFailed):
        await written(store, place, "a", match="*")
    await written(store, place, "a", digest="one", is_new=True)
    await written(store, place, "a", digest="two", match="one")
    for refused in ({"match": "one"}, {"is_new": True}):
        with pytest.raises(PreconditionFailed):
            await written(store, place, "a", **refused)
    with pytest.raises(PreconditionFailed):
        await store.journal.commit((changing(place, removals=(Removal("a", "one"),)),))
    assert len(await store.workspaces.versions(place, "a")) == 2


async def test_of_many_writers_that_demand_the_same_version_one_is_let_in(store: Store) -> None:
    _, place = await a_session(store)
    await written(store, place, "a", digest="first")
    answers = await asyncio.gather(
        *(written(store, place, "a", digest=f"{number}", match="first") for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, Blob) for answer in answers) == 1
    assert [one.version for one in await store.workspaces.versions(place, "a")] == [2, 1]


async def test_writers_of_an_agents_workspace_get_versions_of_their_own(store: Store) -> None:
    place = Place("agent", "echo", "")
    await asyncio.gather(*(written(store, place, "a") for _ in range(8)))
    assert [one.version for one in await store.workspaces.versions(place, "a")] == list(range(8, 0, -1))


async def test_nothing_is_a_file_and_a_folder_and_there_are_not_too_many(store: Store) -> None:
    _, place = await a_session(store)
    await written(store, place, "a/b")
    for path in ("a", "a/b/c"):
        with pytest.raises(Invalid):
            await written(store, place, path)
    blob = await reserved(store)
    with pytest.raises(Invalid):
        await store.journal.commit((changing(place, Write("c", "text/plain", blob), max_files=1),))
    change = changing(place, Write("a", "text/plain", blob), removals=(Removal("a/b"),), max_files=1)
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, WorkspaceChanged) and outcome.removed == ("a/b",)
    assert [file.path for file in await store.workspaces.all(place)] == ["a"]


_SEGMENTS = ("a", "A", "a-", "a0", "a.b", "\xe9", "a%", "_")


async def test_one_new_path_is_judged_as_many_are(store: Store) -> None:
    _, place = await a_session(store)
    rng, there = random.Random(7), set[str]()
    for _ in range(150):
        path = "/".join(rng.choice(_SEGMENTS) for _ in range(rng.choice((1, 1, 2, 3))))
        write = changing(place, Write(path, "text/plain", await reserved(store)), max_files=40)
        clashes = any(one.startswith(f"{path}/") or path.startswith(f"{one}/") for one in there)
        if path not in there and (clashes or len(there) == 40):
            with pytest.raises(Invalid, match=r"a file and a folder|may have 40 files"):
                await store.journal.commit((write,))
        else:
            await store.journal.commit((write,))
            there.add(path)
    assert {file.path for file in await store.workspaces.all(place)} == there


async def test_a_path_of_many_folders_is_judged_as_one_of_few(store: Store) -> None:
    _, place = await a_session(store)
    await written(store, place, "d/d")
    for depth in (3, 40):
        with pytest.raises(Invalid, match="'d/d' would be a file and a folder"):
            await written(store, place, "/".join("d" * depth))
    await written(store, place, "e/" + "/".join("d" * 40))


async def test_a_change_is_made_whole_or_not_at_all(store: Store) -> None:
    _, place = await a_session(store)
    good, bad = await reserved(store), replace(await reserved(store), due_at=Instant(7))
    writes = (Write("good", "text/plain", good), Write("bad", "text/plain", bad))
    assert await store.journal.commit((changing(place, *writes),)) == (Missing(),)
    assert await store.workspaces.all(place) == []


async def test_what_is_removed_goes_with_its_versions_and_gives_back_their_room(store: Store) -> None:
    _, place = await a_session(store)
    blobs = {(await written(store, place, "a")).id, (await written(store, place, "a")).id}
    assert await store.files.room_of(ACME) == 20
    await store.journal.commit((changing(place, removals=(Removal("a"),)),))
    assert set(await rubbish(store)) == blobs
    assert await store.files.room_of(ACME) == 0
    assert await store.journal.commit((changing(place, removals=(Removal("a"),)),)) == (Missing(),)


async def test_a_removal_that_may_fail_leaves_what_somebody_else_has_written(store: Store) -> None:
    _, place = await a_session(store)
    await written(store, place, "a", digest="theirs")
    (outcome,) = await store.journal.commit((changing(place, removals=(Removal("a", "ours", may_fail=True),)),))
    assert outcome == WorkspaceChanged((), ())
    assert len(await store.workspaces.all(place)) == 1


async def test_a_session_takes_its_workspace_along(store: Store) -> None:
    session, place = await a_session(store)
    _, beside = await a_session(store)
    blob = await written(store, place, "a")
    await written(store, beside, "a", size=3)
    await store.journal.commit((DeleteSession(session.key),))
    assert await store.workspaces.all(place) == []
    assert await rubbish(store) == (blob.id,)
    assert await store.files.room_of(ACME) == 3
    late = await reserved(store)
    assert await store.journal.commit((changing(place, Write("a", "text/plain", late)),)) == (Missing(),)


async def test_whoever_is_forgotten_leaves_no_file_and_no_room(store: Store) -> None:
    await kept(store)
    await kept(store, BOB, user_id=ANN.owner.user)
    stays = await kept(store, BOB, size=7)
    _, place = await a_session(store)
    await written(store, place, "a")
    assert await store.users.organizations(ANN.owner.user) == [ACME]
    forget = ForgetUser(ANN.owner.user, ACME, "nobody", now())
    while (await store.journal.commit((forget,))) != (Derived(0),):
        pass
    assert len(await rubbish(store)) == 3
    assert await store.files.room_of(ACME) == 7
    assert (await store.files.page(BOB, now(), limit=9))[0] == [stays]


async def test_the_proof_of_what_is_kept_is_the_row_that_names_its_blob(store: Store) -> None:
    _, place = await a_session(store)
    blob = await reserved(store)
    keep = KeepFile(file_of(blob), blob.due_at, None)
    query = proof((keep,), await store.journal.commit((keep,)))
    assert query is not None and query.values == {"by_id": keep.file.id, "by_blob": blob.id}
    other = await reserved(store)
    change = changing(place, Write("a", "text/plain", other))
    query = proof((change,), await store.journal.commit((change,)))
    assert query is not None and query.values["by_blob"] == other.id and query.values["by_version"] == 1
