"""What a log keeps of a text: one line, and no credential in it."""

from __future__ import annotations

import time

import pytest

from innkeeper.core.redactions import LONGEST, kept
from tests.support.sizes import within

SECRET = "s3cr3tS3CR3Ts3cr3t"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"{{'authorization': 'Basic {SECRET}', 'accept': '*/*'}}",
        f"Proxy-Authorization={SECRET}",
        f"sent Bearer {SECRET} upstream",
        f"the token ikabcdefghij012345.{SECRET} was used",
        f"X-Session-Token: st_{SECRET}",
        f"opened with st_{SECRET}",
        f"a key sk-{SECRET}",
        f"x-api-key: {SECRET}",
        f"api-token={SECRET}&x=1",
        f"password='{SECRET}'",
        f"postgresql://ann:{SECRET}@db:5432/inn",
        f"redis://:{SECRET}@cache",
        f"Cookie: {SECRET}; other=1",
    ],
)
def test_credentials_of_every_common_shape_are_left_out(text: str) -> None:
    assert SECRET not in kept(text)
    assert "***" in kept(text)


@pytest.mark.parametrize(
    "text",
    [
        "tokens: 12 of 20 were used",
        "POST http://localhost:8000/chat took 3.5 ms",
        "run run_0192 of agent echo failed: TimeoutError",
        "the token was refused",
        "st_s and ik: nothing",
    ],
)
def test_text_without_a_credential_stays_as_it_is(text: str) -> None:
    assert kept(text) == text


def test_public_half_of_a_token_and_the_place_of_a_store_stay_readable() -> None:
    assert kept(f"ikabcdefghij012345.{SECRET}") == "ikabcdefghij012345.***"
    assert kept(f"postgresql://ann:{SECRET}@db/inn") == "postgresql://ann:***@db/inn"


def test_control_characters_cannot_begin_a_line_or_steer_a_terminal() -> None:
    said = kept("ok\r\nERROR forged\x1b[2J\x00\x9b\u2028\u202eend")
    assert said == r"ok\r\nERROR forged\x1b[2J\x00\x9b\u2028\u202eend"


def test_long_text_is_cut_and_what_is_cut_off_is_no_half_secret() -> None:
    assert len(kept("x" * 100_000)) == LONGEST
    redacted = f"password={'a' * 80} "
    for fill in range(LONGEST * 2 - 60, LONGEST * 2 + 5):
        text = f"{(redacted * 100)[:fill]} postgresql://ann:{SECRET}@db"
        assert "s3cr" not in kept(text)


@pytest.mark.parametrize("piece", ["://a:", "bearer ", "token= ", "token:", "st_", "\n", "ik", "password=' "])
def test_no_text_makes_the_search_long(piece: str) -> None:
    began = time.thread_time()
    kept(piece * 100_000)
    assert time.thread_time() - began < within(0.2, 1)
