"""What follows what: earlier responses, branches, what is not stored, and what is somebody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest

from tests.support.inns import Inn, running_inn
from tests.support.tokens import a_token


def heard(inn: Inn) -> list[Any]:
    """What the agent was given last."""
    return [message["content"] for message in inn.seen[-1]]


async def test_response_goes_on_after_an_earlier_one_and_instructions_do_not(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="echo", input="One", instructions="Be kind.")
    second = await sdk.responses.create(model="echo", input="Two", previous_response_id=first.id)
    assert heard(inn) == ["One", "You said: One ", "Two"]
    assert second.previous_response_id == first.id
    assert second.conversation == first.conversation
    third = await sdk.responses.create(model="echo", input="Three", previous_response_id=second.id, instructions="Hm.")
    assert heard(inn) == ["Hm.", "One", "You said: One ", "Two", "You said: Two ", "Three"]
    assert third.instructions == "Hm."


async def test_where_others_have_followed_there_is_a_branch(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="echo", input="One")
    second = await sdk.responses.create(model="echo", input="Two", previous_response_id=first.id)
    await sdk.responses.create(model="echo", input="Or two", previous_response_id=first.id)
    assert heard(inn) == ["One", "You said: One ", "Or two"]
    await sdk.responses.create(model="echo", input="Three", previous_response_id=second.id)
    assert heard(inn) == ["One", "You said: One ", "Two", "You said: Two ", "Three"]


async def test_all_of_several_messages_are_new(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="echo", input="One")
    told: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    asked = [*told, {"role": "developer", "content": "c"}, {"role": "user", "content": "d"}]
    await sdk.responses.create(model="echo", input=asked, previous_response_id=first.id)
    assert heard(inn) == ["c", "One", "You said: One ", "a", "b", "d"]


async def test_response_that_still_runs_is_followed_once_it_has_ended(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    performance = inn.conduct("slowly")
    first = await sdk.responses.create(model="conducted", input="slowly", background=True)
    await asyncio.to_thread(performance.began.wait, 10)
    following = asyncio.create_task(sdk.responses.create(model="echo", input="Next", previous_response_id=first.id))
    in_background = await sdk.responses.create(
        model="echo", input="And next", previous_response_id=first.id, background=True
    )
    performance.say("done")
    performance.end()
    assert (await following).output_text == "You said: Next "
    while (polled := await sdk.responses.retrieve(in_background.id)).status in ("queued", "in_progress"):
        await asyncio.sleep(0.02)
    assert polled.status == "completed"
    given = [[message["content"] for message in seen] for seen in inn.seen]
    assert sorted(given) == [["slowly", "done", "And next"], ["slowly", "done", "Next"]]


async def test_what_is_not_stored_can_follow_and_cannot_be_followed_or_fetched(
    inn: Inn, sdk: openai.AsyncOpenAI
) -> None:
    first = await sdk.responses.create(model="echo", input="One")
    unstored = await sdk.responses.create(model="echo", input="Two", previous_response_id=first.id, store=False)
    assert heard(inn) == ["One", "You said: One ", "Two"]
    assert unstored.store is False and unstored.conversation is None  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve(unstored.id)
    await sdk.responses.create(model="echo", input="Three", previous_response_id=first.id)
    assert heard(inn) == ["One", "You said: One ", "Three"]
    told = [await refusal(sdk, named) for named in (unstored.id, "resp_unknown", "nonsense", "run_x")]
    assert {(code, param) for code, param, _ in told} == {("previous_response_not_found", "previous_response_id")}


async def refusal(sdk: openai.AsyncOpenAI, named: str) -> tuple[str | None, str | None, str]:
    """How a request is refused that follows this."""
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.responses.create(model="echo", input="x", previous_response_id=named)
    return caught.value.code, caught.value.param, str(caught.value).replace(named, "…")


async def test_what_chat_completions_began_goes_on_here_and_the_other_way_round(
    inn: Inn, sdk: openai.AsyncOpenAI
) -> None:
    messages: list[Any] = [{"role": "user", "content": "One"}]
    began = await sdk.chat.completions.create(model="echo", messages=messages)
    first = await sdk.responses.retrieve(began.id.replace("chatcmpl-", "resp_"))
    assert first.output_text == "You said: One " and first.conversation is not None
    await sdk.responses.create(model="echo", input="Two", conversation=first.conversation.id)
    assert heard(inn) == ["One", "You said: One ", "Two"]
    await sdk.responses.create(model="echo", input="Or two", previous_response_id=first.id)
    assert heard(inn) == ["One", "You said: One ", "Or two"]
    messages = [{"role": "user", "content": "Three"}]
    await sdk.chat.completions.create(model="echo", messages=messages, metadata={"session_id": first.conversation.id})
    assert heard(inn) == ["One", "You said: One ", "Or two", "You said: Or two ", "Three"]


def test_anothers_response_is_as_one_that_never_was(tmp_path: Any) -> None:
    with running_inn(tmp_path, force_auth=True) as inn, httpx2.Client() as http:
        ann, bob = (a_token(inn.app.kernel.settings, user).text for user in ("ann", "bob"))

        def ask(token: str, method: str, path: str, **body: Any) -> httpx2.Response:
            headers = {"authorization": f"Bearer {token}"}
            sent = {"json": body} if body else {}
            return http.request(method, f"{inn.url}/v1{path}", headers=headers, timeout=20, **sent)  # type: ignore[arg-type]

        made = ask(ann, "POST", "/responses", model="echo", input="Mine").json()
        item, held = made["output"][0]["id"], made["conversation"]["id"]

        def refused(token: str, named: str, item: str, held: str) -> list[Any]:
            told = [
                ask(token, "POST", "/responses", model="echo", input="x", previous_response_id=named),
                ask(token, "POST", "/responses", model="echo", input="x", previous_response_id=named, store=False),
                ask(token, "POST", "/responses/compact", model="echo", previous_response_id=named),
                ask(token, "POST", "/responses", model="echo", input=[{"type": "item_reference", "id": item}]),
                ask(token, "POST", "/responses", model="echo", input="x", conversation=held),
                *(ask(token, "GET", f"/responses/{named}{rest}") for rest in ("", "/input_items", "?stream=true")),
                ask(token, "POST", f"/responses/{named}/cancel", x=1),
                ask(token, "DELETE", f"/responses/{named}"),
                *(ask(token, "GET", f"/conversations/{held}{rest}") for rest in ("", "/items")),
                ask(token, "DELETE", f"/conversations/{held}"),
            ]
            errors = [(answer.status_code, answer.json()["error"]) for answer in told]
            return [
                (status, error["code"], error["message"].replace(named, "…").replace(item, "…").replace(held, "…"))
                for status, error in errors
            ]

        nobodys = refused(bob, "resp_" + "0" * 32, "msg_" + "0" * 32 + "_0", "conv_" + "0" * 32)
        assert refused(bob, made["id"], item, held) == nobodys
        assert {status for status, _, _ in nobodys} == {400, 404}
        assert ask(ann, "GET", f"/responses/{made['id']}").json() == made
