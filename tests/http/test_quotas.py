"""How many runs one caller may have at once, and how many may wait in the background."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from tests.support.inns import Inn, Json, ended, running_inn
from tests.support.tokens import a_token


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    """Two runs a caller, and a queue of ten, of which one caller may fill one."""
    folder = tmp_path_factory.mktemp("data")
    with running_inn(folder, max_runs_per_caller=2, max_queued_runs=10, background_runs=1) as inn:
        yield inn


@pytest.fixture
def http(bounded: Inn) -> Iterator[httpx2.Client]:
    """The local user, who is outside what is counted for one caller."""
    with httpx2.Client(base_url=bounded.url, timeout=20) as http:
        yield http


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def bearer(inn: Inn) -> dict[str, str]:
    return {"authorization": f"Bearer {a_token(inn.app.kernel.settings, uuid4().hex).text}"}


Answers = list[Future[httpx2.Response]]


def held(inn: Inn, pool: ThreadPoolExecutor, headers: Json, prompts: list[str]) -> Answers:
    """Runs of the conducted agent that are under way."""
    performances = [inn.conduct(prompt) for prompt in prompts]
    answers = [pool.submit(talk, inn, headers, prompt) for prompt in prompts]
    for performance in performances:
        assert performance.began.wait(10)
    return answers


def talk(inn: Inn, headers: Json, prompt: str, **fields: object) -> httpx2.Response:
    body = {"agent_name": "conducted", "input": prompt, **fields}
    return httpx2.post(f"{inn.url}/chat", json=body, headers=headers, timeout=20, trust_env=False)


def test_more_runs_of_a_caller_than_may_be_are_refused_until_one_ends(bounded: Inn, pool: ThreadPoolExecutor) -> None:
    headers, prompts = bearer(bounded), [uuid4().hex for _ in range(3)]
    first, second = held(bounded, pool, headers, prompts[:2])
    refused = talk(bounded, headers, prompts[2])
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "RATE_LIMITED")
    assert refused.headers["retry-after"] == "1"
    assert talk(bounded, bearer(bounded), "Hi", agent_name="echo").status_code == 200, "others are not concerned"
    bounded.conduct(prompts[0]).end()
    assert first.result().status_code == 200
    assert talk(bounded, headers, "Hi", agent_name="echo").status_code == 200
    bounded.conduct(prompts[1]).end()
    assert second.result().status_code == 200


def test_who_has_no_place_left_repeats_and_steers_all_the_same(bounded: Inn, pool: ThreadPoolExecutor) -> None:
    caller, prompts, session_id = bearer(bounded), [uuid4().hex for _ in range(2)], uuid4().hex
    key = {**caller, "idempotency-key": uuid4().hex}
    performances = [bounded.conduct(prompt) for prompt in prompts]
    first = pool.submit(talk, bounded, key, prompts[0], session_id=session_id)
    second = pool.submit(talk, bounded, caller, prompts[1])
    assert all(performance.began.wait(10) for performance in performances)
    assert talk(bounded, {**caller, "idempotency-key": uuid4().hex}, "Hi", agent_name="echo").status_code == 429
    assert talk(bounded, caller, "Hi", session_id=uuid4().hex, when_busy="steer").status_code == 429
    again = pool.submit(talk, bounded, key, prompts[0], session_id=session_id)
    steering = pool.submit(talk, bounded, caller, "More", session_id=session_id, when_busy="steer")
    runs = bounded.app.kernel.house.services.runs  # type: ignore[union-attr]
    while not any(one.done() for one in (again, steering)) and all(one.readers < 3 for one in runs._executions.all()):
        pass
    for performance in performances:
        performance.end()
    answers = [one.result() for one in (first, again, steering)]
    assert [answer.status_code for answer in (*answers, second.result())] == [200] * 4
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert [answer.headers.get("idempotent-replayed") for answer in answers] == [None, "true", None]


def test_a_run_for_the_queue_is_told_again_where_its_caller_fills_its_part(bounded: Inn) -> None:
    caller = bearer(bounded)
    key, prompt = {**caller, "idempotency-key": uuid4().hex}, uuid4().hex
    blocking = bounded.conduct(prompt)
    with httpx2.Client(base_url=bounded.url, timeout=20, trust_env=False) as http:
        first = http.post("/chat", json={"agent_name": "conducted", "input": prompt, "background": True}).json()
        assert blocking.began.wait(10)
        queued, again = (talk(bounded, key, "Hi", agent_name="echo", background=True) for _ in range(2))
        assert (queued.status_code, again.status_code) == (202, 202)
        assert queued.json()["run_id"] == again.json()["run_id"]
        assert talk(bounded, caller, "Hi", agent_name="echo", background=True).status_code == 429
        blocking.end()
        assert ended(http, first["run_id"])["status"] == "completed"


def test_runs_that_fail_or_are_not_accepted_leave_their_places(bounded: Inn) -> None:
    headers = bearer(bounded)
    for _ in range(3):
        assert talk(bounded, headers, "Hi", agent_name="failing").status_code == 500
        assert talk(bounded, headers, "Hi", agent_name="nobody").status_code == 404
    assert talk(bounded, headers, "Hi", agent_name="echo").status_code == 200


def test_the_local_user_has_as_many_as_it_likes(bounded: Inn, pool: ThreadPoolExecutor) -> None:
    prompts = [uuid4().hex for _ in range(4)]
    answers = held(bounded, pool, {}, prompts)
    for prompt in prompts:
        bounded.conduct(prompt).end()
    assert [answer.result().status_code for answer in answers] == [200] * 4


def test_one_caller_fills_a_tenth_of_the_queue_and_all_together_fill_it(bounded: Inn, http: httpx2.Client) -> None:
    blocking = uuid4().hex
    performance = bounded.conduct(blocking)
    first = http.post("/chat", json={"agent_name": "conducted", "input": blocking, "background": True}).json()
    assert performance.began.wait(10)
    ann = bearer(bounded)
    queued = talk(bounded, ann, "Hi", agent_name="echo", background=True)
    refused = talk(bounded, ann, "Hi", agent_name="echo", background=True)
    assert (queued.status_code, refused.status_code) == (202, 429)
    assert refused.headers["retry-after"] == "5"
    mine = [http.post("/chat", json={"input": "Hi", "background": True}) for _ in range(10)]
    assert [answer.status_code for answer in mine] == [202] * 9 + [429]
    assert talk(bounded, bearer(bounded), "Hi", agent_name="echo", background=True).status_code == 429
    performance.end()
    for run in (first, *[answer.json() for answer in mine[:9]]):
        assert ended(http, run["run_id"])["status"] == "completed"
    assert talk(bounded, ann, "Hi", agent_name="echo", background=True).status_code == 202


def test_off_bounds_no_caller(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with running_inn(tmp_path, max_runs_per_caller="off") as inn:
        headers, prompts = bearer(inn), [uuid4().hex for _ in range(4)]
        answers = held(inn, pool, headers, prompts)
        for prompt in prompts:
            inn.conduct(prompt).end()
        assert [answer.result().status_code for answer in answers] == [200] * 4
