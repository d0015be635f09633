"""Terminals: what may be written to one."""

from __future__ import annotations

import re

DIM, BOLD, PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Text without what would steer a terminal; tabs and line ends stay."""
    return _STEERING.sub("", text)
