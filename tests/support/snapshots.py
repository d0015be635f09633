"""Snapshots: what users rely on, as files in the tree, so that a change of it is a diff that somebody reads."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "snapshots"


def assert_snapshot(name: str, now: str) -> None:
    """Compares with the file of that name, or writes it where `UPDATE_SNAPSHOTS=1` asks for that."""
    path = FOLDER / name
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(now, encoding="utf-8")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    assert now == kept, (
        f"What users rely on has changed: see tests/snapshots/{name}. If that is meant, renew it with"
        " UPDATE_SNAPSHOTS=1 pytest tests/apps/test_public_surface.py, and write the change into CHANGELOG.md."
    )
