"""What goes over the wire: as few messages as hold the topics, and nothing is read into what others send."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.buses.messages import MOST_BYTES, is_topic, new_sender, packed, unpacked

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""As the machine may be busy."""
SENDER = "0123456789abcdef"
TOPICS = st.text([chr(code) for code in range(0x21, 0x7F) if chr(code) != ","], min_size=1, max_size=200)


@UNHURRIED
@given(st.lists(TOPICS, max_size=200))
def test_what_is_packed_is_unpacked_in_the_same_order(topics: list[str]) -> None:
    messages = packed(SENDER, topics)
    read = [unpacked(message) for message in messages]
    assert [topic for _, told in read for topic in told] == topics
    assert {sender for sender, _ in read} <= {SENDER}


@UNHURRIED
@given(st.lists(TOPICS, max_size=200))
def test_no_message_is_too_long_and_none_could_have_been_saved(topics: list[str]) -> None:
    messages = packed(SENDER, topics)
    assert all(len(message.encode()) <= MOST_BYTES for message in messages)
    for one, next_one in pairwise(messages):
        first_topic = next_one.partition(" ")[2].partition(",")[0]
        assert len(one) + 1 + len(first_topic) > MOST_BYTES


def test_a_message_is_filled_to_its_last_byte() -> None:
    topics = ["x" * 200] * 39 + ["y" * 44]
    assert [len(message) for message in packed(SENDER, topics)] == [MOST_BYTES]
    assert len(packed(SENDER, [*topics[:-1], "y" * 45])) == 2


@pytest.mark.parametrize(
    "message",
    [
        "",
        " ",
        "run:1",
        SENDER,
        f"{SENDER} ",
        f"{SENDER} a,",
        f"{SENDER} ,a",
        f"{SENDER} a,,b",
        f"{SENDER} a b",
        f"{SENDER}  a",
        f"{SENDER} a\n",
        f"{SENDER} ä",
        f"{SENDER[1:]} a",
        f"{SENDER.upper()} a",
        f"{SENDER} {'x' * 201}",
        f"{SENDER} " + ",".join(["x" * 200] * 40),
    ],
)
def test_what_is_malformed_holds_no_topics(message: str) -> None:
    assert unpacked(message) == ("", ())


def test_senders_differ_and_are_read_as_such() -> None:
    senders = {new_sender() for _ in range(100)}
    assert len(senders) == 100
    assert {unpacked(f"{sender} a")[0] for sender in senders} == senders


def test_a_topic_is_printable_ascii_without_spaces_and_commas() -> None:
    assert [character for character in map(chr, range(0x250)) if is_topic(character)] == [
        chr(code) for code in range(0x21, 0x7F) if chr(code) != ","
    ]
    assert is_topic("x" * 200)
    assert not is_topic("x" * 201)
