"""What tests of the Python API start from: no agents left from elsewhere, a folder of their own."""

from __future__ import annotations

from tests.support.apps import fresh_process

__all__ = ["fresh_process"]
