"""Commands in the journal: accepted with the session's log, taken by urgency, ended once, freed in order."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from innkeeper.core.changes import DeleteSession, KeepWorker, RetireWorkers
from innkeeper.core.claims import Claim
from innkeeper.core.commands import Command, CommandError, CommandStatus, Hold, Priority
from innkeeper.core.control_changes import (
    AcceptCommands,
    AcceptedCommands,
    CancelCommand,
    CancellingCommand,
    EndCommand,
    EndedCommand,
    Published,
    PublishEvent,
    ReleaseCommand,
    TakeCommands,
    TakeDeadCommands,
    TakenCommands,
)
from innkeeper.core.errors import IdempotencyMismatch
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Done, Missing, Repeated, Stale
from innkeeper.core.session_events import EventFilter, Note
from innkeeper.core.sessions import Session
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.turns import ANN, BOB, WORKER, Store, kept_session, new_id, now


def _command(session: Session, command_type: str = "Greet", **told: Any) -> Command:
    known = Command(
        f"cmd_{new_id()}", session.owner, session.user_id, session.key, session.id, command_type, now(), {"a": 1}
    )
    return replace(known, **told)


def _begun(session: Session, **told: Any) -> Command:
    return _command(session, status=CommandStatus.EXECUTING, attempt=1, started_at=now(), **told)


async def _accept(store: Store, session: Session, *commands: Command, claim: Claim | None = None) -> object:
    (outcome,) = await store.journal.commit((AcceptCommands(session.key, commands, WORKER, now(), claim),))
    return outcome


async def _taken(store: Store, limit: int = 10, worker: str = WORKER) -> list[tuple[Command, Hold]]:
    (outcome,) = await store.journal.commit((TakeCommands(worker, now(), limit),))
    assert isinstance(outcome, TakenCommands)
    return list(outcome.commands)


async def _end(store: Store, session: Session, hold: Hold, **told: object) -> object:
    change = EndCommand(hold, session.key, CommandStatus.COMPLETED, now(), {"said": "x"})
    (outcome,) = await store.journal.commit((replace(change, **told),))  # type: ignore[arg-type]
    return outcome


async def _find(store: Store, session: Session, command: Command, caller: Caller = ANN) -> Command:
    found = await store.commands.find(caller, session.key, command.id)
    assert found is not None
    return found


async def _log(store: Store, session: Session) -> list[tuple[str, object]]:
    page, _ = await store.events.page(session, EventFilter(), limit=100)
    return [(event.event_type, event.data.get("command_id")) for event in page]


async def test_a_command_is_stored_with_what_the_log_tells_of_it_and_ended_once(store: Store) -> None:
    session = await kept_session(store)
    command = _begun(session, metadata={"x": "é"}, own_trace_id="t1", parent_span="p1")
    assert await _accept(store, session, command) == AcceptedCommands((command,))
    assert await _find(store, session, command) == command
    hold, at = Hold(command.id, WORKER, 1), now()
    ended = EndCommand(hold, session.key, CommandStatus.FAILED, at, None, CommandError("C", "why", {"limit": "memory"}))
    for _ in range(2):  # the answer may be lost, and the call made again
        assert isinstance((await store.journal.commit((ended,)))[0], EndedCommand)
    assert await _end(store, session, hold) == Stale()
    found = await _find(store, session, command)
    assert (found.status, found.error, found.ended_at) == (CommandStatus.FAILED, ended.error, at)
    assert await _log(store, session) == [("command_accepted", command.id), ("command_ended", command.id)]


async def test_what_a_handler_returned_is_kept_as_it_is(store: Store) -> None:
    session = await kept_session(store)
    results: tuple[object, ...] = (None, 0, "", "\0x", [], {"a": [1, None]}, False)
    for result in results:
        command = _begun(session)
        await _accept(store, session, command)
        await _end(store, session, Hold(command.id, WORKER, 1), result=result)
        kept = (await _find(store, session, command)).result
        assert kept == ("\ufffdx" if result == "\0x" and kept != result else result)


async def test_urgent_commands_are_taken_first_then_those_that_came_first(store: Store) -> None:
    session = await kept_session(store)
    low, first, second, high = (
        _command(session, priority=priority)
        for priority in (Priority.LOW, Priority.NORMAL, Priority.NORMAL, Priority.HIGH)
    )
    await _accept(store, session, low, first, second, high)
    assert await store.commands.has_queued()
    taken = [command.id for command, _ in await _taken(store, 3)] + [command.id for command, _ in await _taken(store)]
    assert taken == [high.id, first.id, second.id, low.id]
    assert not await store.commands.has_queued()
    assert (await _find(store, session, low)).attempt == 1


async def test_many_workers_take_each_command_once(store: Store) -> None:
    session = await kept_session(store)
    commands = [_command(session) for _ in range(40)]
    await _accept(store, session, *commands)
    taken: list[tuple[Command, Hold]] = []
    while len(taken) < 40:
        for some in await asyncio.gather(*(_taken(store, 3, f"w{index}") for index in range(8))):
            taken += some
    assert sorted(command.id for command, _ in taken) == sorted(command.id for command in commands)


async def test_a_sequence_begins_one_after_another(store: Store) -> None:
    session = await kept_session(store)
    first = _command(session)
    second = _command(session, waits_for=first.id)
    third = _command(session, waits_for=second.id)
    await _accept(store, session, first, second, third)
    for command in (first, second, third):
        ((taken, hold),) = await _taken(store)
        assert taken.id == command.id
        assert await _end(store, session, hold) == EndedCommand(freed=command is not third)


async def test_of_one_priority_lower_turns_are_taken_first(store: Store) -> None:
    session = await kept_session(store)
    late, early, urgent, idle = (
        _command(session, turn=turn, priority=priority)
        for turn, priority in ((2, Priority.NORMAL), (1, Priority.NORMAL), (9_999, Priority.HIGH), (0, Priority.LOW))
    )
    await _accept(store, session, late, early, urgent, idle)
    assert await _find(store, session, urgent) == urgent
    assert [command.id for command, _ in await _taken(store)] == [urgent.id, early.id, late.id, idle.id]


async def test_who_waits_for_a_command_that_is_cancelled_waits_for_the_one_before_it(store: Store) -> None:
    session = await kept_session(store)
    first = _begun(session)
    second = _command(session, waits_for=first.id)
    third = _command(session, waits_for=second.id)
    await _accept(store, session, first, second, third)
    (outcome,) = await store.journal.commit((CancelCommand(second.id, session.owner, now()),))
    assert isinstance(outcome, CancellingCommand)
    assert (outcome.command.status, outcome.freed) == (CommandStatus.CANCELLED, False)
    assert await _taken(store) == []
    assert await _end(store, session, Hold(first.id, WORKER, 1)) == EndedCommand(freed=True)
    assert [command.id for command, _ in await _taken(store)] == [third.id]


async def test_a_waiting_command_is_cancelled_at_once_and_one_under_way_is_asked_to_end(store: Store) -> None:
    session = await kept_session(store)
    waiting, running = _command(session), _begun(session)
    follower = _command(session, waits_for=waiting.id)
    await _accept(store, session, waiting, running, follower)
    (outcome,) = await store.journal.commit((CancelCommand(waiting.id, session.owner, now()),))
    assert isinstance(outcome, CancellingCommand)
    assert (outcome.command.status, outcome.freed) == (CommandStatus.CANCELLED, True)
    assert [command.id for command, _ in await _taken(store)] == [follower.id]
    (outcome,) = await store.journal.commit((CancelCommand(running.id, session.owner, now()),))
    assert isinstance(outcome, CancellingCommand)
    assert (outcome.command.status, outcome.worker) == (CommandStatus.EXECUTING, WORKER)
    assert await store.commands.cancelled(WORKER) == [running.id]
    (outcome,) = await store.journal.commit((CancelCommand(waiting.id, session.owner, now()),))
    assert isinstance(outcome, CancellingCommand)
    assert outcome.command.status is CommandStatus.CANCELLED


async def test_nobody_else_sees_or_cancels_a_command(store: Store) -> None:
    session = await kept_session(store)
    command = _begun(session)
    await _accept(store, session, command)
    assert await store.commands.find(BOB, session.key, command.id) is None
    other = await kept_session(store, caller=BOB)
    assert await store.commands.find(ANN, other.key, command.id) is None
    assert (await store.journal.commit((CancelCommand(command.id, BOB.owner, now()),)))[0] == Missing()
    assert not (await _find(store, session, command)).is_cancelling


async def test_the_same_request_again_is_told_which_commands_it_had_made(store: Store) -> None:
    session = await kept_session(store)
    commands, claim = [_command(session), _command(session)], Claim("k", "f")
    await _accept(store, session, *commands, claim=claim)
    again = await _accept(store, session, _command(session), claim=claim)
    assert isinstance(again, Repeated)
    assert again.claimed.answer == " ".join(command.id for command in commands).encode()
    with pytest.raises(IdempotencyMismatch):
        await _accept(store, session, _command(session), claim=Claim("k", "another"))
    assert dict(await store.commands.count_open())["queued"] == 2


async def test_what_the_dead_executed_is_held_by_who_takes_over(store: Store) -> None:
    await store.journal.commit((KeepWorker("alive", "p"),))
    session = await kept_session(store)
    dead, alive = _begun(session), _command(session)
    await _accept(store, session, dead)
    await _accept(store, session, alive)
    await _taken(store, worker="alive")
    (outcome,) = await store.journal.commit((TakeDeadCommands("heir"),))
    assert isinstance(outcome, TakenCommands)
    held = {command.id: hold for command, hold in outcome.commands}
    if store.is_shared:
        assert held.keys() == {dead.id}
    assert await _end(store, session, Hold(dead.id, WORKER, 1)) == Stale()
    (released,) = await store.journal.commit((ReleaseCommand(held[dead.id]),))
    assert released == Done()
    assert (await _find(store, session, dead)).status is CommandStatus.QUEUED
    await store.journal.commit((RetireWorkers(("alive",)),))


async def test_reactions_are_stored_with_their_event_and_are_nobodys_commands(store: Store) -> None:
    session = await kept_session(store)
    reaction = _command(session, "Told", kind="reaction", handler="h")
    begun = _begun(session, command_type="Told", kind="reaction", handler="g")
    change = PublishEvent(session.key, Note("Told", now(), {"x": 1}, "client"), (reaction, begun), WORKER)
    (outcome,) = await store.journal.commit((change,))
    assert isinstance(outcome, Published)
    ((at_once, hold),) = outcome.reactions
    assert (at_once.id, hold) == (begun.id, Hold(begun.id, WORKER, 1))
    ((taken, _),) = await _taken(store)
    assert (taken.handler, taken.parameters["data"], taken.parameters["sequence"]) == ("h", {"x": 1}, 1)
    assert await store.commands.find(ANN, session.key, reaction.id) is None
    assert (await store.journal.commit((CancelCommand(reaction.id, session.owner, now()),)))[0] == Missing()
    assert await _end(store, session, hold) == EndedCommand()
    assert [kind for kind, _ in await _log(store, session)] == ["Told"]


async def test_what_a_handler_heard_is_not_kept_beside_the_log(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "innkeeper.db")
    await store.open()
    session = await kept_session(store)
    begun = _begun(session, command_type="Told", kind="reaction", handler="g")
    await store.journal.commit((PublishEvent(session.key, Note("Told", now(), {"x": 1}), (begun,), WORKER),))
    assert await _end(store, session, Hold(begun.id, WORKER, 1)) == EndedCommand()
    with closing(sqlite3.connect(store.database)) as file:
        assert file.execute("SELECT parameters FROM commands").fetchall() == [("{}",)]
    await store.close()


async def test_with_its_session_a_command_is_gone(store: Store) -> None:
    session = await kept_session(store)
    command = _begun(session)
    await _accept(store, session, command, _command(session))
    await store.journal.commit((DeleteSession(session.key),))
    assert await store.commands.find(Caller(session.owner), session.key, command.id) is None
    assert await _end(store, session, Hold(command.id, WORKER, 1)) == Stale()
    assert await _accept(store, session, _command(session)) == Missing()


async def test_half_characters_are_replaced_and_hide_nothing_that_is_stored_beside_them(store: Store) -> None:
    """JSON has an escape for half of a surrogate pair, which no strict reader takes."""
    session, half, whole = await kept_session(store), {"a": "x\ud800😀"}, {"a": "x\ufffd😀"}
    command = _command(session, parameters=half, metadata=half)
    await _accept(store, session, command)
    ((taken, hold),) = await _taken(store)
    assert (taken.parameters, taken.metadata) == (whole, whole)
    failure = CommandError("C", "why", half)
    await _end(store, session, hold, result=half, error=failure, notes=(Note("Told", now(), half, metadata=half),))
    ended = await _find(store, session, command)
    assert (ended.result, ended.error) == (whole, CommandError("C", "why", whole))
    page, _ = await store.events.page(session, EventFilter("Told"), limit=1)
    assert (page[0].data, page[0].metadata) == (whole, whole)
