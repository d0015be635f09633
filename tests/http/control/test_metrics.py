"""What the server measures, as Prometheus and as clients read it."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper import ServerBase
from innkeeper.apps.tokens import TokenManager
from innkeeper.config import load_settings
from innkeeper.telemetry.metrics import METRICS
from innkeeper.version import __version__
from tests.support.inns import Inn, running_inn
from tests.support.scrapes import Scrape, scrape, scraped_until
from tests.support.servers import serve_app
from tests.support.sizes import within

JSON = "/api/observability/metrics"


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after.get(name, **labels) - before.get(name, **labels)


def test_every_metric_is_there_with_its_type_and_its_labels(inn: Inn, http: httpx2.Client) -> None:
    http.post("/chat", json={"agent_name": "busy", "input": "Hi"})
    http.get("/live")
    told = scrape(http)
    for metric in METRICS:
        assert told.types[metric.name.removesuffix("_total")] == metric.kind
        sample = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        if metric.name != "innkeeper_commands_total":  # of which there was none yet
            assert told.labels[sample] == frozenset(metric.labels) or metric.name.startswith("innkeeper_command")
    assert told.get("innkeeper_build_info", version=__version__) == 1
    assert told.get("innkeeper_workers") == 1


def test_runs_requests_tokens_and_commits_are_counted(inn: Inn, http: httpx2.Client) -> None:
    before = scrape(http)
    for agent in ("echo", "echo", "busy", "failing"):
        http.post("/chat", json={"agent_name": agent, "input": "Hi"})
    http.post("/chat/stream", json={"agent_name": "breaking", "input": "Hi"})
    after = scrape(http)
    for agent, status, count in (("echo", "completed", 2), ("failing", "failed", 1), ("breaking", "failed", 1)):
        assert grown(before, after, "innkeeper_runs_total", agent=agent, status=status) == count
        assert grown(before, after, "innkeeper_run_duration_seconds_count", agent=agent) == count
    assert grown(before, after, "innkeeper_run_first_token_seconds_count", agent="echo") == 2
    assert grown(before, after, "innkeeper_run_first_token_seconds_count", agent="breaking") == 1
    assert grown(before, after, "innkeeper_run_first_token_seconds_count", agent="failing") == 0
    for direction, count in (("input", 10), ("output", 5)):
        told = {"agent": "busy", "model": "a-model", "direction": direction}
        assert grown(before, after, "innkeeper_tokens_total", **told) == count
    assert grown(before, after, "innkeeper_requests_total", route="/chat", method="POST", status="200") == 3
    assert grown(before, after, "innkeeper_requests_total", route="/chat", method="POST", status="500") == 1
    assert grown(before, after, "innkeeper_request_duration_seconds_count", route="/chat") == 4
    assert grown(before, after, "innkeeper_requests_total", route="/metrics", status="200") == 1
    assert grown(before, after, "innkeeper_store_commit_seconds_count") >= 10


def test_what_is_under_way_is_seen_while_it_is(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("seen under way")
    body = {"agent_name": "conducted", "input": "seen under way", "session_id": "watched"}
    with ThreadPoolExecutor(1) as pool, http.stream("POST", "/chat/stream", json=body) as stream:
        assert performance.began.wait(10)
        second = pool.submit(http.post, "/chat", json={"input": "Then I", "session_id": "watched"})
        told = scraped_until(http, lambda one: one.get("innkeeper_runs_active", state="queued") == 1)
        assert told.get("innkeeper_runs_active", state="running") == 1
        first_tokens = told.get("innkeeper_run_first_token_seconds_count", agent="conducted")
        performance.say("Soon.")
        scraped_until(
            http,
            lambda one: one.get("innkeeper_run_first_token_seconds_count", agent="conducted") == first_tokens + 1,
        )
        told = scraped_until(http, lambda one: one.get("innkeeper_streams_open", kind="sse") == 1)
        asked = http.get(JSON).json()
        assert (asked["runs"]["active"], asked["queue"]["turns"]) == ({"running": 1, "queued": 1}, 1)
        performance.end()
        stream.read()
        assert second.result(20).status_code == 200
    scraped_until(
        http, lambda one: one.get("innkeeper_runs_active") == 0 and one.get("innkeeper_streams_open", kind="sse") == 0
    )


def test_a_client_that_leaves_and_a_run_that_is_cancelled_leave_nothing_open(inn: Inn, http: httpx2.Client) -> None:
    performance = inn.conduct("is left alone")
    body = {"agent_name": "conducted", "input": "is left alone", "session_id": "left", "on_disconnect": "cancel"}
    before = scrape(http)
    with http.stream("POST", "/chat/stream", json=body):
        assert performance.began.wait(10)
    assert performance.cancelled.wait(10)

    def is_over(told: Scrape) -> bool:
        return grown(before, told, "innkeeper_runs_total", agent="conducted", status="cancelled") == 1

    told = scraped_until(http, is_over)
    assert told.get("innkeeper_runs_active") == 0
    scraped_until(http, lambda one: one.get("innkeeper_streams_open") == 0)


def test_websockets_are_streams(inn: Inn, http: httpx2.Client) -> None:
    with connect(f"ws{inn.url.removeprefix('http')}/ws/chat") as connection:
        connection.send(json.dumps({"input": "Hi"}))
        while json.loads(connection.recv(timeout=10))["type"] != "done":
            pass
        scraped_until(http, lambda one: one.get("innkeeper_streams_open", kind="websocket") == 1)
    scraped_until(http, lambda one: one.get("innkeeper_streams_open", kind="websocket") == 0)


def test_paths_and_methods_of_clients_choosing_make_no_metrics(inn: Inn, http: httpx2.Client) -> None:
    for number in range(50):
        http.get(f"/nowhere/{number}")
        http.get(f"/sessions/none-{number}")
        http.request(f"BREW{number}", "/chat")
        http.post(f"/agent-{number}/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}]})
        http.post("/chat", json={"input": "Hi", "agent_name": f'evil"{number}\n'})
    told = scrape(http)
    routes = told.values("innkeeper_requests_total", "route")
    assert {"unmatched", "/sessions/{session_id}"} <= routes
    assert not any(character.isdigit() for route in routes for character in route.replace("/v1/", ""))
    assert told.values("innkeeper_requests_total", "method") <= {"GET", "POST", "PUT", "PATCH", "DELETE", "other"}
    assert told.values("innkeeper_runs_total", "agent") <= {
        "echo", "conducted", "busy", "failing", "breaking", "silent", "flood"
    }  # fmt: skip


def test_names_to_which_a_dynamic_agent_answers_are_one_agent(tmp_path: Path) -> None:
    app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
    app.agent(lambda name: {"name": name})(lambda messages: "Here.")
    with serve_app(app) as url, httpx2.Client(base_url=url, timeout=20) as http:
        for number in range(30):
            assert http.post("/chat", json={"input": "Hi", "agent_name": f"made-up-{number}"}).status_code == 200
        told = scrape(http)
    assert told.values("innkeeper_runs_total", "agent") == {"dynamic"}
    assert told.get("innkeeper_runs_total", agent="dynamic", status="completed") == 30


def test_the_same_figures_are_there_as_json(inn: Inn, http: httpx2.Client) -> None:
    http.post("/chat", json={"agent_name": "busy", "input": "Hi"})
    text, told = scrape(http), http.get(JSON).json()
    assert told["version"] == __version__
    assert told["workers"] == 1
    assert told["runs"]["total"] == text.get("innkeeper_runs_total") == sum(told["runs"]["by_status"].values())
    assert told["runs"]["by_agent"]["busy"] == text.get("innkeeper_runs_total", agent="busy")
    assert told["requests"]["total"] == text.get("innkeeper_requests_total") + 1, "the scrape itself came between"
    assert told["tokens"]["output"] == text.get("innkeeper_tokens_total", direction="output") > 0
    assert told["latency"]["first_token_ms"]["count"] == text.get("innkeeper_run_first_token_seconds_count")
    assert 0 < told["store"]["commit_ms"]["p50"] <= told["store"]["commit_ms"]["p99"]
    assert told["queue"] == {"turns": 0, "background": 0, "commands": 0}
    assert told["streams"] == {"sse": 0, "websocket": 0}


def test_a_session_is_told_of_by_itself(inn: Inn, http: httpx2.Client) -> None:
    for agent in ("busy", "failing"):
        http.post("/chat", json={"agent_name": agent, "input": "Hi", "session_id": "counted"})
    told = http.get(JSON, params={"session_id": "counted"}).json()
    assert told.pop("events") >= 4
    assert told == {
        "session_id": "counted",
        "messages": len(http.get("/sessions/counted").json()["messages"]),
        "runs": {"total": 2, "by_status": {"completed": 1, "failed": 1}},
        "tokens": {"input": 10, "output": 5, "total": 15},
    }


@pytest.mark.parametrize("session_id", ["none", "", "a/b", "x" * 5000, "\x00", "\ud7ff"])
def test_a_session_that_is_not_there_is_not_found(inn: Inn, http: httpx2.Client, session_id: str) -> None:
    answer = http.get(JSON, params={"session_id": session_id})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


def tokens_of(data_dir: Path) -> dict[str, str]:
    """The texts of four tokens, by what they are."""

    async def create() -> dict[str, str]:
        async with TokenManager.open(load_settings({"data_dir": data_dir})) as tokens:
            return {
                "user": (await tokens.create("ann")).text,
                "scraper": (await tokens.create("ben", "read", scopes=["observability"])).text,
                "coder": (await tokens.create("cid", scopes=["code"])).text,
                "admin": (await tokens.create("eve", "admin")).text,
            }

    return asyncio.run(create())


def test_figures_are_for_admins_scrapers_and_the_local_user(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path)
    with running_inn(tmp_path, force_auth=True) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        for path in ("/metrics", JSON):
            assert http.get(path).status_code == 401
            answers = {
                who: http.get(path, headers={"authorization": f"Bearer {text}"}).status_code
                for who, text in tokens.items()
            }
            assert answers == {"user": 403, "coder": 403, "scraper": 200, "admin": 200}


def test_a_session_of_another_caller_is_not_found(tmp_path: Path) -> None:
    tokens = tokens_of(tmp_path)
    with running_inn(tmp_path, force_auth=True) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        as_ann = {"authorization": f"Bearer {tokens['user']}"}
        assert http.post("/chat", json={"input": "Hi", "session_id": "anns"}, headers=as_ann).status_code == 200
        as_ben = {"authorization": f"Bearer {tokens['scraper']}"}
        answer = http.get(JSON, params={"session_id": "anns"}, headers=as_ben)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SESSION_NOT_FOUND")


def test_where_no_figures_are_kept_the_answer_says_how_they_are(tmp_path: Path) -> None:
    with running_inn(tmp_path, enable_metrics=False) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        assert http.post("/chat", json={"input": "Hi", "session_id": "s"}).status_code == 200
        for path in ("/metrics", JSON, f"{JSON}?session_id=s"):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")
            assert "ENABLE_METRICS=true" in answer.json()["error"]["message"]


def test_modes_say_where_figures_are_served(tmp_path: Path) -> None:
    for modes, served in (("health", "/metrics"), ("logs", JSON), ("chat", None)):
        with running_inn(tmp_path, allowed_modes=modes) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
            for path in ("/metrics", JSON):
                assert http.get(path).status_code == (200 if path == served else 404)


def test_a_storm_of_scrapes_slows_nobody_and_everyone_is_answered(inn: Inn, http: httpx2.Client) -> None:
    turns = [_timed_turn(http) for _ in range(30)]
    is_over = threading.Event()
    answered: list[int] = []

    def storm() -> None:
        with httpx2.Client(base_url=inn.url, timeout=20) as client:
            while not is_over.is_set():
                answered.append(client.get("/metrics").status_code)

    with ThreadPoolExecutor(16) as pool:
        scrapers = [pool.submit(storm) for _ in range(16)]
        meanwhile = [_timed_turn(http) for _ in range(30)]
        is_over.set()
        for scraper in scrapers:
            scraper.result(20)
    assert set(answered) == {200}
    assert len(answered) >= 16
    assert statistics.median(meanwhile) < 10 * statistics.median(turns) + within(0.05, 0.5)


def _timed_turn(http: httpx2.Client) -> float:
    began = time.perf_counter()
    assert http.post("/chat", json={"input": "Hi"}).status_code == 200
    return time.perf_counter() - began


def test_the_processes_own_figures_are_those_of_the_machine(inn: Inn, http: httpx2.Client) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("this machine has no /proc")
    told = scrape(http)
    assert told.get("process_resident_memory_bytes", worker="1") > 10_000_000
    assert told.get("process_cpu_seconds_total", worker="1") > 0


def test_queued_background_runs_are_counted(tmp_path: Path) -> None:
    with running_inn(tmp_path, background_runs=1) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:
        performance = inn.conduct("holds the only place")
        asked: dict[str, Any] = {"agent_name": "conducted", "input": "holds the only place", "background": True}
        assert http.post("/chat", json=asked).status_code == 202
        assert performance.began.wait(10)
        for _ in range(3):
            assert http.post("/chat", json={"input": "Later", "background": True}).status_code == 202
        assert scrape(http).get("innkeeper_queue_depth", queue="background") == 3
        assert http.get(JSON).json()["queue"]["background"] == 3
        performance.end()
        scraped_until(http, lambda one: one.get("innkeeper_runs_total", agent="echo", status="completed") == 3)
        assert scrape(http).get("innkeeper_queue_depth", queue="background") == 0
