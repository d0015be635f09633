"""Sandboxes for tests: one that this machine cannot have skips its tests here, and fails them where `CI` is set."""

from __future__ import annotations

import os

import pytest

from innkeeper.core.errors import SetupError
from innkeeper.ports.sandbox import Sandbox


async def opened_or_skipped(sandbox: Sandbox) -> None:
    try:
        await sandbox.open()
    except SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.message)
