"""Injections in the journal: stored for a run under way or for the next one, delivered once, never lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from innkeeper.core.changes import DeleteSession, DeliverInjections, Segment
from innkeeper.core.events import MessageInjected, payload
from innkeeper.core.injections import LIFETIME, InjectedMessage, Injection, InjectionStatus
from innkeeper.core.outcomes import Accepted, Delivered, Ended, Injected, Missing, Stale, Steered
from innkeeper.core.times import Instant
from tests.support.turns import (
    ANN,
    BOB,
    Store,
    accept,
    accepted_by,
    assistant,
    began_by,
    end,
    events,
    fence,
    given,
    inject,
    injected_by,
    log_of,
    new_id,
    now,
    receipt_of,
    run_of,
    session_called,
    spoken,
    take_turn,
    user,
)


def _lines(*injected: Injection, were_deferred: bool = False) -> list[bytes]:
    return [payload(MessageInjected(one.content, one.id, were_deferred)) for one in injected]


async def _delivered(store: Store, accepted: Accepted, after: int) -> Delivered:
    (outcome,) = await store.journal.commit((DeliverInjections(after, now()),), fence(accepted))
    assert isinstance(outcome, Delivered)
    return outcome


async def _texts(store: Store, accepted: Accepted) -> list[str]:
    assert accepted.lineage is not None
    return [message.text for message in await given(store, accepted.lineage)]


# accepting


async def test_an_injection_is_accepted_for_the_run_under_way_and_names_its_worker(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    change = inject("more")
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Injected)
    told = outcome.injection
    assert (told.status, told.run_id, told.first_run_id) == ("accepted", accepted.run.id, accepted.run.id)
    assert (told.session_key, told.agent_name, told.seq) == (accepted.run.session_key, "echo", None)
    assert outcome.worker == "worker-1"
    assert await receipt_of(store, change.id) == told
    assert await store.injections.has_accepted(accepted.run.id)


async def test_the_newest_run_that_fits_has_it(store: Store) -> None:
    first = await accepted_by(store, accept("q", "s"))
    other = await accepted_by(store, accept("q", "t", agent_name="other"))
    newest = await accepted_by(store, accept("q", "u"))
    await accepted_by(store, accept("q", "v", caller=BOB))
    for change, run in (
        (inject("x"), newest),
        (inject("x", agent_name="other"), newest),
        (inject("x", agent_name="other", names_agent=True), other),
        (inject("x", session_key=first.run.session_key), first),
        (inject("x", run_id=first.run.id), first),
    ):
        assert (await injected_by(store, change)).run_id == run.run.id


async def test_what_fits_no_run_under_way_waits_for_its_session_or_its_agent(store: Store) -> None:
    running = await accepted_by(store, accept("q", "s"))
    queued = await accepted_by(store, accept("q", "s"))
    await take_turn(store, "q", "t")
    key = (await session_called(store, "t")).key
    for change, session_key in (
        (inject("x", agent_name="other", names_agent=True), None),
        (inject("x", session_key=key), key),
        (inject("x", run_id=queued.run.id, agent_name=None), queued.run.session_key),
        (inject("x", caller=BOB), None),
    ):
        told = await injected_by(store, change)
        expected = None if session_key != running.run.session_key else told.run_id
        assert (told.session_key, told.run_id) == (session_key, expected)
        assert told.status == (InjectionStatus.ACCEPTED if expected else InjectionStatus.DEFERRED)


async def test_what_names_a_run_that_has_ended_waits_for_its_session(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    told = await injected_by(store, inject("late", run_id=accepted.run.id, agent_name=None))
    assert (told.status, told.run_id, told.session_key) == ("deferred", None, accepted.run.session_key)
    assert await _texts(store, await accepted_by(store, accept("q2", "s"))) == ["q", "a", "late", "q2"]


async def test_what_names_a_run_that_has_ended_is_for_the_one_of_its_session_that_is_under_way(store: Store) -> None:
    ended = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((end(ended, "a"),), fence(ended))
    running = await accepted_by(store, accept("q2", "s"))
    await accepted_by(store, accept("elsewhere", "t"))
    told = await injected_by(store, inject("late", run_id=ended.run.id, agent_name=None))
    assert (told.status, told.run_id) == ("accepted", running.run.id)


async def test_what_is_injected_while_a_run_begins_never_misses_it(store: Store) -> None:
    await take_turn(store, "q", "s")
    key = (await session_called(store, "s")).key
    for number in range(20):
        begun, told = await asyncio.gather(
            accepted_by(store, accept("q", "s")), injected_by(store, inject(str(number), session_key=key))
        )
        receipt = await receipt_of(store, told.id)
        assert (receipt.run_id, receipt.status == "deferred") == (begun.run.id, False)
        await store.journal.commit((end(begun, seq=begun.run.last_seq + 1),), fence(begun))


async def test_what_names_a_forgotten_run_waits_for_the_next_one_of_its_agent(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", recorded=False, agent_name="other"))
    await store.journal.commit((end(accepted, "a"),), fence(accepted))
    told = await injected_by(store, inject("late", run_id=accepted.run.id, agent_name=None))
    assert (told.status, told.session_key, told.agent_name) == ("deferred", None, "other")
    assert await _texts(store, await accepted_by(store, accept("q2", agent_name="other"))) == ["late", "q2"]


async def test_nobody_injects_into_another_owners_run(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    assert await store.journal.commit((inject("x", run_id=accepted.run.id, caller=BOB),)) == (Missing(),)
    assert await store.journal.commit((inject("x", run_id="run_none"),)) == (Missing(),)
    told = await injected_by(store, inject("x", session_key=accepted.run.session_key, caller=BOB))
    assert told.status == "deferred"
    await store.journal.commit((end(accepted),), fence(accepted))
    assert await _texts(store, await accepted_by(store, accept("q2", "s"))) == ["q", "Hello", "q2"]


async def test_what_is_for_one_end_user_reaches_no_run_of_another(store: Store) -> None:
    of_ada = await accepted_by(store, accept("q", "s", user_id="ada"))
    of_cyd = await accepted_by(store, accept("q", "s", user_id="cyd"))
    assert (await injected_by(store, inject("x"))).run_id == of_cyd.run.id
    assert (await injected_by(store, inject("x", user_id="ada"))).run_id == of_ada.run.id
    assert (await injected_by(store, inject("x", user_id="ada", run_id=of_ada.run.id))).run_id == of_ada.run.id
    for change in (
        inject("x", user_id="eve"),
        inject("x", user_id="eve", agent_name="echo", names_agent=True),
        inject("x", user_id="ada", run_id=of_cyd.run.id),
        inject("x", session_key=of_ada.run.session_key, run_id=of_cyd.run.id),
    ):
        assert await store.journal.commit((change,)) == (Missing(),)
    named = await injected_by(store, inject("x", user_id=ANN.owner.user))
    assert (named.status, named.run_id) == ("deferred", None), "the caller's own next run has it"


# delivering


async def test_injections_are_delivered_in_the_order_of_their_arrival_with_a_seq_each(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    await store.journal.commit((events(2, b"two"),), fence(accepted))
    changes = [inject(str(number)) for number in range(20)]
    await asyncio.gather(*(store.journal.commit((change,)) for change in changes))
    told = await _delivered(store, accepted, 2)
    assert told.messages == tuple(InjectedMessage(change.content, change.id) for change in changes)
    receipts = [await receipt_of(store, change.id) for change in changes]
    assert told.segment == Segment(3, 20, b"\n".join(_lines(*receipts)))
    assert (await log_of(store, accepted.run.id))[2:] == _lines(*receipts)
    assert [(receipt.status, receipt.seq) for receipt in receipts] == [("delivered", seq) for seq in range(3, 23)]
    assert (await run_of(store, accepted.run.id)).last_seq == 22
    assert not await store.injections.has_accepted(accepted.run.id)


async def test_where_nothing_was_injected_nothing_is_delivered(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    assert await _delivered(store, accepted, 1) == Delivered()
    assert len(await log_of(store, accepted.run.id)) == 1


async def test_the_same_delivery_again_answers_the_same_and_doubles_nothing(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    for text in ("a", "b"):
        await injected_by(store, inject(text))
    first = await _delivered(store, accepted, 1)
    late = await injected_by(store, inject("late"))
    assert await _delivered(store, accepted, 1) == first
    assert (await receipt_of(store, late.id)).status == "accepted"
    assert (await _delivered(store, accepted, 3)).messages == (InjectedMessage("late", late.id),)
    assert len(await log_of(store, accepted.run.id)) == 4


async def test_behind_a_stale_fence_nothing_is_delivered(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    told = await injected_by(store, inject("x"))
    for behind in (fence(accepted, 2), fence(accepted, worker="another")):
        assert await store.journal.commit((DeliverInjections(1, now()),), behind) == (Stale(),)
    assert (await receipt_of(store, told.id)).status == "accepted"
    await store.journal.commit((end(accepted),), fence(accepted))
    assert await store.journal.commit((DeliverInjections(2, now()),), fence(accepted)) == (Stale(),)


async def test_odd_text_is_delivered_as_it_was_said(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    odd = "NUL \0, \u2028, 👩‍👩‍👧, \\u0000, \n, \ud800"
    await injected_by(store, inject(odd))
    (message,) = (await _delivered(store, accepted, 1)).messages
    assert message.content == odd.replace("\ud800", "\ufffd")


# deferring


async def test_what_a_run_did_not_take_waits_for_the_next_of_its_session(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    taken = await injected_by(store, inject("taken"))
    await _delivered(store, accepted, 1)
    left = [await injected_by(store, inject(text)) for text in ("left", "too")]
    await store.journal.commit((end(accepted, "a", seq=3),), fence(accepted))
    assert (await receipt_of(store, taken.id)).status == "delivered"
    for one in left:
        receipt = await receipt_of(store, one.id)
        assert (receipt.status, receipt.run_id, receipt.seq) == ("deferred", None, None)
        assert (receipt.first_run_id, receipt.session_key) == (accepted.run.id, accepted.run.session_key)
    elsewhere = await accepted_by(store, accept("q", "elsewhere"))
    assert elsewhere.first is None
    following = await accepted_by(store, accept("q2", "s"))
    assert await _texts(store, following) == ["q", "a", "left", "too", "q2"]
    assert following.first == Segment(1, 3, b"\n".join([b'{"type":"run"}', *_lines(*left, were_deferred=True)]))
    assert following.run.last_seq == 3
    for seq, one in enumerate(left, 2):
        receipt = await receipt_of(store, one.id)
        assert (receipt.status, receipt.run_id, receipt.seq) == ("delivered", following.run.id, seq)


async def test_what_was_deferred_leaves_the_clients_transcript_as_it_was(store: Store) -> None:
    await take_turn(store, "q1", "s", "a1")
    key = (await session_called(store, "s")).key
    for text in ("one", "two"):
        await injected_by(store, inject(text, session_key=key))
    sent = [user("q1"), assistant("a1"), user("q2")]
    assert [m.text for m in await take_turn(store, sent, "s", "a2")] == ["q1", "a1", "one", "two", "q2"]
    sent += [assistant("a2"), user("q3")]
    await take_turn(store, sent, "s", "a3")
    expected = ["q1", "a1", "one", "two", "q2", "a2", "q3", "a3"]
    assert await spoken(store, "s") == expected
    stored = await store.sessions.messages(await session_called(store, "s"))
    assert [message.position for message in stored] == list(range(1, 9))
    assert [message.run_id for message in stored][2] == stored[4].run_id
    edited = [user("q1"), assistant("a1"), user("other")]
    assert [m.text for m in await take_turn(store, edited, "s", "b2")] == ["q1", "a1", "other"]


async def test_the_first_turn_of_a_session_begins_with_what_waited_for_its_agent(store: Store) -> None:
    told = await injected_by(store, inject("wait for me"))
    other = await injected_by(store, inject("not you", agent_name="other"))
    bobs = await injected_by(store, inject("not hers", caller=BOB))
    assert [one.status for one in (told, other, bobs)] == ["deferred"] * 3
    accepted = await accepted_by(store, accept("q", "s"))
    assert accepted.is_new_session
    assert await _texts(store, accepted) == ["wait for me", "q"]
    assert (await receipt_of(store, told.id)).session_key == accepted.run.session_key
    await store.journal.commit((end(accepted, "a", seq=3),), fence(accepted))
    assert [m.text for m in await take_turn(store, [user("q"), assistant("a"), user("q2")], "s")] == [
        "wait for me", "q", "a", "q2",
    ]  # fmt: skip
    assert (await receipt_of(store, other.id)).status == (await receipt_of(store, bobs.id, BOB)).status == "deferred"


async def test_a_queued_run_begins_with_what_was_left_by_the_one_before_it(store: Store) -> None:
    first = await accepted_by(store, accept("q1", "s"))
    waits = accept("q2", "s")
    queued = await accepted_by(store, waits)
    left = await injected_by(store, inject("left"))
    await store.journal.commit((end(first, "a1"),), fence(first))
    begun = await began_by(store, waits, queued)
    assert await _texts(store, begun) == ["q1", "a1", "left", "q2"]
    assert await log_of(store, queued.run.id) == [b'{"type":"run"}', *_lines(left, were_deferred=True)]
    assert (await receipt_of(store, left.id)).seq == 2


async def test_what_is_left_by_a_run_that_is_forgotten_waits_for_its_agent(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", recorded=False))
    taken = await injected_by(store, inject("taken"))
    await _delivered(store, accepted, 1)
    left = await injected_by(store, inject("left"))
    await store.journal.commit((end(accepted, seq=3),), fence(accepted))
    assert await store.injections.find(ANN, taken.id) is None
    assert (await receipt_of(store, left.id)).session_key is None
    assert await _texts(store, await accepted_by(store, accept("q", "s"))) == ["left", "q"]


async def test_what_is_left_by_a_forgotten_run_of_one_end_user_is_told_in_no_run_of_another(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", recorded=False, user_id="ada"))
    await injected_by(store, inject("left"))
    await store.journal.commit((end(accepted),), fence(accepted))
    late = inject("late", run_id=accepted.run.id)
    assert await store.journal.commit((late,)) == (Missing(),), "nothing that comes is sure to be that user's"
    for user_id, told in (("cyd", ["q"]), (None, ["q"]), ("ada", ["left", "q"])):
        assert await _texts(store, await accepted_by(store, accept("q", f"of {user_id}", user_id=user_id))) == told


async def test_what_has_waited_for_too_long_is_not_delivered(store: Store) -> None:
    change = inject("old")
    old = await injected_by(store, replace(change, now=Instant(change.now - LIFETIME)))
    fresh = await injected_by(store, replace(inject("fresh"), now=Instant(change.now - LIFETIME + 60_000_000)))
    assert await _texts(store, await accepted_by(store, accept("q", "s"))) == ["fresh", "q"]
    assert (await receipt_of(store, old.id)).status_at(now()) == "expired"
    assert (await receipt_of(store, fresh.id)).status == "delivered"


async def test_two_turns_that_begin_together_share_what_waited_for_their_agent(store: Store) -> None:
    told = [await injected_by(store, inject(str(number))) for number in range(5)]
    runs = await asyncio.gather(*(accepted_by(store, accept("q", f"s{n}")) for n in range(4)))
    texts = [await _texts(store, run) for run in runs]
    assert sorted(map(len, texts)) == [1, 1, 1, 6]
    assert [*map(str, range(5)), "q"] in texts
    assert {(await receipt_of(store, one.id)).status for one in told} == {"delivered"}


async def test_an_injection_that_races_with_the_end_waits_for_the_next_run_and_is_never_lost(store: Store) -> None:
    count = 60
    await take_turn(store, "q", "s")
    key = (await session_called(store, "s")).key
    for number in range(count):
        accepted = await accepted_by(store, accept(f"q{number}", "s"))
        seq = accepted.run.last_seq + 1
        changes = [inject(f"{number}.{n}", **({"run_id": accepted.run.id} if n % 2 else {})) for n in range(3)]  # type: ignore[arg-type]
        calls = [store.journal.commit((change,)) for change in changes[:2]]
        calls.append(store.journal.commit((end(accepted, f"a{number}", seq=seq),), fence(accepted)))
        calls.append(store.journal.commit((changes[2],)))
        outcomes = [outcome for (outcome,) in await asyncio.gather(*calls)]
        assert isinstance(outcomes[2], Ended)
        receipts = [await receipt_of(store, change.id) for change in changes]
        assert [receipt.status for receipt in receipts] == ["deferred"] * 3
        assert {receipt.run_id for receipt in receipts} == {None}
        for one, receipt in zip((outcomes[0], outcomes[1], outcomes[3]), receipts, strict=True):
            assert isinstance(one, Injected)
            if one.injection.status == "accepted":
                assert (receipt.first_run_id, receipt.session_key) == (accepted.run.id, key)
    last = await accepted_by(store, accept("last", "s"))
    said = [text for text in await _texts(store, last) if "." in text]
    assert sorted(said) == sorted({f"{number}.{n}" for number in range(count) for n in range(3)})


async def test_deleting_a_session_removes_its_injections(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    mine = [await injected_by(store, inject("accepted"))]
    await _delivered(store, accepted, 1)
    mine.append(await injected_by(store, inject("waits")))
    other = await injected_by(store, inject("for any", agent_name="other", names_agent=True))
    await store.journal.commit((DeleteSession(accepted.run.session_key),))
    assert [await store.injections.find(ANN, one.id) for one in mine] == [None, None]
    assert await receipt_of(store, other.id) == other
    assert (await accepted_by(store, accept("q", "s"))).first is None


# steering


async def test_a_busy_session_that_is_steered_injects_into_the_run_under_way(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s"))
    change = accept([user("q"), assistant("…"), user("rather this")], "s", when_busy="steer")
    (outcome,) = await store.journal.commit((change,))
    injection_id = f"inj_{change.run.id.removeprefix('run_')}"
    assert outcome == Steered(accepted.run.id, injection_id, "worker-1")
    assert await store.runs.find(ANN, change.run.id) is None
    told = await _delivered(store, accepted, 1)
    assert told.messages == (InjectedMessage("rather this", injection_id),)
    assert await spoken(store, "s") == ["q"]


async def test_a_session_whose_turns_all_wait_is_not_steered(store: Store) -> None:
    first = await accepted_by(store, accept("q", "s"))
    queued = await accepted_by(store, accept("q2", "s"))
    await store.journal.commit((end(first),), fence(first))
    change = accept("q3", "s", when_busy="steer")
    accepted = await accepted_by(store, change)
    assert (accepted.run.status, accepted.run.turn) == ("queued", 3)
    assert (await run_of(store, queued.run.id)).status == "queued"


async def test_a_free_session_that_would_be_steered_takes_a_turn(store: Store) -> None:
    accepted = await accepted_by(store, accept("q", "s", when_busy="steer"))
    assert accepted.run.status == "running"


# reading


async def test_a_receipt_is_its_owners_own(store: Store) -> None:
    told = await injected_by(store, inject("x"))
    assert await store.injections.find(BOB, told.id) is None
    assert await store.injections.find(ANN, f"inj_{new_id()}") is None
    assert await receipt_of(store, told.id) == told
