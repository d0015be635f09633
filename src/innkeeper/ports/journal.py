"""The one door for writes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from innkeeper.core.changes import Change, Fence
from innkeeper.core.outcomes import Outcome


class Journal(Protocol):
    """Applies changes durably.

    - The changes of one call are applied in one transaction, in order, all or none; the future's result has
      one outcome a change, and is set only when they are on disk.
    - Calls are applied in the order in which they were made, as far as they concern one run or session;
      so are one owner's injections.
    - Calls that arrive together may share a transaction; one that fails does not fail its neighbours.
    - With a `fence` that is behind, nothing is written and every outcome is `Stale`.
    - `AppendEvents` or `EndRun` once more, after an answer that was lost, change nothing and answer the same.
    - The future fails with `StorageUnavailable` (or `StorageFull`) when the store does not answer, and
      with the core error that a change's own rule demands (`RunConflict`, `TooBusy`, …).
    """

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]: ...
