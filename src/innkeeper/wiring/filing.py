"""Filing: files, workspaces and where their contents lie, put together for one event loop."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.blobs.folders import LocalFolders
from innkeeper.config import Settings
from innkeeper.http.contexts import new_id, now
from innkeeper.ports.blobs import BlobStore
from innkeeper.services import processes
from innkeeper.services.attachments import Attachments
from innkeeper.services.checkouts import Checkouts
from innkeeper.services.contents import Contents, FileLimits, Rubbish
from innkeeper.services.files import Files
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.run_workspaces import RunWorkspaces
from innkeeper.services.workspaces import Workspaces
from innkeeper.wiring.openings import Store, open_blobs


@dataclass(frozen=True, slots=True)
class Filing:
    """What is opened before runs are, and closed after them."""

    blobs: BlobStore
    contents: Contents
    files: Files
    workspaces: Workspaces
    checkouts: Checkouts
    rubbish: Rubbish

    async def open(self) -> None:
        """Raises: SetupError where files cannot be kept."""
        await self.blobs.open()
        await self.checkouts.open()
        self.rubbish.open()

    async def close(self) -> None:
        await self.checkouts.close()
        await self.rubbish.close()
        await self.contents.close()


def filing(settings: Settings, store: Store, neighbours: Neighbours) -> Filing:
    """The services of files, of which runs are told through `neighbours`.

    Raises: SetupError, MissingDependency.
    """
    blobs = open_blobs(settings)
    contents = Contents(
        blobs=blobs, journal=store.journal, files=store.files, now=now, new_id=new_id, limits=limits_of(settings)
    )
    files = Files(journal=store.journal, files=store.files, contents=contents, now=now, new_id=new_id)
    workspaces = Workspaces(journal=store.journal, workspaces=store.workspaces, contents=contents, now=now)
    # Who holds the lock of an unshared store is its only server: all others that used the folder are dead.
    is_gone = processes.is_gone if store.is_shared else lambda _: True
    root = settings.data_dir.expanduser().absolute() / "checkouts"
    folders = LocalFolders(root, processes.own_name(), is_gone)
    checkouts = Checkouts(workspaces=workspaces, folders=folders, new_id=new_id)
    attachments = Attachments(files=files, workspaces=workspaces)
    neighbours.check_attachments, neighbours.attached = attachments.check, attachments.resolved
    neighbours.workspaces_of = RunWorkspaces(workspaces, checkouts).of
    rubbish = Rubbish(journal=store.journal, blobs=blobs, now=now)
    return Filing(blobs, contents, files, workspaces, checkouts, rubbish)


def limits_of(settings: Settings) -> FileLimits:
    return FileLimits(
        file_bytes=settings.max_file_bytes,
        quota=settings.storage_quota,
        kept_versions=settings.workspace_versions,
        workspace_files=settings.workspace_files,
    )
