"""compose.yaml: it is what Compose understands, asks for its passwords and starts the server last."""

from __future__ import annotations

import re
from pathlib import Path

import compose_spec
import pytest
from pydantic import AliasChoices

from innkeeper.config import Settings, load_settings
from tests.support.composing import PASSWORDS, TEXT, filled_in, services
from tests.support.images import stages


def test_it_keeps_to_the_specification_of_compose() -> None:
    text = filled_in(PASSWORDS)
    compose_spec.PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="restrat"):
        compose_spec.PyCompose.from_yaml(text.replace("restart:", "restrat:"))


@pytest.mark.parametrize("missing", sorted(PASSWORDS))
def test_it_does_not_start_without_a_password_and_says_how_to_make_one(missing: str) -> None:
    with pytest.raises(KeyError, match="openssl rand -hex 24"):
        filled_in({name: value for name, value in PASSWORDS.items() if name != missing})


def test_it_holds_no_secret_itself() -> None:
    for line in TEXT.splitlines():
        if re.match(r" .*(PASSWORD|AUTH|SECRET|_URL)\w*: ", line) and "FORCE_AUTH" not in line:
            assert "${" in line, line


def test_the_server_waits_for_a_healthy_database_and_a_healthy_redis() -> None:
    found = services()
    healthy = {"condition": "service_healthy"}
    assert found["server"]["depends_on"] == {"db": healthy, "redis": healthy}
    assert all("healthcheck" in found[name] for name in ("db", "redis"))
    assert re.fullmatch(r"postgres:(1[5-9]|[2-9]\d)", found["db"]["image"])
    told = found["server"]["environment"]
    assert told["DATABASE_URL"] == f"postgresql://innkeeper:{'p' * 48}@db:5432/innkeeper"
    assert told["REDIS_URL"] == f"redis://:{'r' * 48}@redis:6379/0"
    assert found["db"]["environment"]["POSTGRES_PASSWORD"] == "p" * 48
    assert found["redis"]["environment"]["REDISCLI_AUTH"] == "r" * 48


def test_a_redis_that_keeps_nothing_keeps_no_tokens() -> None:
    found = services()
    assert "--appendonly no" in found["redis"]["command"][-1]
    assert not {"REDIS_HOST", "TOKEN_STORE"} & found["server"]["environment"].keys()


def test_only_this_machine_reaches_it_and_nobody_without_a_token() -> None:
    found = services()
    assert found["server"]["ports"] == ["127.0.0.1:8000:8000"]
    assert found["server"]["environment"]["FORCE_AUTH"] == "true"
    assert not any("ports" in found[name] for name in ("db", "redis"))


def test_every_variable_that_the_image_and_compose_set_is_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = stages()[-1].environment() | services()["server"]["environment"]
    for name in ("PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        told.pop(name)
    assert set(told) <= variables()
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.doubts == ()
    assert (settings.host, settings.workers, settings.force_auth) == ("0.0.0.0", 2, True)
    assert settings.api_key_secret is None


def variables() -> set[str]:
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    return {str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(alias) for alias in aliases}
