"""Settings: every source is heard, the higher one wins, and what is wrong is told with the place where it stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from innkeeper.config import Settings, load_settings
from innkeeper.core.errors import SetupError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without any source, in an environment that has none either."""
    monkeypatch.chdir(tmp_path)
    for name in ("API_HOST", "API_PORT", "API_WORKERS", "DATABASE_URL", "LOG_LEVEL", "LOG_FILE", "CORS_ORIGINS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def from_yaml(folder: Path, text: str) -> Settings:
    (folder / "api.yaml").write_text(text)
    return load_settings(config=Path("api.yaml"))


def error(folder: Path, text: str) -> str:
    with pytest.raises(SetupError) as caught:
        from_yaml(folder, text)
    assert "\n" not in caught.value.message
    return caught.value.message


DOCUMENTED = """
server:
  host: 0.0.0.0
  port: 8000
  workers: 4

database:
  url: sqlite:///./llmgine.db

logging:
  level: INFO
  file: logs/api.log

security:
  api_key_secret: your-secret-key
  cors_origins:
    - http://localhost:3000
    - https://yourdomain.com

observability:
  enable_metrics: true
  enable_tracing: true
"""
VARIABLES = """
# Server Configuration
API_HOST=0.0.0.0
API_PORT=8000
API_WORKERS=4

# Database
DATABASE_URL=sqlite:///./llmgine.db

# Logging
LOG_LEVEL=INFO
LOG_FILE=logs/api.log

# Security
API_KEY_SECRET=your-secret-key
CORS_ORIGINS=http://localhost:3000,https://yourdomain.com

# Observability
ENABLE_METRICS=true
ENABLE_TRACING=true
"""


def test_the_documented_file_and_the_documented_variables_say_the_same(folder: Path) -> None:
    file = from_yaml(folder, DOCUMENTED)
    (folder / ".env").write_text(VARIABLES)
    variables = load_settings()
    assert file.model_dump() == variables.model_dump()
    assert (file.host, file.port, file.workers, file.log_level, file.log_file) == (
        "0.0.0.0",
        8000,
        4,
        "INFO",
        Path("logs/api.log"),
    )
    assert file.database_url is not None and file.database_url.get_secret_value() == "sqlite:///./llmgine.db"
    assert file.api_key_secret is not None and file.api_key_secret.get_secret_value() == "your-secret-key"
    assert file.cors_origins == ("http://localhost:3000", "https://yourdomain.com")
    assert (file.enable_metrics, file.enable_tracing) == (True, True)


def test_each_source_wins_over_those_below_it_and_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "api.yaml").write_text("server:\n  host: h1\n  port: 1\n  workers: 1\nlogging:\n  level: debug\n")
    (folder / ".env").write_text("\nAPI_HOST=h2\nAPI_PORT=2\nexport API_WORKERS=2\n")
    monkeypatch.setenv("API_HOST", "h3")
    monkeypatch.setenv("API_PORT", "3")
    settings = load_settings({"host": "h4"}, config=Path("api.yaml"))
    told = {name: (getattr(settings, name), str(settings.origin(name))) for name in ("host", "port", "workers")}
    assert told == {
        "host": ("h4", "code"),
        "port": (3, "environment API_PORT"),
        "workers": (2, ".env:4 API_WORKERS"),
    }
    assert (settings.log_level, str(settings.origin("log_level"))) == ("DEBUG", "api.yaml:6 logging.level")
    assert (settings.debug, str(settings.origin("debug"))) == (False, "default")


def test_an_empty_variable_or_key_says_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_PORT", "")
    (folder / ".env").write_text("REDIS_URL=\nAPI_WORKERS\n")
    settings = from_yaml(folder, "server:\n  port: 81\n  host:\nlogging:\n  file: ''\nredis:\n")
    assert (settings.port, settings.host, settings.redis_url, settings.workers) == (81, "127.0.0.1", None, 1)
    assert settings.log_file is None


def test_the_name_of_a_variable_may_be_in_small_letters_and_the_documented_one_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("api_port", "81")
    assert load_settings().port == 81
    monkeypatch.setenv("API_PORT", "82")
    assert load_settings().port == 82


def test_scalars_in_yaml_are_text_where_text_is_wanted(folder: Path) -> None:
    settings = from_yaml(
        folder,
        "sandbox:\n  code_execution: off\nsecurity:\n  api_key_secret: 012345\n  force_auth: on\n"
        "server:\n  allowed_hosts: a.example, b.example\n",
    )
    assert settings.code_execution == "off"
    assert settings.api_key_secret is not None and settings.api_key_secret.get_secret_value() == "012345"
    assert settings.force_auth is True
    assert settings.allowed_hosts == ("a.example", "b.example")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sever:\n  port: 1\n", "api.yaml:1: unknown section 'sever'. Did you mean 'server'?"),
        ("\nserver:\n  host: h\n  prot: 1\n", "api.yaml:4: unknown key server.prot. Did you mean 'port'?"),
        ("server: 8000\n", "api.yaml:1: here belong keys, such as server.targets."),
        ("server:\n  - port\n", "api.yaml:1: here belong keys, such as server.targets."),
        ("- server\n", "api.yaml:1: here belong keys, such as server, database and logging."),
        ("server:\n  port: 1\n  port: 2\n", "api.yaml:3: port is here twice; it stands in line 2, too."),
        ("server:\n  port: many\n", "api.yaml:2: server.port is wrong: Input should be a valid integer"),
        ("server:\n  port: true\n", "api.yaml:2: server.port is wrong: Input should be a valid integer"),
        ("server:\n  port: 65536\n", "api.yaml:2: server.port is wrong: Input should be less than or equal to 65535."),
        ("server:\n  port: [1]\n", "api.yaml:2: server.port is wrong: Input should be a valid integer."),
        ("database:\n  url: {a: b}\n", "api.yaml:2: database.url is wrong: Input should be a valid string."),
        ("server:\n  allowed_modes: [chatt]\n", "api.yaml:2: server.allowed_modes is wrong: chatt is none of chat, ag"),
        ("server: {port: 1\n", "api.yaml:2: this is not valid YAML: expected ',' or '}', but got '<stream end>'."),
        ("a: \x01\n", "The configuration file api.yaml is not valid YAML: unacceptable character"),
        ("--- {}\n--- {}\n", "api.yaml:2: this is not valid YAML: but found another document."),
        ("server:\n  targets: &all [*all]\n", "api.yaml:2: server.targets contains itself."),
        ("[" * 5000, "The configuration file api.yaml is not valid YAML: maximum recursion depth"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line_and_its_key(folder: Path, text: str, said: str) -> None:
    assert error(folder, text).startswith(said)


def test_a_file_that_is_no_text_is_an_error(folder: Path) -> None:
    for name, config in ((".env", None), ("api.yaml", Path("api.yaml"))):
        (folder / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SetupError, match=rf"{name} is not text in UTF-8\."):
            load_settings(config=config)
        (folder / name).unlink()


def test_a_wrong_value_is_told_with_its_source_and_never_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".env").write_text("# first\nAPI_WORKERS=s3cret\n")
    with pytest.raises(SetupError, match=r"^\.env:2: API_WORKERS is wrong: Input should be a valid integer") as caught:
        load_settings()
    assert "s3cret" not in caught.value.message
    monkeypatch.setenv("API_WORKERS", "65")
    with pytest.raises(SetupError, match=r"^The environment variable API_WORKERS is wrong: .* to 64\.$"):
        load_settings()
    with pytest.raises(SetupError, match=r"^The setting workers is wrong: .* to 1\.$"):
        load_settings({"workers": 0})
    with pytest.raises(SetupError, match=r"^There is no setting 'worker'\. Did you mean 'workers'\?$"):
        load_settings({"worker": 1})


def test_names_that_are_nearly_right_are_doubted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNKEEPER_PORT", "81")
    monkeypatch.setenv("INNKEEPER_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("API_PROT", "anybody's")
    (folder / ".env").write_text("OPENAI_API_KEY=sk\nAPI_PROT=81\nINNKEEPER_DATADIR=x\nMODE=1\n= nothing\n")
    assert load_settings().doubts == (
        "The environment variable INNKEEPER_PORT is no setting and is ignored. Did you mean API_PORT?",
        ".env:5: this line is not NAME=VALUE and is ignored.",
        ".env:2: API_PROT is no setting and is ignored. Did you mean API_PORT?",
        ".env:3: INNKEEPER_DATADIR is no setting and is ignored. Did you mean INNKEEPER_DATA_DIR?",
    )


def test_what_kubernetes_says_of_a_service_called_innkeeper_is_not_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "INNKEEPER_SERVICE_HOST": "10.0.0.1",
        "INNKEEPER_SERVICE_PORT_HTTP": "80",
        "INNKEEPER_PORT": "tcp://10.0.0.1:80",
        "INNKEEPER_PORT_80_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_settings().doubts == ()


def test_variables_in_an_env_file_are_filled_in_and_kept_from_the_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "inn")
    (folder / ".env").write_text("PLACE=db\nDATABASE_URL='sqlite:///${PLACE}/${WHO}.db'\nOPENAI_API_KEY=sk\n")
    settings = load_settings()
    assert settings.database_url is not None and settings.database_url.get_secret_value() == "sqlite:///db/inn.db"
    assert settings.environment()["OPENAI_API_KEY"] == "sk"
    assert "PLACE" not in os.environ
