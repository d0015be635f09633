"""In the background: polled, cancelled, and its stream taken up again behind any event, byte for byte."""

from __future__ import annotations

import asyncio
import re

import httpx2
import openai

from tests.support.inns import Inn


async def test_it_is_queued_polled_and_completed(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    performance = inn.conduct("poll me")
    made = await sdk.responses.create(model="conducted", input="poll me", background=True)
    assert made.status in ("queued", "in_progress") and made.background is True and made.output == []
    await asyncio.to_thread(performance.began.wait, 10)
    assert (await sdk.responses.retrieve(made.id)).status == "in_progress"
    performance.say("Done.")
    performance.end()
    stream = await sdk.responses.retrieve(made.id, stream=True)
    types = [event.type async for event in stream]
    assert types[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert types[-1] == "response.completed"
    polled = await sdk.responses.retrieve(made.id)
    assert (polled.status, polled.output_text) == ("completed", "Done.")


async def test_it_can_be_cancelled(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    performance = inn.conduct("cancel me")
    made = await sdk.responses.create(model="conducted", input="cancel me", background=True)
    await asyncio.to_thread(performance.began.wait, 10)
    cancelled = await sdk.responses.cancel(made.id)
    assert cancelled.status == "cancelled" and performance.cancelled.is_set()
    assert (await sdk.responses.cancel(made.id)).status == "cancelled"


async def test_closing_its_stream_leaves_it_alone(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    performance = inn.conduct("leave me")
    stream = await sdk.responses.create(
        model="conducted", input="leave me", background=True, stream=True, extra_body={"grace": 0}
    )
    async for event in stream:
        if event.type == "response.created":
            named = event.response.id
            break
    await stream.close()
    await asyncio.to_thread(performance.began.wait, 10)
    performance.end()
    while (polled := await sdk.responses.retrieve(named)).status in ("queued", "in_progress"):
        await asyncio.sleep(0.02)
    assert polled.status == "completed"


def test_closing_any_other_stream_ends_it(inn: Inn, plain: httpx2.Client) -> None:
    performance = inn.conduct("stop me")
    body = {"model": "conducted", "input": "stop me", "stream": True, "grace": 0}
    with plain.stream("POST", "/v1/responses", json=body) as answer:
        next(answer.iter_bytes())
        assert performance.began.wait(10)
    assert performance.cancelled.wait(10)


def test_stream_that_was_cut_goes_on_behind_any_event_byte_for_byte(inn: Inn, plain: httpx2.Client) -> None:
    """Of a run in the background and of any other, cut while it runs and after it."""
    for background in (True, False):
        prompt = f"cut me {background}"
        performance = inn.conduct(prompt)
        performance.say("One ", "two ")
        body = {"model": "conducted", "input": prompt, "stream": True, "background": background}
        with plain.stream("POST", "/v1/responses", json=body) as answer:
            run_id = answer.headers["x-run-id"]
            pieces = answer.iter_bytes()
            told = next(pieces)
            while b'"two "' not in told:
                told += next(pieces)
            path = f"/v1/responses/{run_id.replace('run_', 'resp_')}"
            with plain.stream("GET", path, params={"stream": "true", "starting_after": 3}) as second:
                performance.say("three")
                performance.end()
                live = second.read()
            told += b"".join(pieces)
        events = re.findall(rb"event: .*?\n\n", told, re.DOTALL)
        assert told == b"".join(events) + b"data: [DONE]\n\n"
        assert live == b"".join(events[4:]) + b"data: [DONE]\n\n"
        for number in range(-1, len(events)):
            again = plain.get(path, params={"stream": "true", "starting_after": number}).content
            assert again == b"".join(events[number + 1 :]) + b"data: [DONE]\n\n", number


def test_same_key_begins_one_response(inn: Inn, plain: httpx2.Client) -> None:
    headers = {"idempotency-key": "only-once"}
    body = {"model": "echo", "input": "Once", "background": True}
    first, second = (plain.post("/v1/responses", json=body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
