"""Recollections: what a run has told and tracked before it goes on in this process, read back from the store.

A run goes on after people have answered, or after the process died in which it was under way.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from innkeeper.core.context import RunContext
from innkeeper.core.errors import StorageUnavailable
from innkeeper.ports.readers import RunReader
from innkeeper.services.assembling import Assembler
from innkeeper.services.credits import Credits
from innkeeper.services.following import replayed

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Recollections:
    """Reads back runs that are this process's, however long the store is away."""

    runs: RunReader
    credits: Credits

    async def of(self, run_id: str, context: RunContext) -> Assembler:
        """What the run's log comes to; `context` counts on from what it has consumed.

        There is nothing of it where its session has been deleted by now.
        """
        while True:
            try:
                log = await replayed(self.runs, run_id)
                context.recall(await self.credits.tracked(run_id), log.assembler.usage)
            except StorageUnavailable as error:
                _logger.warning("the log of run %s cannot be read: %s", run_id, error)
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                return log.assembler
