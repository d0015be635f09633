"""`innkeeper config`, and what `innkeeper serve` makes of a configuration, as processes."""

from __future__ import annotations

import json
import sys

import httpx2

from tests.cli.conftest import ECHO, Folder
from tests.config.test_settings import DOCUMENTED
from tests.support.servers import ServerFactory, clean_environment
from tests.support.terminals import terminal

SECRETS = """
server:
  port: 8100
database:
  url: postgresql://ann:hunter/2@db.example:5432/inn?sslmode=require&password=hunter3
redis:
  url: redis://:hunter4@[::1]:6379/0
security:
  api_key_secret: hunter5://hunter7/hunter8
webhooks:
  secret: hunter6
"""


def test_every_value_is_shown_with_where_it_comes_from_and_no_secret(folder: Folder) -> None:
    folder.write("config/api.yaml", SECRETS)
    folder.write("other.env", "LOG_LEVEL=debug\n")
    words = ("config", "--config", "config/api.yaml", "--env-file", "other.env")
    result = folder.run(*words, env={"API_HOST": "::1"})
    assert (result.code, result.error) == (0, "")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in result.output.splitlines()}
    assert lines["SETTING"] == "VALUE FROM"
    shown = {
        "server.host": "::1 environment API_HOST",
        "server.port": "8100 config/api.yaml:3 server.port",
        "server.workers": "1 default",
        "logging.level": "DEBUG other.env:1 LOG_LEVEL",
        "logging.file": "- default",
        "database.url": "postgresql://***@db.example:5432/inn?… config/api.yaml:5 database.url",
        "redis.url": "redis://***@[::1]:6379/0 config/api.yaml:7 redis.url",
        "security.api_key_secret": "set config/api.yaml:9 security.api_key_secret",
        "webhooks.secret": "set config/api.yaml:11 webhooks.secret",
    }
    assert {key: lines[key] for key in shown} == shown
    told = folder.run(*words, "--json", env={"API_HOST": "::1"}).output
    assert "hunter" not in result.output + told
    settings = json.loads(told)
    assert settings["port"] == {"value": 8100, "key": "server.port", "from": "config/api.yaml:3 server.port"}
    assert settings["cors_origins"]["value"] == []
    assert len(settings) == len(lines) - 1


def test_a_person_sees_a_table(folder: Folder) -> None:
    environment = clean_environment(folder.path / "data", {"COLUMNS": "200", "API_PORT": "8123"})
    with terminal([sys.executable, "-m", "innkeeper", "config"], folder=folder.path, environment=environment) as screen:
        screen.wait_for("SETTING")
        assert "│ 8123" in screen.wait_for("environment API_PORT")
        assert screen.wait() == 0


def test_what_is_wrong_is_an_error_and_what_is_doubtful_a_warning(folder: Folder) -> None:
    folder.write("api.yaml", "server:\n  workers: 0\n")
    said = folder.error("config", "--config", "api.yaml")
    assert said == "api.yaml:2: server.workers is wrong: Input should be greater than or equal to 1."
    folder.write(".env", "API_PROT=1\n")
    result = folder.run("config")
    assert result.code == 0
    assert result.error == "Warning: .env:1: API_PROT is no setting and is ignored. Did you mean API_PORT?\n"


def test_the_documented_file_is_served_as_it_stands(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    innkeeper_server.write("config/api.yaml", DOCUMENTED)
    server = innkeeper_server("mine.py", "--config", "config/api.yaml")
    folder = innkeeper_server.folder
    assert (folder / "llmgine.db").is_file()
    log = (folder / "logs" / "api.log").read_text()
    assert "WARNING workers is 4, but one process serves: SQLite lets one process serve; PostgreSQL" in log
    assert f"listens at {server.url} on every address of this machine" in server.log
    page = {"origin": "http://localhost:3000", "host": f"localhost:{server.port}"}
    answer = httpx2.get(f"{server.url}/live", headers=page, trust_env=False)
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert server.terminate() == 0


def test_a_server_warns_of_doubtful_names_once_when_it_starts(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", "from innkeeper import create_app\napp = create_app()\n")
    server = innkeeper_server("mine.py", env={"INNKEEPER_WORKERS": "2"})
    warnings = [line for line in server.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1, server.log
    assert warnings[0].endswith(
        "The environment variable INNKEEPER_WORKERS is no setting and is ignored. Did you mean API_WORKERS?"
    )
