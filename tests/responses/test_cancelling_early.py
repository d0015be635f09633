"""What is cancelled while it is being taken from the queue is cancelled, and at once."""

from __future__ import annotations

import openai

from tests.support.inns import Inn


async def test_cancellation_is_not_lost_at_the_moment_when_a_run_is_taken(inn: Inn, sdk: openai.AsyncOpenAI) -> None:
    for number in range(25):
        prompt = f"cancel me early, {number}"
        inn.conduct(prompt)
        made = await sdk.responses.create(model="conducted", input=prompt, background=True)
        assert (await sdk.responses.cancel(made.id)).status == "cancelled"
