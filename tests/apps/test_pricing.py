"""Prices as callers meet them: refused when they cannot pay, cut off at the ceiling, charged once for what was used."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.function import FunctionModel

from innkeeper import Agent, ServerBase, get_context, pricing
from innkeeper.core.administration import SetBalance
from innkeeper.core.credits import credits_of, nanos
from innkeeper.core.events import UsageReported
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage
from innkeeper.storage.sqlite.stores import SqliteStore
from tests.support.apps import completion, content, frames, ledger
from tests.support.pydantic_agents import Ear
from tests.support.servers import serve_app

pytestmark = pytest.mark.usefixtures("fresh_process")


async def _with_store(data_dir: Path, use: Any) -> Any:
    store = SqliteStore(data_dir / "innkeeper.db")
    await store.open(serves=False)
    try:
        return await use(store)
    finally:
        await store.close()


def give(data_dir: Path, credits: str, user: str = "local") -> None:
    change = SetBalance("local", user, nanos(Decimal(credits)), "e1", "test", "given", Instant(1))
    asyncio.run(_with_store(data_dir, lambda store: store.journal.commit((change,))))


def left(data_dir: Path, user: str = "local") -> tuple[Decimal, Decimal]:
    (balance,) = asyncio.run(_with_store(data_dir, lambda store: store.credits.balances("local", (user,))))
    return credits_of(balance.available), credits_of(balance.reserved)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@contextmanager
def serving(app: Any) -> Iterator[httpx2.Client]:
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=20) as client:
        yield client


def flat_app() -> ServerBase:
    app = ServerBase()

    @app.agent("flat")
    @pricing(credits_per_request=10)
    async def flat(messages: Any) -> str:
        return "Response"

    return app


def test_a_caller_who_cannot_pay_is_told_what_it_would_take(data_dir: Path) -> None:
    give(data_dir, "15")
    with serving(flat_app()) as client:
        assert content(client.post("/flat/chat/completions", json=completion())) == "Response"
        for answer in (
            client.post("/flat/chat/completions", json=completion()),
            client.post("/flat/chat/completions", json=completion(stream=True)),
            client.post("/chat", json={"input": "Hi"}),
            client.post("/chat", json={"input": "Hi", "background": True}),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (402, "INSUFFICIENT_CREDITS")
            assert error["message"] == "This run may cost up to 10 credits, and you have 5 left."
            assert answer.headers["x-should-retry"] == "false"
    assert left(data_dir) == (Decimal(5), Decimal(0))
    assert ledger(data_dir) == [("10", "pricing", {})]


def test_a_run_that_tracks_more_than_its_ceiling_is_cut_off_and_says_so(data_dir: Path) -> None:
    give(data_dir, "100")
    app = ServerBase()

    @app.agent("talker")
    @pricing(credits_per_request=1, max_credits=3)
    async def talker(messages: Any) -> AsyncIterator[str]:
        for number in range(1000):
            context = get_context()
            assert context is not None
            context.track_usage(1, "a word")
            yield f"{number} "
            await asyncio.sleep(0)

    with serving(app) as client:
        told = client.post("/talker/chat/completions", json=completion()).json()["choices"][0]
        streamed = frames(client.post("/chat/stream", json={"input": "Hi"}).text)
    assert told["finish_reason"] == "length" and told["message"]["content"].startswith("0 ")
    assert (streamed[-1]["type"], streamed[-1]["status"], streamed[-1]["finish_reason"]) == (
        "done",
        "completed",
        "length",
    )
    assert left(data_dir) == (Decimal(94), Decimal(0)), "two runs, at most three credits each"


def test_output_tokens_are_bounded_by_what_can_be_paid(data_dir: Path) -> None:
    give(data_dir, "2.05")
    app, asked = ServerBase(), []

    @app.agent("by-token")
    @pricing(credits_per_token=0.1)
    async def by_token(messages: Any, max_tokens: int | None = None) -> Any:
        asked.append(max_tokens)
        usage = {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        return {"choices": [{"message": {"role": "assistant", "content": "Response"}}], "usage": usage}

    with serving(app) as client:
        answers = [
            client.post("/by-token/chat/completions", json=completion(max_tokens=20)).status_code,
            client.post("/by-token/chat/completions", json=completion(max_tokens=20)).status_code,
            client.post("/by-token/chat/completions", json=completion()).status_code,
        ]
    assert answers == [200, 402, 200]
    assert left(data_dir) == (Decimal("1.25"), Decimal(0))


def test_models_are_asked_for_no_more_than_can_be_paid(data_dir: Path) -> None:
    give(data_dir, "1")
    app = ServerBase()
    agent = pricing(credits_per_token=0.01)(Agent(name="told", model="test"))
    app.agent("told")(agent)
    with serving(app) as client:
        answer = client.post("/told/chat/completions", json=completion())
        usage = answer.json()["usage"]
    spent = Decimal("0.01") * usage["completion_tokens"]
    assert left(data_dir) == (1 - spent, Decimal(0)) and spent > 0


def test_a_run_that_fails_or_is_cancelled_gives_back_what_it_did_not_use(data_dir: Path) -> None:
    give(data_dir, "10")
    app = ServerBase()
    began = asyncio.Event()

    @app.agent("stuck")
    @pricing(credits_per_request=1, credits_per_token=1, max_credits=8)
    async def stuck(messages: Any) -> AsyncIterator[str]:
        yield "first"
        began.set()
        await asyncio.Event().wait()

    with serving(app) as client:
        run = client.post("/chat", json={"input": "Hi", "background": True}).json()
        assert client.get(f"/runs/{run['run_id']}?wait=0.3").json()["status"] in ("running", "queued")
        client.post(f"/runs/{run['run_id']}/cancel")
        assert client.get(f"/runs/{run['run_id']}?wait=30").json()["status"] == "cancelled"
    assert left(data_dir) == (Decimal(9), Decimal(0))


def test_a_turn_that_never_began_costs_nothing(data_dir: Path) -> None:
    give(data_dir, "10")
    app = ServerBase()

    @app.agent("slow")
    @pricing(credits_per_request=1)
    async def slow(messages: Any) -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    with serving(app) as client:
        first = client.post("/chat", json={"input": "Hi", "session_id": "s", "background": True}).json()
        second = client.post("/chat", json={"input": "Hi", "session_id": "s", "background": True}).json()
        for run in (second, first):
            client.post(f"/runs/{run['run_id']}/cancel")
            assert client.get(f"/runs/{run['run_id']}?wait=30").json()["status"] == "cancelled"
    assert left(data_dir)[1] == 0 and left(data_dir)[0] in (Decimal(9), Decimal(10))
    assert [credits for credits, *_ in ledger(data_dir)] in ([], ["1"])


def test_what_is_tracked_beside_a_flat_price_is_charged_and_cuts_nothing_off(data_dir: Path) -> None:
    give(data_dir, "100")
    app = ServerBase()

    @app.agent("tracker")
    @pricing(credits_per_request=1)
    async def tracker(messages: Any) -> AsyncIterator[str]:
        for word in ("one ", "two ", "three"):
            context = get_context()
            assert context is not None
            context.track_usage(0.5, "a word")
            yield word
            await asyncio.sleep(0.1)

    with serving(app) as client:
        told = client.post("/tracker/chat/completions", json=completion()).json()["choices"][0]
    assert (told["message"]["content"], told["finish_reason"]) == ("one two three", "stop")
    assert left(data_dir) == (Decimal("97.5"), Decimal(0))


@pytest.mark.parametrize(("input_tokens", "output_tokens"), [(5, -100), (2**70, 2**70), (1.5, 2.5)])
def test_what_an_agent_misreports_neither_gives_credits_nor_hinders_its_run(
    data_dir: Path, input_tokens: Any, output_tokens: Any
) -> None:
    give(data_dir, "100")
    app = ServerBase()

    @app.agent("liar")
    @pricing(credits_per_token=1, max_credits=5)
    async def liar(messages: Any) -> AsyncIterator[Any]:
        yield "Response"
        for model in (None, "", "a\0b", "a\ufffdb"):
            yield UsageReported(Usage(input_tokens, output_tokens, model))

    with serving(app) as client:
        assert client.post("/chat", json={"input": "Hi"}).status_code == 200
    available, reserved = left(data_dir)
    assert reserved == 0 and Decimal(95) <= available <= Decimal(100)


@pytest.mark.parametrize(("credits", "own", "asked"), [("1000", None, None), ("1000", 7, 7), ("0.05", 70, 50)])
def test_a_balance_asks_of_no_model_more_than_it_can_say_or_was_to_say(
    data_dir: Path, credits: str, own: int | None, asked: int | None
) -> None:
    give(data_dir, credits)
    app, ear = ServerBase(), Ear()
    agent = PydanticAgent(ear.agent.model, model_settings=None if own is None else {"max_tokens": own})
    app.agent("heard")(pricing(credits_per_token=0.001)(agent))
    with serving(app) as client:
        assert content(client.post("/heard/chat/completions", json=completion())) == "ok"
    assert ear.settings.get("max_tokens") == asked


def test_who_leaves_before_a_model_has_told_its_tokens_pays_for_what_it_said(data_dir: Path) -> None:
    give(data_dir, "1000")
    app, left_behind = ServerBase(), threading.Event()

    async def endless(messages: Any, info: Any) -> AsyncIterator[str]:
        for _ in range(100):
            yield "word "
        try:
            await asyncio.Event().wait()
        finally:
            left_behind.set()

    app.agent("endless")(pricing(credits_per_token=1)(PydanticAgent(FunctionModel(stream_function=endless))))
    with serving(app) as client:
        with client.stream("POST", "/chat/stream", json={"input": "Hi", "on_disconnect": "cancel"}) as answer:
            heard = ""
            for line in answer.iter_lines():
                heard += line
                if heard.count("word ") == 100:
                    break
        assert left_behind.wait(10)
    assert left(data_dir) == (Decimal(875), Decimal(0))
    assert ledger(data_dir) == [("125", "pricing", {"estimated_tokens": 125})]


def test_what_a_thread_tracks_when_its_run_has_been_cancelled_is_charged(data_dir: Path) -> None:
    give(data_dir, "10")
    app, began, goes_on = ServerBase(), threading.Event(), threading.Event()

    @app.agent("stubborn")
    @pricing(credits_per_request=1)
    def stubborn(messages: Any) -> str:
        context = get_context()
        assert context is not None
        began.set()
        assert goes_on.wait(20)
        context.track_usage(2, "a look-up")
        return "Too late."

    with serving(app) as client:
        run = client.post("/chat", json={"input": "Hi", "background": True}).json()
        assert began.wait(10)
        client.post(f"/runs/{run['run_id']}/cancel")
        assert client.get(f"/runs/{run['run_id']}?wait=10").json()["status"] == "cancelled"
        goes_on.set()
        deadline = time.monotonic() + 10
        while len(client.get("/credits/records").json()["records"]) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
    assert left(data_dir) == (Decimal(7), Decimal(0))


def test_an_agent_that_costs_what_it_tracks_needs_that_anything_is_left_and_ends_when_that_is_spent(
    data_dir: Path,
) -> None:
    give(data_dir, "3")
    app = ServerBase()

    @app.agent("tracker")
    @pricing(max_credits=5)
    async def tracker(messages: Any) -> AsyncIterator[str]:
        for number in range(100):
            context = get_context()
            assert context is not None
            context.track_usage(1, "a word")
            yield f"{number} "
            await asyncio.sleep(0)

    with serving(app) as client:
        told = client.post("/tracker/chat/completions", json=completion()).json()["choices"][0]
        refused = client.post("/tracker/chat/completions", json=completion())
    assert told["finish_reason"] == "length" and told["message"]["content"].startswith("0 1 2 ")
    assert refused.status_code == 402
    assert refused.json()["error"]["message"] == "This run may cost some credits, and you have 0 left."
    assert left(data_dir) == (Decimal(0), Decimal(0))
