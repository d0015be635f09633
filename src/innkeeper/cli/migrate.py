"""`innkeeper migrate`: bring the store's tables up to date. SQLite's are, at every start; PostgreSQL's only here."""

from __future__ import annotations

import asyncio

from innkeeper.config import load_settings
from innkeeper.wiring import open_store, store_label


def migrate() -> None:
    """Apply what is missing and say from which revision to which.

    Raises: SetupError.
    """
    settings = load_settings()
    before, after = asyncio.run(open_store(settings).migrate())
    label = store_label(settings)
    if before == after:
        print(f"{label} is up to date: revision {after}.")
    else:
        print(f"{label} went from {f'revision {before}' if before else 'no tables'} to revision {after}.")
