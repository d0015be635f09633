"""What tests of the Python API start from: no agents left from elsewhere, a folder of their own."""

from __future__ import annotations

import pytest

from tests.support.apps import fresh_process

__all__ = ["fresh_process"]


@pytest.fixture(autouse=True)
def _fresh(fresh_process: None) -> None:
    """Every test here."""
