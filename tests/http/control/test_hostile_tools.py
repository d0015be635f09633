"""Every hostile program, registered as a tool and executed over HTTP on one server: none succeeds, nothing leaks."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.sandbox.hostile import ATTACKS, CANARY, UNPARSABLE, VARIABLE, Attack
from tests.support.coded import Coded, Room, coded_servers, error, limited
from tests.support.sizes import percentile, within

API_KEY_SECRET = "api-key-secret-91f2c7d0-never-to-be-seen"
HOSTS = ("echo", "fail")  # what the attacks believe to be there

AT_A_TIME = 4
TIMES = {"cpu_seconds": within(2.0, 0.5), "wall_seconds": within(10.0, 4.0)}


class Records(logging.Handler):
    """What the process logs, as one text."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(logging.Formatter().format(record))


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Coded]:
    monkeypatch.setenv(VARIABLE, CANARY)
    yield from coded_servers("sqlite", tmp_path / "a-data-folder", lambda: "", api_key_secret=API_KEY_SECRET)


@contextmanager
def logged() -> Iterator[Records]:
    records = Records()
    logging.getLogger().addHandler(records)
    try:
        yield records
    finally:
        logging.getLogger().removeHandler(records)


@contextmanager
def watched(url: str) -> Iterator[list[float]]:
    """The seconds that `/health` took, each time, meanwhile."""
    over, taken = threading.Event(), list[float]()

    def watch() -> None:
        with httpx2.Client(base_url=url, timeout=30) as client:
            while not over.wait(0.1):
                began = time.monotonic()
                assert client.get("/health").status_code == 200
                taken.append(time.monotonic() - began)

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield taken
        finally:
            over.set()
            watching.result(60)


def disguised(attack: Attack) -> Attack:
    """With host functions that there are."""
    return replace(attack, source=attack.source.replace("echo(", "get_state(").replace("fail(", "call_tool("))


def attacked(http: httpx2.Client, attack: Attack, path: str) -> tuple[str, httpx2.Response]:
    room = Room.made(http)
    answer = room.register(attack.source, "attack", {"path": {"type": "string"}})
    if answer.status_code == 201:
        answer = room.execute("attack", path=path)
    told = json.dumps(room.events(), ensure_ascii=False)
    room.ask("DELETE", "").raise_for_status()
    return told, answer


def test_no_hostile_tool_succeeds_and_nothing_leaks(coded: Coded, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text(CANARY)
    with logged() as records, coded.client(user="ann", scopes=["code"]) as http, watched(coded.url) as taken:
        with ThreadPoolExecutor(AT_A_TIME) as threads, limited(coded, **TIMES):
            asked = [threads.submit(attacked, http, disguised(attack), str(kept)) for attack in ATTACKS]
            ended = [one.result() for one in asked]
        room = Room.made(http)
        room.register("def honest(n): return n + 1", "honest", {"n": {"type": "integer"}})
        assert room.execute("honest", n=1).json()["result"] == 2
    secrets = (CANARY, API_KEY_SECRET, coded.tokens[0].partition(".")[2], str(coded.settings.data_dir))
    wrong: list[Any] = []
    for attack, (events, answer) in zip(ATTACKS, ended, strict=True):
        if answer.status_code not in (200, 422) or any(one in answer.text + events for one in secrets):
            wrong.append((attack.name, answer.status_code, answer.text[:500]))
        limit = answer.json().get("error", {}).get("details", {}).get("limit")
        if attack.limit is not None and "echo" not in attack.source and limit not in (*attack.limits, None):
            wrong.append((attack.name, attack.limit, limit))
        if attack.limit is not None and answer.status_code == 200:
            wrong.append((attack.name, "succeeded", answer.text[:500]))
    assert wrong == []
    assert len(ATTACKS) >= 40
    assert kept.read_text() == CANARY
    assert not [text for text in records.texts for one in secrets[:3] if one in text]
    assert len(taken) > 10
    assert percentile(taken, 95) < within(1.0, 4.0), taken


def test_what_no_parser_may_be_hurt_by_is_refused(coded: Coded) -> None:
    with coded.client(user="ann", scopes=["code"]) as http, watched(coded.url):
        room = Room.made(http)
        for name, source in UNPARSABLE.items():
            answer = room.ask(
                "POST",
                "/handlers/events",
                content=json.dumps({"event_type": "One", "handler_function": source}),
                headers={"content-type": "application/json"},
            )
            refused = ((422, "VALIDATION_ERROR"), (413, "PAYLOAD_TOO_LARGE"), (400, "VALIDATION_ERROR"))
            assert error(answer) in refused, (name, answer.text)
        assert room.handle("event", "One", "def handle(event): ...").status_code == 201
