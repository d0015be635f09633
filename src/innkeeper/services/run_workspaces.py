"""Workspaces of runs: what `context.workspace` and `context.agent_workspace` are of a run that is executed here."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from innkeeper.core.errors import Forbidden
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.runs import Run
from innkeeper.core.workspaces import Workspace
from innkeeper.services.checkouts import Checkouts
from innkeeper.services.workspaces import Workspaces, of_agent, of_session


class RunWorkspaces:
    """Makes them, run by run."""

    def __init__(self, workspaces: Workspaces, checkouts: Checkouts) -> None:
        self._workspaces = workspaces
        self._checkouts = checkouts

    def of(self, run: Run) -> tuple[Workspace, Workspace]:
        """The session's, and the agent's, which can be read only."""
        workspaces, checkouts = self._workspaces, self._checkouts
        return Workspace(_Line(workspaces, checkouts, run)), Workspace(_ReadLine(workspaces, checkouts, run))


class _Line:
    """Implements `core.workspaces.WorkspaceLine`. Each run has two, and few use any: nothing is made for them early."""

    __slots__ = ("_checkouts", "_run", "_workspaces")

    def __init__(self, workspaces: Workspaces, checkouts: Checkouts, run: Run) -> None:
        self._workspaces = workspaces
        self._checkouts = checkouts
        self._run = run

    @property
    def _place(self) -> Place:
        return of_session(self._run.session_key, self._run.owner.organization)

    async def all(self) -> Sequence[WorkspaceFile]:
        return await self._workspaces.all(self._place)

    async def versions(self, path: str) -> Sequence[WorkspaceFile]:
        return await self._workspaces.versions(self._place, path)

    async def find(self, path: str, version: int | None) -> WorkspaceFile:
        return await self._workspaces.find(self._place, path, version)

    def read(self, file: WorkspaceFile) -> AsyncIterator[bytes]:
        return self._workspaces.read(file)

    async def write(self, path: str, chunks: AsyncIterable[bytes], media_type: str | None) -> WorkspaceFile:
        return await self._workspaces.write(self._place, path, chunks, author=self._run.id, media_type=media_type)

    async def delete(self, path: str) -> None:
        await self._workspaces.delete(self._place, path, author=self._run.id)

    def checkout(self) -> AbstractAsyncContextManager[Path]:
        return self._checkouts.out(self._place, self._run.id)

    async def keep(self, folder: Path) -> None:
        await self._checkouts.keep(self._place, folder, self._run.id)


class _ReadLine(_Line):
    """The operator's files: agents read them."""

    __slots__ = ()

    @property
    def _place(self) -> Place:
        return of_agent(self._run.agent_name)

    async def write(self, path: str, chunks: AsyncIterable[bytes], media_type: str | None) -> WorkspaceFile:
        raise _read_only()

    async def delete(self, path: str) -> None:
        raise _read_only()

    def checkout(self) -> AbstractAsyncContextManager[Path]:
        raise _read_only()

    async def keep(self, folder: Path) -> None:
        raise _read_only()


def _read_only() -> Forbidden:
    return Forbidden("An agent's own workspace is the operator's: agents read it. Write to `context.workspace`.")
