"""Runs that wait for people, broken: everybody acts on one at once, its agent asks nonsense, its credits, its readers.

What a pause is to those who keep to the rules is told in `tests/http/test_actions.py`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.action_changes import Resumed
from innkeeper.core.actions import Action
from innkeeper.core.agents import AgentDescription
from innkeeper.core.changes import Change, DeleteSession, Fence
from innkeeper.core.context import RunContext
from innkeeper.core.events import AgentEvent, Paused, TextDelta, ToolCalled, ToolReturned, UsageReported
from innkeeper.core.outcomes import Outcome
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Pricing, Usage
from innkeeper.ports.journal import Journal
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.inns import UNCOUNTED, Inn, Json, frames, serve_inn
from tests.support.receivers import Receiver, running_receiver
from tests.support.replicas import Replicas, client_of, running_replicas
from tests.support.scrapes import scrape
from tests.support.sizes import sized
from tests.support.tokens import a_token

ROUNDS = sized(60, 10)
LONE = "\ud800"
ODD = f"nul \x00 lone {LONE} line \u2028"
"""What JSON may say and a store may not hold as it is."""


class Asking:
    """Asks whether it may; what the user says is how: `odd` in words that are no words, `huge` with a lot put aside,

    `unsayable`, `nameless` and `endless` with an id that nobody could answer to.
    """

    def describe(self) -> AgentDescription:
        return AgentDescription("asking", pricing=Pricing(Decimal(2), Decimal("0.01")))

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        going, said = turn.continuation, turn.prompt
        odd = ODD if said == "odd" else ""
        state = "\u20ac" * (15 * 1024 * 1024 // 3) if said == "huge" else f"state {odd.replace(LONE, '')}"
        if going is None:
            yield TextDelta("May I?")
            yield UsageReported(Usage(10, 100, "m"))
            context.track_usage(0.5, "asking")
            yield ToolCalled("do", "call", json.dumps({"text": odd}))
            call_id = {"unsayable": ODD, "nameless": "", "endless": "x" * 257}.get(said, "call")
            yield Paused((Action(call_id, "approval", "do", json.dumps({"text": odd})),), state)
            return
        assert going.state == state
        yield ToolReturned("do", "call", going.answers[0].decision)
        yield UsageReported(Usage(10, 100, "m"))
        context.track_usage(0.5, "doing")
        yield "Done."


class Bounded:
    """Tracks 0.75 of the one credit that it may come to, asks, and tracks as much as it has been told to then."""

    def describe(self) -> AgentDescription:
        return AgentDescription("bounded", pricing=Pricing(max_credits=Decimal(1)))

    async def run(self, turn: Turn, context: RunContext) -> AsyncIterator[AgentEvent | str]:
        if turn.continuation is None:
            context.track_usage(0.75, "asking")
            yield ToolCalled("do", "call", "{}")
            yield Paused((Action("call", "approval", "do", "{}"),), "")
            return
        yield ToolReturned("do", "call", "done")
        context.track_usage(float(turn.prompt), "doing")
        await asyncio.sleep(0)
        yield json.dumps(context.usage["total_credits"])


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def inn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    folder = tmp_path_factory.mktemp("data")
    if request.param == "sqlite":
        with _an_inn(folder) as running:
            yield running
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url, _an_inn(folder, database_url=url) as running:
        yield running


def _an_inn(folder: Path, **settings: Any) -> Any:
    app = ServerBase(settings=load_settings({"data_dir": folder, "force_auth": True, **UNCOUNTED, **settings}))
    app.agent("asking")(Asking())
    app.agent("bounded")(Bounded())
    app.agent(lambda name: name if name in _there else None)(Asking())
    app.agent.finalize_request(lambda request, response: _finalized.append(request.url.path))
    return serve_inn(app)


_finalized: list[str] = []
_there = {"fleeting"}


@pytest.fixture(scope="module")
def admin(inn: Inn) -> Iterator[httpx2.Client]:
    with _client(inn, "root", "admin") as client:
        yield client


@pytest.fixture
def http(inn: Inn) -> Iterator[httpx2.Client]:
    """A client of a user whom no other test knows."""
    with _client(inn, f"user-{time.monotonic_ns()}") as client:
        yield client


def _client(inn: Inn, user: str, role: str = "user") -> httpx2.Client:
    headers = {"authorization": f"Bearer {a_token(inn.app.kernel.settings, user, role).text}"}
    return httpx2.Client(base_url=inn.url, headers=headers, timeout=20, trust_env=False)


def ask(http: httpx2.Client, text: str = "well", **more: Any) -> Json:
    body = {"agent_name": "asking", "input": text, **more}
    told: Json = http.post("/chat", json=body).raise_for_status().json()
    assert told["status"] == "requires_action", told
    return told


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it has not come to that"
        time.sleep(0.02)


def running(admin: httpx2.Client) -> float:
    """What the gauge of runs under way says."""
    return scrape(admin).get("innkeeper_runs_active", state="running")


def _all_at_once(http: httpx2.Client, run_id: str, *more: str) -> None:
    """Everything that can be done to a run that waits; `more` are sessions to delete."""

    def resume(**body: Any) -> httpx2.Response:
        return http.post(f"/runs/{run_id}/resume", json=body)

    with ThreadPoolExecutor(6) as pool:
        acts = [
            pool.submit(resume, decision="approve"),
            pool.submit(resume, decision="deny", background=True),
            pool.submit(resume, decision="approve", stream=True),
            pool.submit(http.post, f"/runs/{run_id}/cancel"),
            pool.submit(http.get, f"/runs/{run_id}/events"),
            *(pool.submit(http.delete, f"/sessions/{one}") for one in more),
        ]
        answers = [act.result() for act in acts]
    assert {one.status_code for one in answers} <= {200, 202, 204, 404, 409}, [one.text for one in answers]


def _has_ended(http: httpx2.Client, run_id: str) -> bool:
    answer = http.get(f"/runs/{run_id}", params={"wait": 20})
    return answer.status_code == 404 or answer.json()["ended_at"] is not None


def test_whatever_all_do_to_it_at_once_a_run_ends_once_and_nothing_hangs(
    http: httpx2.Client, admin: httpx2.Client
) -> None:
    for number in range(ROUNDS):
        session_id = f"crowd-{number}"
        run_id = ask(http, session_id=session_id)["run_id"]
        _all_at_once(http, run_id, *([session_id] if number % 2 else []))
        assert _has_ended(http, run_id)
        seen = http.get(f"/runs/{run_id}/events")
        if seen.is_success:
            told = frames(seen.text)
            kinds = [one.data["type"] for one in told]
            assert [one.seq for one in told] == list(range(1, len(told) + 1))
            assert (kinds.count("done"), kinds.count("action_answered") <= 1) == (1, True)
    until(lambda: running(admin) == 0)


class Forgetful:
    """A journal after whose commit of answers somebody else's deletion of the session comes first."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def commit(self, changes: Sequence[Change], fence: Fence | None = None) -> asyncio.Future[tuple[Outcome, ...]]:
        return asyncio.ensure_future(self._commit(changes, fence))

    async def _commit(self, changes: Sequence[Change], fence: Fence | None) -> tuple[Outcome, ...]:
        outcomes = await self._journal.commit(changes, fence)
        for outcome in outcomes:
            if isinstance(outcome, Resumed):
                await self._journal.commit((DeleteSession(outcome.run.session_key),))
        return outcomes


def test_a_run_whose_session_is_deleted_between_its_answer_and_its_first_step_ends_there(
    inn: Inn, http: httpx2.Client, admin: httpx2.Client
) -> None:
    run_id = ask(http)["run_id"]
    services = inn.app.state.innkeeper.services
    assert services is not None
    pauses = services.runs.pauses
    pauses.journal, before = Forgetful(pauses.journal), pauses.journal
    try:
        answer = http.post(f"/runs/{run_id}/resume", json={"decision": "approve"})
    finally:
        pauses.journal = before
    assert answer.status_code in (200, 404, 409), answer.text
    until(lambda: running(admin) == 0)


def test_a_run_whose_session_goes_as_it_is_answered_leaves_the_server_at_its_work(
    http: httpx2.Client, admin: httpx2.Client
) -> None:
    for number in range(ROUNDS):
        run_id = ask(http, session_id=f"gone-{number}")["run_id"]
        with ThreadPoolExecutor(2) as pool:
            answer = pool.submit(http.post, f"/runs/{run_id}/resume", json={"decision": "approve"})
            gone = pool.submit(http.delete, f"/sessions/gone-{number}")
            assert gone.result().status_code == 204
            assert answer.result().status_code in (200, 404, 409), answer.result().text
        assert http.get("/actions").json() == {"actions": [], "has_more": False}
    until(lambda: running(admin) == 0)


@pytest.mark.parametrize("text", ["odd", "huge"])
def test_what_a_store_cannot_hold_as_it_is_is_asked_and_answered_all_the_same(http: httpx2.Client, text: str) -> None:
    told = ask(http, text)
    where = f"/runs/{told['run_id']}"
    (action,) = http.get(f"{where}/actions").json()["actions"]
    assert ("nul" in action["arguments"]["text"]) == (text == "odd")
    content = json.dumps({"answers": [{"id": "call", "decision": "deny", "message": ODD.replace(LONE, "")}]})
    answer = http.post(f"{where}/resume", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json().get("output")) == (200, "May I?\n\nDone."), answer.text
    (action,) = http.get(f"{where}/actions").json()["actions"]
    assert (action["status"], action["message"][:3]) == ("denied", "nul")


@pytest.mark.parametrize("text", ["unsayable", "nameless", "endless"])
def test_a_run_that_asks_for_what_nobody_could_answer_fails(http: httpx2.Client, text: str) -> None:
    refused = http.post("/chat", json={"agent_name": "asking", "input": text})
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "AGENT_FAILED"), refused.text
    assert http.get("/actions").json()["actions"] == []


def _funded(http: httpx2.Client, admin: httpx2.Client) -> None:
    user = http.post("/sessions", json={}).raise_for_status().json()["user_id"]
    admin.put("/credits", json={"user": user, "balance": 10, "reason": "a gift"}).raise_for_status()


def _credits(http: httpx2.Client) -> tuple[float, float]:
    told = http.get("/credits").raise_for_status().json()["user"]
    return told["balance"], told["reserved"]


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda http, run: http.post(f"/runs/{run['run_id']}/resume", json={"decision": "approve"}), 5),
        (lambda http, run: http.post(f"/runs/{run['run_id']}/cancel"), 6.5),
        (lambda http, run: http.delete(f"/sessions/{run['session_id']}"), 6.5),
    ],
    ids=["answered", "cancelled", "deleted"],
)
def test_a_run_that_waited_is_charged_once_for_all_that_it_did_and_frees_what_was_set_aside(
    http: httpx2.Client, admin: httpx2.Client, act: Callable[[httpx2.Client, Json], httpx2.Response], left: float
) -> None:
    _funded(http, admin)
    run = ask(http)
    balance, reserved = _credits(http)
    assert (balance, reserved > 0) == (10, True), "what is set aside stays so while it waits"
    assert act(http, run).is_success
    assert _credits(http) == (left, 0)
    charges = [one for one in http.get("/credits/entries").json()["entries"] if one["kind"] == "charge"]
    assert len(charges) == 1


@pytest.mark.parametrize(
    ("more", "output", "reason"), [("0.125", "0.875", "stop"), ("0.5", "", "length")], ids=["enough", "too much"]
)
def test_what_a_run_tracked_before_it_waited_counts_when_it_goes_on(
    http: httpx2.Client, more: str, output: str, reason: str
) -> None:
    run_id = ask(http, more, agent_name="bounded")["run_id"]
    http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).raise_for_status()
    run = http.get(f"/runs/{run_id}").raise_for_status().json()
    assert (run["status"], run["output"], run["finish_reason"]) == ("completed", output, reason)


def test_a_run_whose_agent_is_gone_when_it_goes_on_is_charged_for_what_it_did(
    http: httpx2.Client, admin: httpx2.Client
) -> None:
    _funded(http, admin)
    run = ask(http, agent_name="fleeting")
    _there.remove("fleeting")
    try:
        answer = http.post(f"/runs/{run['run_id']}/resume", json={"decision": "approve"})
    finally:
        _there.add("fleeting")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "AGENT_FAILED"), answer.text
    assert _credits(http) == (6.5, 0)


def test_a_request_that_lets_a_run_go_on_is_finalized_once_and_the_run_is_logged_once(
    http: httpx2.Client, admin: httpx2.Client
) -> None:
    _finalized.clear()
    run = ask(http)
    where = f"/runs/{run['run_id']}/resume"
    for stream in (True, False):
        http.post(where, json={"decision": "approve", "stream": stream})
    until(lambda: _finalized.count(where) == 2)  # the other one is told that it came too late
    assert _finalized.count("/chat") == 1
    until(lambda: http.get("/logs").json()["logs"])
    assert [one["run_id"] for one in http.get("/logs").json()["logs"]] == [run["run_id"]]


def test_a_reader_goes_on_beyond_a_pause_from_whatever_it_has_seen(http: httpx2.Client) -> None:
    run_id = ask(http)["run_id"]
    before = frames(http.get(f"/runs/{run_id}/events").text)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(http.get, f"/runs/{run_id}/events", headers={"last-event-id": str(before[-1].seq)})
        assert going.result().text == "data: [DONE]\n\n", "there is nothing more as long as it waits"
    http.post(f"/runs/{run_id}/resume", json={"decision": "approve"}).raise_for_status()
    whole = frames(http.get(f"/runs/{run_id}/events").text)
    for seq in range(len(whole)):
        rest = http.get(f"/runs/{run_id}/events", headers={"last-event-id": str(seq)})
        assert frames(rest.text) == whole[seq:]


def test_a_token_that_may_only_read_sees_what_is_asked_and_answers_nothing(inn: Inn, http: httpx2.Client) -> None:
    run = ask(http)
    user = http.get(f"/runs/{run['run_id']}").json()["user_id"]
    with _client(inn, user, "read") as reader:
        assert reader.get(f"/runs/{run['run_id']}/actions").json()["actions"][0]["status"] == "pending"
        assert reader.post(f"/runs/{run['run_id']}/resume", json={"decision": "approve"}).status_code == 403
    with _client(inn, "another") as other:
        for run_id in (run["run_id"], "run_of-nobody"):
            for path in (f"/runs/{run_id}/actions", f"/runs/{run_id}/resume"):
                told = other.request("GET" if path.endswith("actions") else "POST", path, json={"decision": "deny"})
                assert (told.status_code, told.json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
        assert other.get("/actions").json()["actions"] == []
    assert http.get(f"/runs/{run['run_id']}").json()["status"] == "requires_action"


AGENTS = """
from innkeeper import Agent, register_agent, tool

@tool(requires_approval=True)
async def delete(path: str) -> str:
    \"\"\"Deletes a file.\"\"\"
    return f"deleted {path}"

register_agent("cleaner", Agent(name="cleaner", model="test", tools=[delete]))
"""


def test_of_all_who_answer_at_two_processes_one_is_heard_and_the_end_is_told_once(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with asyncio.Runner() as runner:
        receiving = running_receiver()
        receiver = runner.run(receiving.__aenter__())
        env = {"WEBHOOK_ALLOWED_HOSTS": f"http://{receiver.host}", "WEBHOOK_SECRET": f"whsec_{'c2VjcmV0' * 5}"}
        with running_replicas("postgres", tmp_path, request, AGENTS, env) as replicas:
            runner.run(_contested(replicas, receiver))
            replicas.assert_nothing_was_raised()
        assert len(receiver.requests) == 4
        runner.run(receiving.__aexit__(None, None, None))


async def _contested(replicas: Replicas, receiver: Receiver) -> None:
    async with client_of(replicas.one) as here, client_of(replicas.other) as there:
        for number in range(4):
            body = {"agent_name": "cleaner", "input": f'call delete {{"path": "{number}"}}', "webhook": receiver.url}
            run_id = (await here.post("/chat", json=body)).json()["run_id"]
            assert (await there.get(f"/runs/{run_id}")).json()["status"] == "requires_action"
            assert len(receiver.requests) == number, "its end has not come"
            acts = [(client, decision) for client in (here, there) for decision in ("approve", "deny")]
            answers = await asyncio.gather(
                *(client.post(f"/runs/{run_id}/resume", json={"decision": decision}) for client, decision in acts)
            )
            assert sorted(one.status_code for one in answers) == [200, 409, 409, 409], [one.text for one in answers]
            assert json.loads((await receiver.next()).body)["data"]["id"] == run_id
            for client in (here, there):
                told = frames((await client.get(f"/runs/{run_id}/events")).text)
                assert [one.data["type"] for one in told].count("tool_result") == 1
