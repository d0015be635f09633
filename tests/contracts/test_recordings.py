"""What recordings are made of, over every store."""

from __future__ import annotations

import json

from innkeeper.core.changes import DeleteRun
from innkeeper.core.runs import Parameters, Plan
from innkeeper.services.recordings import Recordings
from tests.support.turns import ROOT, Store, accept, accepted_by, end, fence, take_turn


async def test_the_wishes_of_a_run_are_kept_until_it_is_deleted(store: Store) -> None:
    wishes = Plan(Parameters(temperature=0.5, stop=("END",)))
    behind = await accepted_by(store, accept("later", background=True, plan=wishes))
    assert await store.runs.plan(behind.run.id) == wishes
    in_front = await accepted_by(store, accept("now", plan=wishes))
    assert await store.runs.plan(in_front.run.id) == wishes
    await store.journal.commit((end(in_front, "Answer"),), fence(in_front))
    assert await store.runs.plan(in_front.run.id) == wishes
    await store.journal.commit((DeleteRun(in_front.run.id, in_front.run.owner),))
    assert await store.runs.plan(in_front.run.id) is None
    without = await accepted_by(store, accept("now"))
    assert await store.runs.plan(without.run.id) is None
    forgotten = await accepted_by(store, accept("forget me", recorded=False, plan=wishes))
    await store.journal.commit((end(forgotten, "Answer"),), fence(forgotten))
    assert await store.runs.plan(forgotten.run.id) is None
    assert await store.runs.plan("run_none") is None


async def test_a_recording_has_the_conversation_before_its_run_and_its_log(store: Store) -> None:
    await take_turn(store, "one", "s", "Answer one")
    accepted = await accepted_by(store, accept("two", "s"))
    await store.journal.commit((end(accepted, "Answer two"),), fence(accepted))
    await take_turn(store, "three", "s", "Answer three")
    made = await Recordings(runs=store.runs, sessions=store.sessions).of(ROOT, accepted.run.id)
    assert [message["content"] for message in made["messages"]] == ["one", "Answer one", "two"]
    assert [message["content"] for message in made["input"]] == ["two"]
    assert (made["output"], made["parameters"]) == ("Answer two", None)
    assert made["events"] == [{"type": "run"}, {"type": "done"}]
    assert json.loads(json.dumps(made)) == made
