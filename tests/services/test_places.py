"""Places: how much may be under way at a time, in all and of one owner."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from innkeeper.core.errors import RateLimited, TooBusy
from innkeeper.core.identity import LOCAL_OWNER, Owner
from innkeeper.services.places import Places

ANN, BOB, EVE = (Owner("acme", name) for name in ("ann", "bob", "eve"))


def test_one_owner_has_a_part_and_all_together_no_more_than_there_are() -> None:
    places = Places(3, 2, "calls")
    with ExitStack() as held:
        held.enter_context(places.taken(ANN))
        with places.taken(ANN), pytest.raises(RateLimited, match="2 calls of this user"), places.taken(ANN):
            raise AssertionError("there was a third place")
        held.enter_context(places.taken(ANN))
        held.enter_context(places.taken(BOB))
        with pytest.raises(TooBusy, match="3 calls are under way"), places.taken(EVE):
            raise AssertionError("there was a fourth place")
    with places.taken(EVE):
        pass


def test_a_place_is_given_back_however_it_was_used() -> None:
    places = Places(1, 1, "calls")
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), places.taken(ANN):
            raise ValueError("broken")


def test_the_local_user_may_have_all_of_them() -> None:
    places = Places(2, 1, "calls")
    with places.taken(LOCAL_OWNER), places.taken(LOCAL_OWNER), pytest.raises(TooBusy), places.taken(LOCAL_OWNER):
        raise AssertionError("there was a third place")
