"""What may be read of a trace, over every store: its parts, for their owner alone, and nothing that was said."""

from __future__ import annotations

from dataclasses import replace

from innkeeper.core.commands import Command
from innkeeper.core.control_changes import AcceptCommands
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.runs import Run
from innkeeper.core.sessions import Session
from tests.support.turns import ANN, BOB, WORKER, Store, accept, accepted_by, kept_session, new_id, now, take_turn

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def _run(store: Store, trace_id: str | None, caller: Caller = ANN) -> Run:
    change = accept("Hi", caller=caller)
    run = replace(change.run, own_trace_id=trace_id, parent_span="00f067aa0ba902b7", metadata={"said": "much"})
    return (await accepted_by(store, replace(change, run=run))).run


async def _commands(store: Store, session: Session, *trace_ids: str | None) -> list[Command]:
    made = [
        Command(
            id=f"cmd_{new_id()}",
            owner=session.owner,
            user_id=session.user_id,
            session_key=session.key,
            session_id=session.id,
            command_type="Add",
            created_at=now(),
            parameters={"said": "much"},
            own_trace_id=trace_id,
        )
        for trace_id in trace_ids
    ]
    await store.journal.commit((AcceptCommands(session.key, tuple(made), WORKER, made[0].created_at),))
    return made


async def test_runs_of_a_trace_are_found_in_order_without_what_was_said(store: Store) -> None:
    made = [await _run(store, TRACE) for _ in range(3)]
    await _run(store, None)
    silent = [replace(run, input=(), metadata={}) for run in made]
    assert await store.runs.of_trace(ANN, TRACE, 10) == silent
    assert await store.runs.of_trace(ANN, TRACE, 2) == silent[:2]
    await take_turn(store, "A long story", "s")
    assert all(run.input == () and run.output is None for run in await store.runs.of_trace(ANN, TRACE, 10))


async def test_a_run_that_joined_no_trace_is_one_of_its_own(store: Store) -> None:
    own, joined = await _run(store, None), await _run(store, TRACE)
    found = await store.runs.of_trace(ANN, own.id.removeprefix("run_"), 10)
    assert [run.id for run in found] == [own.id]
    assert found[0].input != (Message("user", "Hi"),)
    assert await store.runs.of_trace(ANN, joined.id.removeprefix("run_"), 10) == []


async def test_nobody_finds_the_runs_and_commands_of_others_in_a_trace(store: Store) -> None:
    mine, theirs = await _run(store, TRACE), await _run(store, TRACE, BOB)
    assert [run.id for run in await store.runs.of_trace(ANN, TRACE, 10)] == [mine.id]
    assert [run.id for run in await store.runs.of_trace(BOB, TRACE, 10)] == [theirs.id]
    own = await _run(store, None)
    assert await store.runs.of_trace(BOB, own.id.removeprefix("run_"), 10) == []
    (command,) = await _commands(store, await kept_session(store), TRACE)
    assert await store.commands.of_trace(BOB, TRACE, 10) == []
    assert [one.id for one in await store.commands.of_trace(ANN, TRACE, 10)] == [command.id]


async def test_commands_of_a_trace_are_found_with_the_one_that_began_it(store: Store) -> None:
    session = await kept_session(store)
    (first,) = await _commands(store, session, None)
    trace_id = first.id.removeprefix("cmd_")
    others = await _commands(store, session, trace_id, None, trace_id)
    wanted = [replace(one, parameters={}) for one in (first, others[0], others[2])]
    assert await store.commands.of_trace(ANN, trace_id, 10) == wanted
    assert await store.commands.of_trace(ANN, trace_id, 2) == wanted[:2]
