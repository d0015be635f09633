"""Health: what strangers, callers and orchestrators are told; and the modes."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from innkeeper.core.errors import SetupError
from innkeeper.version import __version__
from tests.support.inns import running_inn

STRANGER = {"x-forwarded-for": "10.0.0.1"}


def test_liveness_and_readiness_answer_anyone(http: httpx2.Client) -> None:
    for path, status in (("/live", "alive"), ("/ready", "ready")):
        for headers in ({}, STRANGER):
            answer = http.get(path, headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"status": status})


def test_health_tells_callers_more_than_strangers(http: httpx2.Client) -> None:
    assert http.get("/health", headers=STRANGER).json() == {"status": "healthy"}
    told = http.get("/health").json()
    assert told.pop("uptime") >= 0
    assert told == {"status": "healthy", "agent": "echo", "agents": 7, "version": __version__}


def test_status_is_for_callers_only(http: httpx2.Client) -> None:
    assert http.get("/status", headers=STRANGER).status_code == 401
    told = http.get("/status").json()
    assert told.pop("uptime") >= 0
    assert told == {
        "status": "running",
        "version": __version__,
        "agents": ["echo", "conducted", "busy", "failing", "breaking", "silent", "flood"],
        "agent": "echo",
        "active_requests": 0,
        "store": "SQLite",
    }
    assert "/" not in str(told["store"]), "no path is told"


CHAT = ["/agents", "/sessions", "/runs", "/v1/models", "/echo"]
HEALTH = ["/health", "/status"]


@pytest.mark.parametrize(
    ("modes", "served", "absent"),
    [
        ("chat", CHAT, HEALTH),
        ("health", HEALTH, CHAT),
        ("chat,health", CHAT + HEALTH, []),
        ("chat health", CHAT + HEALTH, []),
        ("logs", [], CHAT + HEALTH),
    ],
)
def test_only_allowed_modes_are_served(tmp_path: Path, modes: str, served: list[str], absent: list[str]) -> None:
    with running_inn(tmp_path, allowed_modes=modes) as inn, httpx2.Client(base_url=inn.url) as http:
        assert {path: http.get(path).status_code for path in served} == dict.fromkeys(served, 200)
        assert {path: http.get(path).status_code for path in absent} == dict.fromkeys(absent, 404)
        assert (http.get("/live").status_code, http.get("/ready").status_code) == (200, 200)


def test_unknown_mode_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="chatt is none of chat, agent"), running_inn(tmp_path, allowed_modes="chatt"):
        pass
