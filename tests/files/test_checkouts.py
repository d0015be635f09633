"""Checkouts: whatever a program leaves in its folder, only plain files within bounds reach the workspace."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from innkeeper.blobs.folders import LocalFolders
from innkeeper.blobs.local import LocalBlobs
from innkeeper.core.changes import CreateSession, DeleteSession
from innkeeper.core.errors import Invalid, QuotaExceeded, SessionNotFound
from innkeeper.core.files import Place
from innkeeper.core.media_types import guess
from innkeeper.services.checkouts import Checkouts
from innkeeper.services.contents import Contents, FileLimits, Rubbish
from innkeeper.services.workspaces import Workspaces
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, new_id, new_session, now


@dataclass
class Desk:
    """A workspace with what stands behind it."""

    root: Path
    store: SqliteStore
    contents: Contents
    workspaces: Workspaces
    checkouts: Checkouts
    place: Place

    async def paths(self) -> list[str]:
        return [file.path for file in await self.workspaces.all(self.place)]

    async def write(self, path: str, text: str) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield text.encode()

        await self.workspaces.write(self.place, path, chunks(), author="client")

    async def text(self, path: str) -> str:
        file = await self.workspaces.find(self.place, path)
        return b"".join([chunk async for chunk in self.workspaces.read(file)]).decode()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    store, blobs = SqliteStore(tmp_path / "innkeeper.db"), LocalBlobs(tmp_path / "blobs")
    await store.open()
    await blobs.open()
    limits = FileLimits(file_bytes=1000, workspace_files=20)
    contents = Contents(blobs=blobs, journal=store.journal, files=store.files, now=now, new_id=new_id, limits=limits)
    workspaces = Workspaces(journal=store.journal, workspaces=store.workspaces, contents=contents, now=now)
    folders = LocalFolders(tmp_path / "checkouts", "this-process", lambda _: True)
    session = new_session("s", ANN)
    await store.journal.commit((CreateSession(session),))
    checkouts = Checkouts(workspaces=workspaces, folders=folders, new_id=new_id)
    yield Desk(tmp_path, store, contents, workspaces, checkouts, Place("session", session.key, "acme"))
    await checkouts.close()
    await contents.settled()
    await Rubbish(journal=store.journal, blobs=blobs, now=now).empty()
    kept = {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    await Rubbish(journal=store.journal, blobs=blobs, now=lambda: now() + 2 * 3600 * 1_000_000).empty()
    left = {path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert kept == left, "what a checkout gives up does not wait for an hour"
    assert [path for path in (tmp_path / "checkouts").glob("*/*") if path.is_dir()] == []
    await contents.close()
    await store.close()


async def test_a_folder_has_the_same_path_each_time_unless_it_is_in_use(desk: Desk) -> None:
    async with desk.checkouts.out(desk.place, "run") as first:
        (first / "a.txt").write_text("a")
        async with desk.checkouts.out(desk.place, "run") as second:
            assert second != first
            assert list(second.iterdir()) == []
        async with desk.checkouts.out(replace(desk.place, organization="other"), "run") as others:
            assert others != first
    async with desk.checkouts.out(desk.place, "run") as third:
        assert third == first
        assert [file.name for file in third.iterdir()] == ["a.txt"]


async def test_what_could_not_be_removed_of_a_folder_is_in_no_other(desk: Desk) -> None:
    async with desk.checkouts.out(desk.place, "run") as first:
        pass
    first.mkdir()
    (first / "left.txt").write_text("left")
    async with desk.checkouts.out(desk.place, "run") as second:
        assert second != first
        assert list(second.iterdir()) == []
    shutil.rmtree(first)
    assert await desk.paths() == []


async def test_links_pipes_sockets_and_what_is_behind_them_are_not_taken(desk: Desk) -> None:
    secret = desk.root / "secret"
    secret.mkdir()
    (secret / "canary.txt").write_text("canary")
    async with desk.checkouts.out(desk.place, "run") as folder:
        (folder / "link.txt").symlink_to(secret / "canary.txt")
        (folder / "folder").symlink_to(secret, target_is_directory=True)
        (folder / "up").symlink_to("..")
        os.mkfifo(folder / "pipe")
        (folder / "plain.txt").write_text("mine")
        here = Path.cwd()
        os.chdir(folder)  # the path of a socket must be short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind("socket")
        finally:
            os.chdir(here)
    assert await desk.paths() == ["plain.txt"]
    assert (secret / "canary.txt").read_text() == "canary"


async def test_a_file_that_becomes_a_link_is_not_followed(desk: Desk) -> None:
    (desk.root / "canary.txt").write_text("canary")
    await desk.write("a/b.txt", "mine")
    async with desk.checkouts.out(desk.place, "run") as folder:
        (folder / "a" / "b.txt").unlink()
        (folder / "a").rmdir()
        (folder / "a").symlink_to(desk.root, target_is_directory=True)
        (folder / "a2.txt").symlink_to(desk.root / "canary.txt")
    assert await desk.paths() == []


@pytest.mark.parametrize(
    "leave",
    [
        lambda folder: (folder / "large").write_bytes(bytes(1001)),
        lambda folder: (folder / "a\nb").write_text("x"),
        lambda folder: (folder / "aux.txt").write_text("x"),
        lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_text("x"),
    ],
    ids=["large", "control", "device", "no unicode"],
)
async def test_what_no_workspace_takes_is_said_when_the_rest_is_kept(
    desk: Desk, leave: Callable[[Path], object]
) -> None:
    with pytest.raises(Invalid, match="not kept"):
        async with desk.checkouts.out(desk.place, "run") as folder:
            leave(folder)
            (folder / "good.txt").write_text("good")
    assert await desk.paths() == ["good.txt"]


async def test_of_too_many_files_none_is_taken_for_removed(desk: Desk) -> None:
    await desk.write("z.txt", "last by name")
    with pytest.raises(Invalid):
        async with desk.checkouts.out(desk.place, "run") as folder:
            for number in range(25):
                (folder / f"{number:02}").write_text("x")
    assert await desk.text("z.txt") == "last by name"


async def test_folders_as_deep_as_a_path_can_be_are_taken(desk: Desk) -> None:
    deep = "d/" * 200 + "x"
    async with desk.checkouts.out(desk.place, "run") as folder:
        (folder / deep).parent.mkdir(parents=True)
        (folder / deep).write_text("deep")
    assert await desk.text(deep) == "deep"


async def test_what_lies_in_a_folder_that_cannot_be_read_is_not_taken_for_removed(desk: Desk) -> None:
    await desk.write("shut/a.txt", "kept")
    with pytest.raises(Invalid, match="cannot be read"):
        async with desk.checkouts.out(desk.place, "run") as folder:
            (folder / "shut").rename(folder / "away")
            (folder / "b.txt").write_text("b")
            (folder / "e" / ("d/" * 300)).mkdir(parents=True)  # deeper than is looked; as unreadable as `chmod 0`
    assert await desk.paths() == ["away/a.txt", "b.txt", "shut/a.txt"]


async def test_a_file_that_grows_while_it_is_read_is_told_of_when_the_rest_is_kept(desk: Desk) -> None:
    folders = Growing(desk.root / "checkouts", "this-process", lambda _: True)
    checkouts = Checkouts(workspaces=desk.workspaces, folders=folders, new_id=new_id)
    with pytest.raises(Invalid, match=r"grows\.log"):
        async with checkouts.out(desk.place, "run") as folder:
            (folder / "grows.log").write_text("x")
            (folder / "good.txt").write_text("good")
    assert await desk.paths() == ["good.txt"]


class Growing(LocalFolders):
    """With a program beside it that writes to its log."""

    async def read(self, folder: Path, path: str) -> AsyncIterator[bytes]:
        if path == "grows.log":
            (folder / path).write_bytes(bytes(1001))
        async for chunk in super().read(folder, path):
            yield chunk


async def test_what_exceeds_the_quota_is_not_written_first(desk: Desk) -> None:
    desk.contents.limits = FileLimits(file_bytes=1000, workspace_files=20, quota=1500)
    with pytest.raises(QuotaExceeded, match="in the folder"):
        async with desk.checkouts.out(desk.place, "run") as folder:
            for number in range(10):
                (folder / f"{number}").write_bytes(bytes(900))
    assert await desk.paths() == []


async def test_what_is_touched_and_not_changed_is_no_new_version(desk: Desk) -> None:
    await desk.write("a.txt", "same")
    async with desk.checkouts.out(desk.place, "run") as folder:
        (folder / "a.txt").write_text("same")
    assert len(await desk.workspaces.versions(desk.place, "a.txt")) == 1


async def test_what_a_client_writes_meanwhile_is_neither_lost_nor_removed(desk: Desk) -> None:
    await desk.write("removed.txt", "old")
    await desk.write("changed.txt", "old")
    async with desk.checkouts.out(desk.place, "run") as folder:
        (folder / "removed.txt").unlink()
        (folder / "changed.txt").write_text("of the run")
        await desk.write("removed.txt", "of the client")
        await desk.write("changed.txt", "of the client")
    assert await desk.text("removed.txt") == "of the client"
    assert await desk.text("changed.txt") == "of the run"
    assert len(await desk.workspaces.versions(desk.place, "changed.txt")) == 3


async def test_what_was_done_is_kept_where_the_run_fails_or_is_cancelled(desk: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        async with desk.checkouts.out(desk.place, "run") as folder:
            (folder / "failed.txt").write_text("so far")
            raise ZeroDivisionError
    began = asyncio.Event()

    async def run() -> None:
        async with desk.checkouts.out(desk.place, "run") as folder:
            (folder / "cancelled.txt").write_text("so far")
            began.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await desk.paths() == ["cancelled.txt", "failed.txt"]


async def test_what_is_done_so_far_is_kept_while_the_folder_is_in_use(desk: Desk) -> None:
    await desk.write("mine.txt", "1")
    await desk.write("theirs.txt", "1")
    async with desk.checkouts.out(desk.place, "first") as folder:
        (folder / "new.txt").write_text("1")
        (folder / "mine.txt").write_text("22")
        await desk.checkouts.keep(desk.place, folder, "second")
        assert await desk.paths() == ["mine.txt", "new.txt", "theirs.txt"]
        assert [await desk.text(path) for path in ("mine.txt", "new.txt")] == ["22", "1"]
        await desk.checkouts.keep(desk.place, folder, "third")
        assert (await desk.workspaces.find(desk.place, "new.txt")).version == 1
        await desk.write("theirs.txt", "of somebody else")
        for name in ("new.txt", "theirs.txt"):
            (folder / name).unlink()
        await desk.checkouts.keep(desk.place, folder, "fourth")
        assert await desk.paths() == ["mine.txt", "theirs.txt"]
        assert (await desk.workspaces.find(desk.place, "mine.txt")).author == "second"
        (folder / "last.txt").write_text("1")
    assert await desk.paths() == ["last.txt", "mine.txt", "theirs.txt"]
    assert (await desk.workspaces.find(desk.place, "mine.txt")).version == 2


async def test_nothing_is_taken_from_a_folder_that_is_not_checked_out(desk: Desk, tmp_path: Path) -> None:
    await desk.write("a.txt", "1")
    async with desk.checkouts.out(desk.place, "run") as folder:
        for place, other in ((desk.place, tmp_path), (replace(desk.place, key="another"), folder)):
            with pytest.raises(Invalid, match="not checked out"):
                await desk.checkouts.keep(place, other, "run")
    with pytest.raises(Invalid, match="not checked out"):
        await desk.checkouts.keep(desk.place, folder, "run")
    assert await desk.paths() == ["a.txt"]


async def test_a_session_that_is_gone_keeps_nothing(desk: Desk) -> None:
    with pytest.raises(SessionNotFound):
        async with desk.checkouts.out(desk.place, "run") as folder:
            (folder / "late.txt").write_text("x")
            await desk.store.journal.commit((DeleteSession(desk.place.key),))
    assert await desk.paths() == []


async def test_folders_are_nobody_elses_and_those_of_the_dead_are_removed(tmp_path: Path) -> None:
    dead, alive = (LocalFolders(tmp_path, name, lambda name: name == "dead") for name in ("dead", "alive"))
    left, held = await dead.make("a"), await alive.make("a")
    assert held.stat().st_mode & 0o777 == 0o700
    (left / "deep").mkdir()
    (left / "deep" / "file").write_text("x")
    (left / "deep").chmod(0o000)
    await LocalFolders(tmp_path, "third", lambda name: name == "dead").clear()
    assert not left.parent.exists() and held.exists()
    assert list(tmp_path.glob("*.process")) == [held.parent.with_suffix(".process")]


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a.png", b"<html>", "application/octet-stream"),
        ("a.webp", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("a.pdf", b"hello", "application/octet-stream"),
        ("a.txt", b"\0\1", "application/octet-stream"),
        ("a.txt", "täglich".encode()[:2], "text/plain"),
        ("a.txt", b"\xff\xfe", "application/octet-stream"),
        ("README", b"plain words", "text/plain"),
        ("README", b"", "application/octet-stream"),
        ("a.json", b"{}", "application/json"),
        ("a.unheard-of", b"\0", "application/octet-stream"),
    ],
)
def test_a_media_type_is_judged_by_name_and_bytes(name: str, head: bytes, kind: str) -> None:
    assert guess(name, head) == kind
