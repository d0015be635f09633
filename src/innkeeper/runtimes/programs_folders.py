"""Folders that programs work in: the operator's, else a copy of the session's workspace, else an empty one.

What a program writes into a copy becomes versions of the workspace's files when the copy is left, and whenever
`keep` is called before. An empty folder is for runs that have no workspace, and is removed with what is in it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, InnkeeperError

_logger = logging.getLogger(__name__)


class Folder:
    """A folder while it is used. `leave` is called once nothing writes into it any more."""

    def __init__(self, path: Path, stack: AsyncExitStack, *, is_copy: bool) -> None:
        self.path = path
        self._stack = stack
        self._is_copy = is_copy

    @classmethod
    async def open(cls, context: RunContext, fixed: Path | None) -> Folder:
        """Raises: AgentFailed where the operator's folder is missing."""
        async with AsyncExitStack() as stack:
            path = await stack.enter_async_context(_opened(context, fixed))
            return cls(path, stack.pop_all(), is_copy=fixed is None and context.run_id is not None)

    async def keep(self, context: RunContext) -> None:
        """What the program has written by now, the workspace has; what cannot be taken over is named in the log."""
        if self._is_copy:
            try:
                await context.workspace.keep(self.path)
            except (InnkeeperError, OSError) as error:
                _logger.warning("files of a program are not in its workspace: %s", error)

    async def leave(self) -> None:
        """What cannot be taken over is named in the log: what the program has said stays said."""
        try:
            await self._stack.aclose()
        except (InnkeeperError, OSError) as error:
            _logger.warning("files of a program are lost: %s", error)


@asynccontextmanager
async def _opened(context: RunContext, fixed: Path | None) -> AsyncIterator[Path]:
    if fixed is not None:
        if not await asyncio.to_thread(fixed.is_dir):
            raise AgentFailed(f"cannot be started: its folder {fixed} is missing. Make it, or change cwd.")
        yield fixed
    elif context.run_id is not None:
        async with context.workspace.checkout() as path:
            yield path
    else:
        path = Path(tempfile.mkdtemp(prefix="innkeeper-program-"))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
