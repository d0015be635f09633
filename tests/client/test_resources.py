"""Resources: everything that a client can do, against a real server, by blocking and by awaiting."""

from __future__ import annotations

import asyncio

import pytest

from innkeeper.client import AsyncChatServerClient, ChatServerClient, exceptions
from tests.client.conftest import MODEL
from tests.support.inns import Inn


def test_models_tell_their_provider_and_what_they_can_do(client: ChatServerClient) -> None:
    first = client.list_models().data[0]
    assert (first.id, first.object, first.owned_by) == (MODEL, "model", "innkeeper")
    assert first.provider
    assert "chat" in first.capabilities


def test_runs_are_listed_read_followed_and_waited_for(client: ChatServerClient) -> None:
    queued = client.chat("Hi", "echo", background=True, session_id="background")
    assert queued.status == "queued"
    run = client.runs.wait(queued.run_id, timeout=30)
    assert (run.status, run.output, run.has_ended) == ("completed", "You said: Hi ", True)
    assert [listed.id for listed in client.runs.list(session_id="background").runs] == [run.id]
    events = list(client.runs.events(run.id))
    assert events == list(client.runs.events(run.id, after=0))
    assert list(client.runs.events(run.id, after=2)) == events[2:]
    assert client.runs.actions().actions == []


def test_a_run_is_steered_and_cancelled(inn: Inn, client: ChatServerClient) -> None:
    performance = inn.conduct("steer me")
    performance.say("One ")
    with client.stream("steer me", "conducted", session_id="steered") as stream:
        assert [next(stream).type, next(stream).text] == ["run", "One "]
        receipt = client.inject("Look out!", run_id=stream.run_id)
        performance.look()
        told = next(event for event in stream if event.type == "message_injected")
        assert told.data["injection_id"] == receipt.injection_id
        assert client.get_injection(receipt.injection_id).status == "delivered"
        client.runs.cancel(stream.run_id or "")
        assert [event.type for event in stream][-1] == "done"
    assert performance.cancelled.wait(10)


def test_a_run_that_does_not_end_is_waited_for_as_long_as_one_likes(inn: Inn, client: ChatServerClient) -> None:
    performance = inn.conduct("wait for me")
    with client.stream("wait for me", "conducted") as stream:
        next(stream)
        assert client.runs.wait(stream.run_id or "", timeout=0.05).status == "running"
        performance.end()


def test_sessions_are_made_changed_read_and_removed(client: ChatServerClient) -> None:
    made = client.sessions.create("letters", title="Letters", metadata={"a": 1})
    client.sessions.append(made.id, ["Dear server", {"role": "assistant", "content": "Dear user"}])
    assert [said.content for said in client.sessions.get(made.id).messages] == ["Dear server", "Dear user"]
    assert [said.position for said in client.sessions.messages(made.id, after=1).messages] == [2]
    assert client.sessions.update(made.id, archived=True).title == "Letters"
    assert client.sessions.update(made.id, title=None).title is None
    assert made.id in [session.id for session in client.sessions.list(archived=True).sessions]
    client.sessions.delete(made.id)
    with pytest.raises(exceptions.NotFoundError) as caught:
        client.sessions.get(made.id)
    assert caught.value.code == "SESSION_NOT_FOUND"


def test_commands_are_sent_waited_for_and_cancelled(client: ChatServerClient) -> None:
    session = client.sessions.create().id
    command = client.commands.send(session, "DummyEngineCommand", {"prompt": "Hi"}, wait=10)
    assert (command.status, command.result) == ("completed", "Dummy response to: Hi")
    wanted = [{"command_type": "DummyEngineCommand", "parameters": {"prompt": str(number)}} for number in range(3)]
    batch = client.commands.batch(session, wanted).commands
    ended = [client.commands.wait(session, one.command_id, timeout=10) for one in batch]
    assert [one.result for one in ended] == [f"Dummy response to: {number}" for number in range(3)]
    assert client.commands.cancel(session, command.command_id).status == "completed"
    assert client.commands.get(session, command.command_id) == command


def test_a_sessions_events_are_followed(client: ChatServerClient) -> None:
    session = client.sessions.create().id
    first = client.publish_event(session, "noted", {"what": "a bird"})
    with client.events(session, poll_interval=0.01) as events:
        assert next(events) == first
        second = client.publish_event(session, "noted", {"what": "a cat"})
        assert next(events) == second
    assert client.list_events(session, "noted", after=first.sequence).events == [second]


async def test_a_sessions_events_are_followed_by_awaiting(async_client: AsyncChatServerClient) -> None:
    session = (await async_client.sessions.create()).id
    events = async_client.events(session, poll_interval=0.01)
    coming = asyncio.ensure_future(anext(events))
    published = await async_client.publish_event(session, "noted", {"what": "a bird"})
    assert await coming == published
    await async_client.sessions.delete(session)
    with pytest.raises(exceptions.NotFoundError):
        await anext(events)


def test_tokens_are_made_used_and_revoked(inn: Inn, admin: ChatServerClient) -> None:
    made = admin.tokens.create("ann", role="read", ttl=3600, name="for a test")
    assert made.token is not None
    assert made.token not in repr(made)
    assert admin.tokens.get(made.id).token is None
    assert [token.id for token in admin.tokens.list("ann").tokens] == [made.id]
    with ChatServerClient(made.token, inn.url) as ann:
        assert ann.list_models().data
        with pytest.raises(exceptions.ForbiddenError):
            ann.chat("Hi")
    admin.tokens.revoke(made.id)
    assert admin.tokens.get(made.id).revoked_at is not None


def test_administrators_come_and_go(admin: ChatServerClient) -> None:
    for email in ("ann@example.org", "bob@example.org"):
        assert admin.add_admin("user_" + email[:3], email).status == "added"
    assert admin.list_admins()["count"] == 2
    removed = admin.remove_admin("ann@example.org")
    assert (removed.status, removed.email) == ("removed", "ann@example.org")
    newest = admin.get_audit_log(limit=1)
    assert (newest.entries[0].action, newest.limit) == ("admin.remove", 1)
    assert admin.get_platform_stats().system_health == "healthy"


def test_what_is_logged_is_read_and_summed(client: ChatServerClient) -> None:
    client.chat("Hi", "echo", session_id="logged")
    record = client.logs.add("warning", "The bird has flown.", metadata={"bird": "robin"})
    assert record in client.logs.records(level="warning", text="BIRD HAS").logs
    while not (rows := client.logs.of_session("logged").logs):  # they are written behind the run
        pass
    assert client.logs.list(session_id="logged").logs == rows
    assert client.logs.statistics(session_id="logged").statistics.total_interactions == 1
    assert client.logs.user_statistics().user_statistics[0].user_id == "local"


def test_the_address_and_the_key_come_from_the_environment(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatServerClient() as client:
        assert client.base_url == "http://localhost:3284"
    monkeypatch.setenv("INNKEEPER_URL", f"{inn.url}/")
    monkeypatch.setenv("INNKEEPER_API_KEY", "from-the-environment")
    with ChatServerClient() as client:
        assert client.base_url == inn.url
        assert client.list_models().object == "list"


async def test_awaiting_does_what_blocking_does(inn: Inn, async_client: AsyncChatServerClient) -> None:
    stream = await async_client.stream("Hi", "echo")
    events = [event async for event in stream]
    assert "".join(event.text for event in events) == "You said: Hi "
    assert (await async_client.runs.wait(stream.run_id or "")).status == "completed"
    assert [event async for event in async_client.runs.events(stream.run_id or "")] == events
    assert (await async_client.list_sessions("local")).page == 1
    answers = await asyncio.gather(*[async_client.chat(str(number), "echo") for number in range(5)])
    assert [answer.output for answer in answers] == [f"You said: {number} " for number in range(5)]
