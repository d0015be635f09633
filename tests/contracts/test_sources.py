"""Clients' tools and handlers, and what their code puts aside, in every store."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from innkeeper.core.changes import Change, DeleteSession
from innkeeper.core.control_changes import AddHandler, AddTool, RemoveHandlers, RemoveTool, SetState
from innkeeper.core.errors import HandlerConflict, InnkeeperError, TooBusy, ToolConflict
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.sessions import Session
from innkeeper.core.sources import (
    MAX_HANDLERS,
    MAX_STATE_NAMES,
    MAX_TOOLS,
    HandlerDeclaration,
    HandlerKind,
    SourceHandler,
    SourceTool,
    ToolDeclaration,
)
from innkeeper.storage.programs.proofs import proof
from tests.support.turns import ANN, Store, create, new_id, now, session_called

ODD = "naïve 🦊\r\n'\"\\ %s :name {} --"


async def a_session(store: Store, session_id: str = "s") -> Session:
    await store.journal.commit((create(session_id, ANN),))
    return await session_called(store, session_id, ANN)


def a_tool(session: Session, name: str = "double", source: str = "def double(n): return n * 2") -> SourceTool:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return SourceTool(session.key, name, "Doubles.", schema, now(), "double", source)


def a_handler(session: Session, type: str = "Greet", kind: HandlerKind = "command") -> SourceHandler:
    return SourceHandler(f"hdl_{new_id()}", session.key, kind, type, now(), "handle", "def handle(e): return 1")


def shown_tool(tool: SourceTool) -> ToolDeclaration:
    return ToolDeclaration(tool.session_key, tool.name, tool.description, tool.parameters, tool.created_at)


def shown(handler: SourceHandler) -> HandlerDeclaration:
    return HandlerDeclaration(handler.id, handler.session_key, handler.kind, handler.type, handler.created_at)


async def commit(store: Store, *changes: Change) -> list[object]:
    return list(await store.journal.commit(changes))


async def outcome(store: Store, change: Change) -> object:
    """What comes of a change, its error included."""
    try:
        return (await store.journal.commit((change,)))[0]
    except InnkeeperError as error:
        return type(error)


def state(session: Session, name: str, value: object) -> SetState:
    return SetState(session.key, name, value, now())


# tools


async def test_a_tool_is_found_as_it_was_registered(store: Store) -> None:
    session = await a_session(store)
    tool = replace(
        a_tool(session, source=f"# {ODD}\ndef double(n): ..."),
        description=ODD,
        parameters={"type": "object", "properties": {"ä": {"enum": [None, 1.5, ODD, {"a": []}]}}},
    )
    assert await commit(store, AddTool(tool)) == [Done()]
    assert await store.sources.tool(session.key, "double") == tool
    assert await store.sources.tools(session.key) == [shown_tool(tool)]


async def test_a_tool_without_parameters_is_found_without(store: Store) -> None:
    session = await a_session(store)
    await commit(store, AddTool(replace(a_tool(session), parameters={}, description="")))
    found = await store.sources.tool(session.key, "double")
    assert found is not None and (found.parameters, found.description) == ({}, "")


async def test_what_no_store_can_hold_is_replaced(store: Store) -> None:
    session = await a_session(store)
    tool = replace(a_tool(session), description="a\0b\ud83d", source="a\0b\ud83d", parameters={"a": "\0\ud83d"})
    assert await commit(store, AddTool(tool)) == [Done()]
    found = await store.sources.tool(session.key, "double")
    assert found is not None
    assert (found.description, found.source) == ("a\ufffdb\ufffd",) * 2
    assert found.parameters["a"] in ("\0\ufffd", "\ufffd\ufffd")
    assert await store.sources.tools(session.key) == [shown_tool(found)]


async def test_tools_are_listed_by_name_and_are_their_sessions_own(store: Store) -> None:
    session, other = await a_session(store), await a_session(store, "t")
    for name in ("c", "a", "b"):
        await commit(store, AddTool(a_tool(session, name)))
    await commit(store, AddTool(a_tool(other, "a")))
    assert [tool.name for tool in await store.sources.tools(session.key)] == ["a", "b", "c"]
    assert [tool.name for tool in await store.sources.tools(other.key)] == ["a"]
    assert await store.sources.tool(other.key, "b") is None


async def test_a_second_tool_of_a_name_is_refused_and_leaves_the_first(store: Store) -> None:
    session = await a_session(store)
    first = a_tool(session)
    await commit(store, AddTool(first))
    with pytest.raises(ToolConflict, match="double"):
        await commit(store, AddTool(a_tool(session, source="def double(n): return 0")))
    assert await store.sources.tool(session.key, "double") == first


async def test_of_many_that_register_a_name_at_once_one_does(store: Store) -> None:
    session = await a_session(store)
    tools = [a_tool(session, source=f"def double(n): return {number}") for number in range(8)]
    outcomes = await asyncio.gather(*(outcome(store, AddTool(tool)) for tool in tools))
    assert sorted(map(str, outcomes)) == sorted(map(str, [Done(), *[ToolConflict] * 7]))
    assert await store.sources.tool(session.key, "double") == tools[outcomes.index(Done())]


async def test_a_tool_that_was_removed_may_be_registered_again(store: Store) -> None:
    session = await a_session(store)
    await commit(store, AddTool(a_tool(session)))
    assert await commit(store, RemoveTool(session.key, "double")) == [Done()]
    assert await commit(store, RemoveTool(session.key, "double")) == [Missing()]
    assert await store.sources.tools(session.key) == []
    assert await commit(store, AddTool(a_tool(session))) == [Done()]


async def test_a_session_has_so_many_tools_and_no_more(store: Store) -> None:
    session = await a_session(store)
    await commit(store, *(AddTool(a_tool(session, f"tool_{number}")) for number in range(MAX_TOOLS)))
    with pytest.raises(TooBusy, match=f"{MAX_TOOLS} tools"):
        await commit(store, AddTool(a_tool(session, "one_more")))
    await commit(store, RemoveTool(session.key, "tool_1"))
    assert await commit(store, AddTool(a_tool(session, "one_more"))) == [Done()]


@pytest.mark.parametrize("name", ["", "a\0b", "\ud83d", "🦊", "x" * 10_000, "%", "'"])
async def test_any_name_may_be_asked_for(store: Store, name: str) -> None:
    session = await a_session(store)
    assert await store.sources.tool(session.key, name) is None
    assert await store.sources.handlers(session.key, "event", name) == []
    assert await store.sources.handler(session.key, "event", name, name) is None
    assert await store.sources.state(session.key, name) is None
    assert await commit(store, RemoveTool(session.key, name)) == [Missing()]
    assert await commit(store, RemoveHandlers(session.key, "event", name)) == [Missing()]


# handlers


async def test_a_handler_is_found_as_it_was_registered(store: Store) -> None:
    session = await a_session(store)
    handler = replace(a_handler(session), source=f"# {ODD}\ndef handle(e): ...")
    assert await commit(store, AddHandler(handler)) == [Done()]
    assert await store.sources.handler(session.key, "command", "Greet", handler.id) == handler
    assert await store.sources.handlers(session.key, "command", "Greet") == [shown(handler)]
    assert await store.sources.handler(session.key, "event", "Greet", handler.id) is None
    assert await store.sources.handler(session.key, "command", "Greet", "hdl_other") is None


async def test_a_second_handler_for_a_type_of_command_is_refused(store: Store) -> None:
    session, other = await a_session(store), await a_session(store, "t")
    await commit(store, AddHandler(a_handler(session)))
    with pytest.raises(HandlerConflict, match="Greet"):
        await commit(store, AddHandler(a_handler(session)))
    assert await commit(store, AddHandler(a_handler(other)), AddHandler(a_handler(session, "Other"))) == [Done()] * 2
    assert len(await store.sources.handlers(session.key, "command")) == 2


async def test_of_many_that_register_a_command_handler_at_once_one_does(store: Store) -> None:
    session = await a_session(store)
    outcomes = await asyncio.gather(*(outcome(store, AddHandler(a_handler(session))) for _ in range(8)))
    assert (outcomes.count(Done()), outcomes.count(HandlerConflict)) == (1, 7)


async def test_handlers_of_events_are_many_and_keep_their_order(store: Store) -> None:
    session = await a_session(store)
    handlers = [a_handler(session, type, "event") for type in ("b", "a", "b", "b")]
    for handler in handlers:
        await commit(store, AddHandler(handler))
    first, second, third, fourth = map(shown, handlers)
    assert await store.sources.handlers(session.key, "event", "b") == [first, third, fourth]
    assert await store.sources.handlers(session.key, "event") == [second, first, third, fourth]
    assert await store.sources.handlers(session.key, "command") == []


async def test_many_handlers_of_events_are_registered_at_once(store: Store) -> None:
    session = await a_session(store)
    changes = [AddHandler(a_handler(session, kind="event")) for _ in range(8)]
    assert await asyncio.gather(*(outcome(store, change) for change in changes)) == [Done()] * 8
    assert len(await store.sources.handlers(session.key, "event", "Greet")) == 8


async def test_the_handlers_of_a_type_are_removed_together(store: Store) -> None:
    session = await a_session(store)
    kept = a_handler(session, "b", "event")
    for handler in (a_handler(session, "a", "event"), a_handler(session, "a", "event"), kept):
        await commit(store, AddHandler(handler))
    await commit(store, AddHandler(a_handler(session, "a")))
    assert await commit(store, RemoveHandlers(session.key, "event", "a")) == [Done()]
    assert await store.sources.handlers(session.key, "event") == [shown(kept)]
    assert len(await store.sources.handlers(session.key, "command", "a")) == 1
    assert await commit(store, RemoveHandlers(session.key, "event", "a")) == [Missing()]


async def test_a_session_has_so_many_handlers_and_no_more(store: Store) -> None:
    session = await a_session(store)
    kinds: tuple[HandlerKind, ...] = ("command", "event")
    handlers = [a_handler(session, f"Type{number}", kinds[number % 2]) for number in range(MAX_HANDLERS)]
    await commit(store, *map(AddHandler, handlers))
    for kind in kinds:
        with pytest.raises(TooBusy, match=f"{MAX_HANDLERS} handlers"):
            await commit(store, AddHandler(a_handler(session, "OneMore", kind)))


# state


@pytest.mark.parametrize(
    "value",
    [0, False, "", [], {}, 1.5, -(2**53), [None, {"a": [ODD]}], "x" * 60_000, {"": {"ä": None}}],
    ids=lambda value: repr(value)[:20],
)
async def test_a_value_is_found_as_it_was_put_aside(store: Store, value: object) -> None:
    session = await a_session(store)
    assert await commit(store, state(session, ODD, value)) == [Done()]
    found = await store.sources.state(session.key, ODD)
    assert found == value and type(found) is type(value)


async def test_a_value_that_no_store_can_hold_is_read_all_the_same(store: Store) -> None:
    session = await a_session(store)
    await commit(store, state(session, "a\0\ud83d", ["\0", "\ud83d", float("nan")]))
    found = await store.sources.state(session.key, "a\0\ud83d")
    assert isinstance(found, list) and found[1:] == ["\ufffd", None] and found[0] in ("\0", "\ufffd")


async def test_a_value_is_replaced_and_forgotten(store: Store) -> None:
    session, other = await a_session(store), await a_session(store, "t")
    await commit(store, state(session, "a", 1), state(session, "b", 1), state(other, "a", 3))
    await commit(store, state(session, "a", 2), state(session, "b", None), state(session, "never", None))
    found = [await store.sources.state(*at) for at in ((session.key, "a"), (session.key, "b"), (other.key, "a"))]
    assert found == [2, None, 3]


async def test_a_session_keeps_so_many_values_and_no_more(store: Store) -> None:
    session = await a_session(store)
    await commit(store, *(state(session, f"name {number}", number) for number in range(MAX_STATE_NAMES)))
    with pytest.raises(TooBusy, match=f"{MAX_STATE_NAMES} values"):
        await commit(store, state(session, "one more", 1))
    assert await commit(store, state(session, "name 1", "changed")) == [Done()]
    await commit(store, state(session, "name 2", None))
    assert await commit(store, state(session, "one more", 1)) == [Done()]


async def test_many_who_put_a_value_aside_at_once_leave_one_of_theirs(store: Store) -> None:
    session = await a_session(store)
    outcomes = await asyncio.gather(*(outcome(store, state(session, "a", number)) for number in range(8)))
    assert outcomes == [Done()] * 8
    assert await store.sources.state(session.key, "a") in range(8)


# with their session


async def test_all_of_it_goes_with_its_session(store: Store) -> None:
    session, other = await a_session(store), await a_session(store, "t")
    for one in (session, other):
        changes: list[Change] = [AddTool(a_tool(one)), AddHandler(a_handler(one))]
        changes.append(AddHandler(a_handler(one, kind="event")))
        await commit(store, *changes, state(one, "a", 1))
    await commit(store, DeleteSession(session.key))
    assert [await store.sources.tools(one.key) == [] for one in (session, other)] == [True, False]
    for kind in ("command", "event"):
        assert await store.sources.handlers(session.key, kind) == []
        assert await store.sources.handlers(other.key, kind) != []
    assert [await store.sources.state(one.key, "a") for one in (session, other)] == [None, 1]


async def test_nothing_is_made_in_a_session_that_is_gone(store: Store) -> None:
    session = await a_session(store)
    await commit(store, DeleteSession(session.key))
    changes = (AddTool(a_tool(session)), AddHandler(a_handler(session)), state(session, "a", 1))
    for change in changes:
        assert await commit(store, change) == [Missing()]
    assert await store.sources.tools(session.key) == []
    assert await store.sources.state(session.key, "a") is None


async def test_the_proof_of_a_registration_is_its_own_row(store: Store) -> None:
    session = await a_session(store)
    tool, handler = a_tool(session), a_handler(session)
    for change, key in ((AddTool(tool), "by_created_at"), (AddHandler(handler), "by_id")):
        query = proof((change,), (Done(),))
        assert query is not None and query.values[key] in (tool.created_at, handler.id)
        assert proof((change,), (Missing(),)) is None
    assert proof((state(session, "a", 1),), (Done(),)) is None
    assert proof((RemoveTool(session.key, "double"),), (Done(),)) is None
