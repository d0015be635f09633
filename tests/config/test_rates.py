"""Settings of rates: how they may be written, and what is told of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.config import load_settings
from innkeeper.core.errors import SetupError
from innkeeper.core.rates import Rate, Rule
from innkeeper.wiring.openings import rate_rules

GROUPS = "chat, agent, logs, health, api, platform, console"
HOW = "it must be a number from 1, a slash and one of second, minute, hour, day, or off: 100/minute"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without any source."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def from_yaml(folder: Path, text: str) -> SetupError:
    (folder / "api.yaml").write_text(text)
    with pytest.raises(SetupError) as caught:
        load_settings(config=Path("api.yaml"))
    return caught.value


def test_the_documented_rates_hold_where_nothing_is_said() -> None:
    settings = load_settings()
    rules = rate_rules(settings)
    assert (rules.anonymous, rules.user) == (Rate(100, 60), Rate(1000, 60))
    assert (rules.websocket, rules.failed_auth) == (Rate(10, 60), Rate(10, 60))
    assert (settings.max_runs_per_caller, settings.max_queued_runs) == (20, 1000)


def test_the_environment_may_say_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATE_LIMIT_ANONYMOUS", "off")
    monkeypatch.setenv("RATE_LIMIT_USER", "5/second")
    monkeypatch.setenv("RATE_LIMIT_WEBSOCKET", "6/hour")
    monkeypatch.setenv("RATE_LIMIT_FAILED_AUTH", "7/day")
    monkeypatch.setenv("MAX_RUNS_PER_CALLER", "off")
    monkeypatch.setenv("RATE_LIMITS", "read/chat=100/minute, admin=off, user/api=50/second")
    settings = load_settings()
    rules = rate_rules(settings)
    assert (rules.anonymous, rules.user) == (None, Rate(5, 1))
    assert (rules.websocket, rules.failed_auth) == (Rate(6, 3600), Rate(7, 86_400))
    assert rules.special == {"read/chat": Rate(100, 60), "admin": None, "user/api": Rate(50, 1)}
    assert settings.max_runs_per_caller is None


def test_a_configuration_file_has_a_mapping_of_them(folder: Path) -> None:
    (folder / "api.yaml").write_text(
        "security:\n  rate_limit_user: 5/second\n  max_runs_per_caller: off\n"
        "  rate_limits:\n    read/chat: 100/minute\n    admin: off\n"
    )
    settings = load_settings(config=Path("api.yaml"))
    assert settings.rate_limits == ("read/chat=100/minute", "admin=off")
    assert (settings.rate_limit_user, settings.max_runs_per_caller) == ("5/second", None)


def test_the_most_special_rate_holds() -> None:
    rules = rate_rules(load_settings({"rate_limits": ["read=1/minute", "chat=2/minute", "read/chat=3/minute"]}))
    assert rules.rule("read", "chat") == Rule("read/chat", Rate(3, 60))
    assert rules.rule("user", "chat") == Rule("chat", Rate(2, 60))
    assert rules.rule("anonymous", "chat") == Rule("anonymous/chat", Rate(2, 60))
    assert rules.rule("read", "api") == Rule("read", Rate(1, 60))
    assert rules.rule("admin", "api") == Rule("user", Rate(1000, 60))
    assert rules.rule("anonymous", "") == Rule("anonymous", Rate(100, 60))


@pytest.mark.parametrize("text", ["100", "0/minute", "-1/minute", "100/month", "1e3/minute", "١/minute", "none"])
def test_what_is_no_rate_is_refused_and_the_remedy_told(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RATE_LIMIT_USER", text)
    with pytest.raises(SetupError) as caught:
        load_settings()
    assert caught.value.message == f"The environment variable RATE_LIMIT_USER is wrong: {HOW}."


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("reed=1/minute", f"reed: roles are anonymous, read, user, admin; groups are {GROUPS}"),
        ("chat/read=1/minute", f"chat/read: roles are anonymous, read, user, admin; groups are {GROUPS}"),
        ("read/chat=often", f"read/chat: {HOW}"),
        ("read", "read: it must be a role, a group or role/group, an equals sign and a rate"),
        ("read=1/minute read=2/minute", "read: it is there twice"),
    ],
)
def test_what_is_wrong_with_a_special_rate_is_told(monkeypatch: pytest.MonkeyPatch, entry: str, told: str) -> None:
    monkeypatch.setenv("RATE_LIMITS", entry)
    with pytest.raises(SetupError) as caught:
        load_settings()
    assert caught.value.message == f"The environment variable RATE_LIMITS is wrong: {told}."


def test_a_wrong_rate_in_a_configuration_file_is_told_with_its_place(folder: Path) -> None:
    text = "security:\n  auth_enabled: true\n  rate_limits:\n    read/chat: often\n"
    assert from_yaml(folder, text).message == f"api.yaml:3: security.rate_limits is wrong: read/chat: {HOW}."
    text = "security:\n  rate_limit_anonymous: 100\n"
    assert from_yaml(folder, text).message == f"api.yaml:2: security.rate_limit_anonymous is wrong: {HOW}."
