"""Events in memory: handed out in batches, and no more of them than is bearable."""

from __future__ import annotations

from innkeeper.services.stretches import Stretch


def _parts(first: int, last: int, size: int = 8) -> list[bytes]:
    return [f"{number}".encode().rjust(size) for number in range(first, last + 1)]


def test_a_batch_is_what_follows_a_place_up_to_the_head() -> None:
    stretch = Stretch(10, _parts(11, 20))
    assert stretch.head == 20
    batch = stretch.beyond(17)
    assert batch is not None
    assert (list(batch.parts), batch.last, batch.joined()) == (_parts(18, 20), 20, b"".join(_parts(18, 20)))


def test_there_is_no_batch_where_nothing_is_known() -> None:
    stretch = Stretch(10, _parts(11, 20))
    assert [stretch.beyond(after) for after in (0, 9, 20, 21)] == [None] * 4


def test_all_at_the_same_place_share_a_batch_until_there_is_more() -> None:
    stretch = Stretch(0, _parts(1, 3))
    batch = stretch.beyond(1)
    assert batch is stretch.beyond(1)
    stretch.extend(_parts(4, 5))
    longer = stretch.beyond(1)
    assert longer is not None and longer.last == 5


def test_a_batch_ends_before_it_is_too_large_and_holds_an_event_of_any_size() -> None:
    stretch = Stretch(0, [*_parts(1, 100, size=1000), b"x" * 1_000_000, *_parts(102, 103)])
    after, lengths = 0, list[int]()
    while (batch := stretch.beyond(after)) is not None:
        after = batch.last
        lengths.append(len(batch.joined()))
    assert after == 103
    assert lengths == [65_000, 35_000, 1_000_000, 16]


def test_the_oldest_events_are_forgotten_beyond_a_bound_but_never_the_last() -> None:
    stretch = Stretch(0, _parts(1, 100))
    stretch.cut(max_bytes=80, max_events=1000)
    assert (stretch.after, stretch.head, stretch.size) == (90, 100, 80)
    stretch.cut(max_bytes=80, max_events=3)
    assert (stretch.after, stretch.head, stretch.size) == (97, 100, 24)
    stretch.cut(max_bytes=0, max_events=0)
    assert (stretch.after, stretch.head, stretch.size) == (99, 100, 8)
    assert stretch.beyond(98) is None
