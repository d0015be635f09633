"""Terminals for programs that insist on one: a pseudo-terminal without echo, and text without its control codes."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
from dataclasses import dataclass

MAX_LINE = 4000
"""Bytes of one line that a terminal passes on; the system cuts off what is longer."""

END_OF_INPUT = b"\x04"

_COMPLETE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # strings to the terminal
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
)
_INCOMPLETE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)?\Z")
_LONGEST_CODE = 4096
_LONGEST_ECHO = 16 * 1024
_LONGEST_HELD = 4 * _LONGEST_ECHO
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Size:
    columns: int = 120
    rows: int = 40


def open_terminal(size: Size) -> tuple[int, int]:
    """The server's end and the program's, which does not echo and leaves line breaks alone."""
    near, far = os.openpty()
    fcntl.ioctl(near, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))
    modes = termios.tcgetattr(far)
    modes[1] &= ~termios.ONLCR
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(far, termios.TCSANOW, modes)
    return near, far


def typed(text: str) -> str:
    """`text` as it may be typed: control characters would interrupt the program, end its input, or steer it."""
    return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    "))


class Screen:
    """Takes the control codes out of what a program writes, in whatever pieces it comes."""

    def __init__(self) -> None:
        self._held = ""

    def shown(self, text: str, *, is_last: bool = False) -> str:
        text = self._held + text
        self._held = ""
        text = _COMPLETE.sub("", text)
        if not is_last and (cut := _INCOMPLETE.search(text)) and len(text) - cut.start() <= _LONGEST_CODE:
            text, self._held = text[: cut.start()], text[cut.start() :]
        elif not is_last and text.endswith("\r"):
            text, self._held = text[:-1], "\r"
        return _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


class Echo:
    """Leaves out what was typed, where the program repeats it first."""

    def __init__(self, typed: str) -> None:
        self._left = "".join(typed.split()) if len(typed) <= _LONGEST_ECHO else ""
        self._held = ""
        self._place = 0

    def heard(self, text: str, *, is_last: bool = False) -> str:
        """What of the text is the program's own; a piece that may be a repetition yet is held back."""
        if not self._left:
            return text
        begin, self._held = len(self._held), self._held + text
        for position, letter in enumerate(text, begin):
            if letter.isspace():
                continue
            if self._place == len(self._left):
                return self._over(position)
            if letter != self._left[self._place]:
                return self._over(0)
            self._place += 1
        is_repeated = self._place == len(self._left)
        if is_last or len(self._held) > _LONGEST_HELD or (is_repeated and self._held.endswith("\n")):
            return self._over(len(self._held) if is_repeated else 0)
        return ""

    def _over(self, begin: int) -> str:
        rest = self._held[begin:]
        self._left = self._held = ""
        return rest
