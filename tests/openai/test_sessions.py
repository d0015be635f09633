"""Sessions over chat completions: resumed with the new turn alone or with everything, nothing lost or doubled."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx2
import openai
import pytest

from tests.openai.hosts import Host
from tests.support.openai_upstream import Reply, Upstream


def user(content: Any) -> Any:
    return {"role": "user", "content": content}


def assistant(content: str) -> Any:
    return {"role": "assistant", "content": content}


def system(content: str) -> Any:
    return {"role": "system", "content": content}


@pytest.fixture
def session() -> str:
    return f"session-{uuid4().hex[:8]}"


def said(messages: list[Any]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


def stored(http: httpx2.Client, session: str) -> list[tuple[str, Any]]:
    return said(http.get(f"/sessions/{session}").json()["messages"])


def say(client: openai.OpenAI, session: str | None, *messages: Any, **metadata: Any) -> Any:
    named = {} if session is None else {"session_id": session}
    return client.chat.completions.create(model="echo", messages=list(messages), metadata={**named, **metadata})


ONE = [("user", "one"), ("assistant", "You said: one ")]
TWO = [*ONE, ("user", "two"), ("assistant", "You said: two ")]


def test_fingerprint_is_the_session_and_resumes_it(client: openai.OpenAI, http: httpx2.Client, host: Host) -> None:
    first = say(client, None, user("one"))
    fingerprint = first.system_fingerprint
    second = say(client, fingerprint, user("two"))
    assert second.system_fingerprint == fingerprint
    assert stored(http, fingerprint) == TWO
    assert said(host.seen[1]) == TWO[:-1]


def test_chunks_carry_the_fingerprint_too(client: openai.OpenAI, http: httpx2.Client, session: str) -> None:
    asked: Any = {"session_id": session}
    chunks = list(client.chat.completions.create(model="echo", messages=[user("one")], stream=True, metadata=asked))
    assert {chunk.system_fingerprint for chunk in chunks} == {session}
    assert stored(http, session) == ONE


def test_session_id_may_stand_at_the_top_level(client: openai.OpenAI, http: httpx2.Client, session: str) -> None:
    for content in ("one", "two"):
        client.chat.completions.create(
            model="echo", messages=[user(content)], extra_body={"session_id": session, "user_id": "ann"}
        )
    assert stored(http, session) == TWO
    assert http.get(f"/sessions/{session}").json()["user_id"] == "ann"


def test_clients_loop_with_the_whole_transcript_doubles_nothing(
    client: openai.OpenAI, http: httpx2.Client, host: Host, session: str
) -> None:
    messages: list[Any] = [system("Be brief.")]
    for content in ("one", "two", "three"):
        messages.append(user(content))
        messages.append(say(client, session, *messages).choices[0].message)
    expected = [("system", "Be brief."), *TWO, ("user", "three"), ("assistant", "You said: three ")]
    assert stored(http, session) == expected
    assert said(host.seen[2]) == expected[:-1]


def test_model_agents_are_given_the_history_once(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, model_agent: str, session: str
) -> None:
    upstream.script(["A.", "B.", "C."])
    messages: list[Any] = []
    for content in ("one", "two", "three"):
        messages.append(user(content))
        answer = client.chat.completions.create(model=model_agent, messages=messages, metadata={"session_id": session})
        messages.append(answer.choices[0].message)
    history = [("user", "one"), ("assistant", "A."), ("user", "two"), ("assistant", "B."), ("user", "three")]
    sent = [message for message in upstream.requests[2].body["messages"] if message["role"] != "system"]
    assert said(sent) == history
    assert stored(http, session) == [*history, ("assistant", "C.")]


@pytest.mark.parametrize("name", ["tooled", "tooled-sdk"])
def test_what_an_agents_own_tools_did_is_kept_and_not_sent_again(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, name: str, session: str
) -> None:
    upstream.script([Reply("Adding.", calls=(("add", {"a": 1, "b": 2}),)), "It is 3.", "Yes."])
    messages: list[Any] = []
    for content in ("1 + 2?", "Sure?"):
        messages.append(user(content))
        answer = client.chat.completions.create(model=name, messages=messages, metadata={"session_id": session})
        assert answer.choices[0].finish_reason == "stop"
        messages.append(answer.choices[0].message)
    assert messages[1].content == "Adding.\n\nIt is 3.", "the client sees one answer"
    assert messages[1].tool_calls is None
    history = [
        ("user", "1 + 2?"),
        ("assistant", "Adding."),
        ("tool", "3"),
        ("assistant", "It is 3."),
        ("user", "Sure?"),
    ]
    sent = [message for message in upstream.requests[2].body["messages"] if message["role"] != "system"]
    assert said(sent) == history
    assert stored(http, session) == [*history, ("assistant", "Yes.")]


def test_new_turn_alone_and_whole_transcript_may_alternate(
    client: openai.OpenAI, http: httpx2.Client, session: str
) -> None:
    say(client, session, user("one"))
    say(client, session, user("one"), assistant("You said: one "), user("two"))
    say(client, session, user("three"))
    say(client, session, *[{"role": role, "content": text} for role, text in stored(http, session)], user("four"))
    assert [content for role, content in stored(http, session) if role == "user"] == ["one", "two", "three", "four"]
    assert len(stored(http, session)) == 8


def test_parts_are_the_same_message_as_their_text(client: openai.OpenAI, http: httpx2.Client, session: str) -> None:
    say(client, session, user("one"))
    parts = [{"type": "text", "text": "one"}]
    output: Any = {"role": "assistant", "content": [{"type": "text", "text": "You said: one "}]}
    say(client, session, user(parts), output, user([{"type": "input_text", "text": "two"}]))
    assert stored(http, session) == TWO


def test_edited_message_branches_from_before_it(
    client: openai.OpenAI, http: httpx2.Client, host: Host, session: str
) -> None:
    say(client, session, user("one"))
    say(client, session, user("two"))
    say(client, session, user("one"), assistant("You said: one "), user("zwei"))
    assert said(host.seen[2]) == [*ONE, ("user", "zwei")]
    assert stored(http, session) == [*ONE, ("user", "zwei"), ("assistant", "You said: zwei ")]


def test_edited_message_keeps_what_tools_did_before_it(client: openai.OpenAI, upstream: Upstream, session: str) -> None:
    upstream.script([Reply(calls=(("add", {"a": 1, "b": 2}),)), "3.", "Yes.", "No."])
    begun = [user("1 + 2?"), assistant("3.")]
    for messages in ([user("1 + 2?")], [*begun, user("Sure?")], [*begun, user("Really?")]):
        client.chat.completions.create(model="tooled", messages=messages, metadata={"session_id": session})
    sent = [message for message in upstream.requests[3].body["messages"] if message["role"] != "system"]
    assert said(sent)[1:] == [("assistant", None), ("tool", "3"), ("assistant", "3."), ("user", "Really?")]


def test_regenerated_answer_replaces_the_last_one(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, session: str
) -> None:
    upstream.script(["A.", "B.", "C."])
    asked: Any = {"session_id": session}
    for messages in (
        [user("one")],
        [user("one"), assistant("A."), user("two")],
        [user("one"), assistant("A."), user("two")],
    ):
        client.chat.completions.create(model="declared", messages=messages, metadata=asked)
    history = [("user", "one"), ("assistant", "A."), ("user", "two")]
    assert (
        said([message for message in upstream.requests[2].body["messages"] if message["role"] != "system"]) == history
    )
    assert stored(http, session) == [*history, ("assistant", "C.")]


def test_foreign_transcript_becomes_the_sessions_conversation(
    client: openai.OpenAI, http: httpx2.Client, host: Host, session: str
) -> None:
    say(client, session, user("one"))
    say(client, session, user("uno"), assistant("Hai detto uno."), user("due"))
    history = [("user", "uno"), ("assistant", "Hai detto uno."), ("user", "due")]
    assert said(host.seen[1]) == history
    assert stored(http, session) == [*history, ("assistant", "You said: due ")]


def test_transcript_of_an_unknown_session_is_kept_as_it_is(
    client: openai.OpenAI, http: httpx2.Client, session: str
) -> None:
    say(client, session, user("uno"), assistant("Hai detto uno."), user("due"))
    assert [role for role, _ in stored(http, session)] == ["user", "assistant", "user", "assistant"]


def test_new_instructions_take_the_place_of_the_old(client: openai.OpenAI, host: Host, session: str) -> None:
    say(client, session, system("Be brief."), user("one"))
    say(client, session, system("Be loud."), user("one"), assistant("You said: one "), user("two"))
    say(client, session, user("three"))
    assert said(host.seen[1]) == [("system", "Be loud."), *TWO[:-1]]
    assert said(host.seen[2]) == [("system", "Be loud."), *TWO, ("user", "three")]


def test_system_prompt_is_one_more_system_message(client: openai.OpenAI, host: Host, session: str) -> None:
    for where in ({"system_prompt": "Be kind."}, {"metadata": {"system_prompt": "Be kind."}}):
        client.chat.completions.create(model="echo", messages=[system("Be brief."), user("one")], extra_body=where)
    for seen in host.seen:
        assert said(seen) == [("system", "Be kind."), ("system", "Be brief."), ("user", "one")]


def test_history_append_takes_only_the_new_turn(
    client: openai.OpenAI, http: httpx2.Client, host: Host, session: str
) -> None:
    say(client, session, user("one"))
    say(client, session, user("uno"), assistant("Hai detto uno."), user("two"), history="append")
    assert said(host.seen[1]) == TWO[:-1]
    assert stored(http, session) == TWO


def test_history_replace_starts_over(client: openai.OpenAI, http: httpx2.Client, host: Host, session: str) -> None:
    say(client, session, user("one"))
    say(client, session, user("two"), history="replace")
    assert said(host.seen[1]) == [("user", "two")]
    assert stored(http, session) == TWO[2:]


def test_earlier_users_words_that_match_nothing_are_a_new_turn(client: openai.OpenAI, host: Host, session: str) -> None:
    say(client, session, user("one"))
    say(client, session, user("and"), user("two"))
    assert said(host.seen[1]) == [*ONE, ("user", "and"), ("user", "two")]


@pytest.mark.parametrize("stream", [False, True])
def test_unstored_conversation_is_gone_afterwards(
    client: openai.OpenAI, http: httpx2.Client, session: str, stream: bool
) -> None:
    asked: Any = {"model": "echo", "messages": [user("one")], "store": False, "metadata": {"session_id": session}}
    answer: Any = client.chat.completions.create(**asked, stream=stream)
    fingerprint = (list(answer)[-1] if stream else answer).system_fingerprint
    assert fingerprint is not None
    for one in (session, fingerprint):
        assert http.get(f"/sessions/{one}").status_code == 404
    listed = [one["id"] for one in http.get("/sessions", params={"limit": 200}).json()["sessions"]]
    assert not {session, fingerprint} & set(listed)


def test_session_of_another_surface_continues_here(client: openai.OpenAI, http: httpx2.Client, session: str) -> None:
    http.post("/chat", json={"agent_name": "echo", "input": "one", "session_id": session})
    say(client, session, user("two"))
    http.post("/chat", json={"agent_name": "echo", "input": "three", "session_id": session})
    assert stored(http, session)[:4] == TWO
    assert len(stored(http, session)) == 6


def test_session_continues_with_another_agent(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, session: str
) -> None:
    upstream.script(["A."])
    say(client, session, user("one"))
    client.chat.completions.create(model="sdk", messages=[user("two")], metadata={"session_id": session})
    sent = [message for message in upstream.requests[0].body["messages"] if message["role"] != "system"]
    assert said(sent) == TWO[:-1]


def test_failed_turn_does_not_break_the_next(
    client: openai.OpenAI, http: httpx2.Client, upstream: Upstream, model_agent: str, session: str
) -> None:
    upstream.script([Reply(status=500), "B."])
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model=model_agent, messages=[user("one")], metadata={"session_id": session})
    client.chat.completions.create(
        model=model_agent, messages=[user("one"), user("two")], metadata={"session_id": session}
    )
    assert stored(http, session) == [("user", "one"), ("user", "two"), ("assistant", "B.")]


def test_metadata_is_kept_with_the_run_and_reaches_the_context(client: openai.OpenAI, http: httpx2.Client) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="telling",
        messages=[user("one")],
        metadata={"topic": "weather", "user_id": "ann", "workflow": "triage", "variables": {"city": "Paris"}},  # type: ignore[dict-item]
    )
    assert answer.parse().choices[0].message.content == "ann triage {'city': 'Paris'} {'topic': 'weather'}"
