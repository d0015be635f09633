"""Terminals: what a program writes to one, read as text, in whatever pieces it comes."""

from __future__ import annotations

import time

import pytest

from innkeeper.runtimes.programs_terminals import Echo, Screen
from innkeeper.testing.runtimes import play, text_of
from tests.support.programs import hosted

WRITTEN = (
    "\x1b[1;31mred\x1b[0m \x1b]0;a title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\"
    "\x1bP1$r\x1b\\\x1b(B\x1b[?2004h\x1b7\r\nnext\x08\x07\rover"
)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_control_codes_are_left_out_in_whatever_pieces_they_come(size: int) -> None:
    screen = Screen()
    pieces = [WRITTEN[place : place + size] for place in range(0, len(WRITTEN), size)]
    assert "".join(map(screen.shown, pieces)) + screen.shown("", is_last=True) == "red link\nnext\nover"


def test_a_code_that_never_ends_is_not_waited_for() -> None:
    screen = Screen()
    shown = "".join(screen.shown("x" * 1000) for _ in range(3))
    shown += "".join(screen.shown(text) for text in ("\x1b]0;", *["y" * 1000] * 10))
    assert shown.startswith("x" * 3000)
    assert len(shown) > 10_000


@pytest.mark.parametrize(
    "pieces", [["hello you\nfine"], list("hello you\nfine"), ["hello", " you\r\n".replace("\r", ""), "fine"]]
)
def test_what_is_typed_is_left_out_where_the_program_repeats_it(pieces: list[str]) -> None:
    echo = Echo("hello you\n")
    assert "".join(map(echo.heard, pieces)).strip() == "fine"


@pytest.mark.parametrize("text", ["fine", "hell", "hello yes", ""])
def test_what_only_begins_like_it_is_kept(text: str) -> None:
    echo = Echo("hello you\n")
    assert echo.heard(text) + echo.heard("", is_last=True) == text


def test_nothing_but_white_space_is_not_waited_for() -> None:
    echo = Echo("hello you\n")
    began = time.process_time()
    shown = "".join(echo.heard(" " * 16_384) for _ in range(500)) + echo.heard("fine", is_last=True)
    assert len(shown) == 500 * 16_384 + 4
    assert time.process_time() - began < 1


async def test_a_program_has_a_terminal_of_that_size_and_controls_it() -> None:
    source = "test -t 0 && test -t 1 && stty size && echo $TERM && : < /dev/tty && echo mine"
    told = text_of(await play(hosted(["sh", "-c", source], terminal=True, columns=99, rows=33), "hi"))
    assert told.split() == ["33", "99", "xterm-256color", "mine"]
