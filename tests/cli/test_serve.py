"""`innkeeper serve`, as a process: every option is honoured, and every mistake is told before anything is served."""

from __future__ import annotations

import errno
import re
import socket
import sys

import httpx2
import pytest

from tests.cli.conftest import ECHO, Folder
from tests.support.openai_upstream import running_upstream
from tests.support.servers import ServerFactory, clean_environment
from tests.support.services import free_port
from tests.support.terminals import CTRL_C, terminal

INNKEEPER = [sys.executable, "-m", "innkeeper"]
DECLARED = "model: openai-chat:gpt-4o-mini\ntemperature: 0.9\nmax_tokens: 9\n"


def say(url: str, text: str = "Hello", **more: str) -> httpx2.Response:
    return httpx2.post(f"{url}/chat", json={"input": text, **more}, timeout=20, trust_env=False)


def status_of(url: str, path: str) -> int:
    return httpx2.get(f"{url}{path}", timeout=20, trust_env=False).status_code


def test_the_screen_says_where_it_listens_whom_it_serves_what_it_keeps_and_how_to_try_it(
    innkeeper_server: ServerFactory,
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    innkeeper_server.write("agents/brief.yaml", "model: test\n")
    server = innkeeper_server.start([*INNKEEPER, "serve", "mine.py", "brief", "--port", "{port}"])
    screen = re.sub(r"ready in \d\.\d s", "ready in … s", server.log)
    assert screen == (
        f"Innkeeper 0.1.0 listens at {server.url} (ready in … s)\n"
        "\n"
        "  Agents  echo (default)  Python\n"
        "          brief           test\n"
        f"  Store   SQLite, {innkeeper_server.folder}/data/innkeeper.db\n"
        "  Access  programs on this machine, without a token\n"
        f"  Try     innkeeper chat --url {server.url}\n"
        f"          curl {server.url}/chat -H 'content-type: application/json' -d '{{\"input\": \"Hello!\"}}'\n"
        f"          {server.url}/docs\n"
        "  Stop    Ctrl-C\n"
        "\n"
    )
    assert say(server.url).json()["output"] == "You said: Hello"
    assert say(server.url, agent_name="brief").json()["output"] == "You said: Hello"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ((), {"temperature": 0.9, "max_completion_tokens": 9}),
        (("--temperature", "0.3", "--max-tokens", "7"), {"temperature": 0.3, "max_completion_tokens": 7}),
        (("-t", "0", "-m", "8"), {"temperature": 0.0, "max_completion_tokens": 8}),
    ],
)
def test_temperature_and_max_tokens_override_the_agents_own(
    innkeeper_server: ServerFactory, options: tuple[str, ...], sent: dict[str, float]
) -> None:
    innkeeper_server.write("agents/brief.yaml", DECLARED)
    with running_upstream() as upstream:
        env = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": upstream.url}
        server = innkeeper_server("brief", *options, env=env)
        assert say(server.url).json()["output"] == "You said: Hello"
        body = upstream.requests[0].body
    assert {name: body.get(name) for name in sent} == sent


@pytest.mark.parametrize(
    "modes",
    [
        ("--allowed-modes", "chat", "health"),
        ("--allowed-modes", "chat health"),
        ("--allowed-modes", "chat,health"),
        ("--allowed-modes=chat", "--allowed-modes", "health"),
    ],
)
def test_allowed_modes_takes_names_in_every_documented_form(
    innkeeper_server: ServerFactory, modes: tuple[str, ...]
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    command = [*INNKEEPER, "serve", "mine.py", "--port", "{port}", *modes]
    server = innkeeper_server.start(command)
    assert (status_of(server.url, "/agents"), status_of(server.url, "/status")) == (200, 200)


def test_a_mode_that_is_not_allowed_is_not_served_and_a_target_may_follow_the_modes(
    innkeeper_server: ServerFactory,
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    command = [*INNKEEPER, "serve", "--port", "{port}", "--allowed-modes", "health", "mine.py"]
    server = innkeeper_server.start(command)
    assert [status_of(server.url, path) for path in ("/live", "/status", "/agents")] == [200, 200, 404]
    assert f"curl {server.url}/live" in server.log


def test_host_takes_an_address_and_the_screen_says_who_needs_a_token(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", "--host", "0.0.0.0")
    assert f"listens at {server.url} on every address of this machine" in server.log
    assert "everyone else needs a token" in server.log
    assert say(server.url).status_code == 200


def test_port_zero_takes_a_free_port_and_says_which(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    first = innkeeper_server("mine.py")
    second = innkeeper_server.launch("mine.py", "--port", "0", "--data-dir", "elsewhere")
    url = second.wait_for_log(r"listens at (http://127\.0\.0\.1:\d+)")
    assert url != first.url
    assert say(url).status_code == 200


def test_data_dir_keeps_the_state_there(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", "--data-dir", "kept here")
    assert say(server.url).status_code == 200
    assert (innkeeper_server.folder / "kept here" / "innkeeper.db").is_file()
    assert not (innkeeper_server.folder / "data").exists()


FAILING = """
from innkeeper import register_agent

def broken(messages):
    raise ValueError("the secret is open-sesame")

register_agent("broken", broken)
"""


def test_debug_shows_clients_what_an_agent_raised(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", FAILING)
    plain = innkeeper_server("mine.py")
    assert "open-sesame" not in say(plain.url).text
    assert plain.terminate() == 0
    assert "open-sesame" in say(innkeeper_server("mine.py", "--debug").url).text


def test_the_log_is_one_line_an_entry_at_the_level_asked_for(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", "import logging\nlogging.getLogger('mine').info('in\\nfo')\n" + ECHO)
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    in\\nfo$", innkeeper_server("mine.py").log, re.M)
    quiet = innkeeper_server("mine.py", "--log-level", "warning", "--data-dir", "elsewhere")
    assert "INFO" not in quiet.log


def test_a_log_file_takes_the_log(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", "import logging\nlogging.getLogger('mine').warning('noted')\n" + ECHO)
    server = innkeeper_server("mine.py", env={"LOG_FILE": "server.txt"})
    assert "noted" not in server.log
    assert (innkeeper_server.folder / "server.txt").read_text().endswith(" WARNING noted\n")


def test_flags_win_over_the_environment_over_env_file_over_the_configuration(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", FAILING)
    innkeeper_server.write("config.yaml", "server:\n  allowed_modes: [health]\n  debug: true\n")
    innkeeper_server.write(".env", "ALLOWED_MODES=console\n")
    innkeeper_server.write("other.env", "INNKEEPER_DEBUG=false\nINNKEEPER_DATA_DIR=unused\n")
    server = innkeeper_server(
        "mine.py", "--config", "config.yaml", "--env-file", "other.env", "--allowed-modes", "chat"
    )
    assert [status_of(server.url, path) for path in ("/agents", "/status")] == [200, 404]
    assert "open-sesame" not in say(server.url).text
    assert (innkeeper_server.folder / "data" / "innkeeper.db").is_file()


def test_an_env_file_gives_keys_to_models_and_not_to_the_process(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("agents/brief.yaml", DECLARED)
    innkeeper_server.write("see.py", "import os\ndef see(messages):\n    return str('OPENAI_API_KEY' in os.environ)\n")
    with running_upstream() as upstream:
        innkeeper_server.write("keys.env", f"OPENAI_API_KEY=sk-from-file\nOPENAI_BASE_URL={upstream.url}\n")
        command = [*INNKEEPER, "serve", "brief", "see:see", "--env-file", "keys.env", "-p", "{port}"]
        server = innkeeper_server.start(command)
        assert say(server.url).json()["output"] == "You said: Hello"
        assert upstream.requests[0].headers["authorization"] == "Bearer sk-from-file"
    assert say(server.url, agent_name="see").json()["output"] == "False"


APP = """
from innkeeper import Server, create_app
app = {made}
import innkeeper
if not len(app.state.innkeeper.agents):
    innkeeper.register_agent("broken", lambda messages: 1 / 0)
@app.get("/own")
async def own():
    return "own"
"""


def test_options_reach_an_app_that_the_file_makes_itself(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", APP.format(made="create_app()"))
    server = innkeeper_server("mine.py", "--allowed-modes", "chat", "--debug", "--data-dir", "elsewhere")
    assert [status_of(server.url, path) for path in ("/own", "/agents", "/status")] == [200, 200, 404]
    assert "division by zero" in say(server.url).text
    assert (innkeeper_server.folder / "elsewhere" / "innkeeper.db").is_file()


def test_more_than_one_worker_serves_with_one_and_says_why(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", "--workers", "3")
    warnings = [line for line in server.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        "workers is 3, but one process serves: SQLite lets one process serve;"
        " PostgreSQL (DATABASE_URL=postgresql://…) is the way to several."
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "config.yaml"), "config.yaml:2: unknown key server.prot. Did you mean 'port'?"),
        (
            ("--config", "nowhere.yaml"),
            "The configuration file nowhere.yaml cannot be read: No such file or directory.",
        ),
        (("--env-file", "nowhere.env"), "The file nowhere.env that --env-file names does not exist."),
        (
            ("--allowed-modes", "chatt"),
            "--allowed-modes is wrong: chatt is none of chat, agent, logs, health, api, platform, console.",
        ),
        (("--log-level", "loud"), "--log-level is wrong: Input should be 'DEBUG'"),
        (("--host", "no.such.host.invalid"), "The address 'no.such.host.invalid' is unknown"),
        (("--host", "192.0.2.1"), "192.0.2.1 is no address of this machine. Choose another with --host."),
    ],
)
def test_a_wrong_setting_is_told_with_its_source(folder: Folder, words: tuple[str, ...], said: str) -> None:
    folder.write("mine.py", ECHO)
    folder.write("config.yaml", "server:\n  prot: 8123\n")
    assert folder.error("serve", "mine.py", *words).startswith(said)


def test_wrong_usage_exits_with_2_and_names_what_is_near(folder: Folder) -> None:
    result = folder.run("serve", "--prot", "1")
    assert (result.code, result.output) == (2, "")
    assert "No such option: --prot" in result.error and "--port" in result.error


def test_a_port_in_use_is_told_with_who_holds_it_before_anything_is_loaded(folder: Folder) -> None:
    folder.write("mine.py", "raise RuntimeError('this was loaded')\n")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        message = folder.error("serve", "mine.py", "--port", str(port))
    assert re.fullmatch(
        rf"Port {port} is in use( by process \d+ \(.+\))?\. Stop that, or choose another port with --port\.", message
    )


def test_the_port_refuses_until_there_is_somebody_to_answer(innkeeper_server: ServerFactory) -> None:
    probing = "import socket, sys\nprint(socket.socket().connect_ex(('127.0.0.1', int(sys.argv[-1]))))\n"
    innkeeper_server.write("mine.py", probing + ECHO)
    server = innkeeper_server("mine.py")
    assert server.log.startswith(f"{errno.ECONNREFUSED}\n")


def test_a_port_that_is_taken_while_the_target_is_loaded_is_told_in_one_line(folder: Folder) -> None:
    port = free_port()
    taking = f"import socket\nholder = socket.create_server(('127.0.0.1', {port}))\n"
    folder.write("mine.py", taking + ECHO)
    message = folder.error("serve", "mine.py", "--port", str(port))
    assert message.startswith(f"Port {port} is in use")


def test_a_data_folder_that_is_held_is_told_in_one_line(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    message = Folder(innkeeper_server.folder).error("serve", "mine.py", "--port", "0")
    assert str(server.pid) in message


def test_a_folder_that_cannot_be_made_is_told_in_one_line(folder: Folder) -> None:
    folder.write("mine.py", ECHO)
    folder.write("file", "")
    message = folder.error("serve", "mine.py", "--port", "0", "--data-dir", "file/below")
    assert message.startswith(f"The data folder {folder.path}/file/below cannot be made")


def test_a_lifespan_that_fails_is_logged_with_its_traceback(folder: Folder) -> None:
    folder.write(
        "mine.py",
        """
from contextlib import asynccontextmanager
from innkeeper import create_app

@asynccontextmanager
async def lifespan(app):
    raise LookupError("nothing there")
    yield

app = create_app(lifespan=lifespan)
""",
    )
    result = folder.run("serve", "mine.py", "--port", "0")
    assert result.code == 1
    assert "The app did not start." in result.error and "LookupError: nothing there" in result.error


def test_the_asgi_string_serves_the_targets_of_the_environment(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server.uvicorn("innkeeper.main:app", env={"INNKEEPER_TARGETS": "mine.py"})
    assert say(server.url).json()["output"] == "You said: Hello"


def test_the_main_module_serves_as_the_command_does(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("agents/my_agent.yaml", "model: test\n")
    server = innkeeper_server.start([sys.executable, "-m", "innkeeper.main", "my_agent", "--port", "{port}"])
    assert say(server.url).json()["agent_name"] == "my_agent"


def test_responses_do_not_name_the_server_software(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    response = say(innkeeper_server("mine.py").url)
    assert "server" not in response.headers and "date" in response.headers


def test_reload_serves_what_the_file_says_now_and_survives_a_mistake_in_it(innkeeper_server: ServerFactory) -> None:
    path = innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", "--reload")
    assert say(server.url).json()["output"] == "You said: Hello"
    path.write_text("missing()\n")
    server.wait_for_log(r"(Error: mine\.py, line 1: NameError)")
    path.write_text(ECHO.replace("You said", "You now say"))
    server.wait_for_log(r"listens at .*(?s:.)*(listens at)")
    assert say(server.url).json()["output"] == "You now say: Hello"
    assert server.terminate() == 0


def test_migrate_says_from_which_revision_to_which(folder: Folder) -> None:
    from innkeeper.storage.migrations import HEAD

    label = f"SQLite, {folder.path}/data/innkeeper.db"
    assert folder.run("migrate").output == f"{label} went from no tables to revision {HEAD}.\n"
    assert folder.run("migrate").output == f"{label} is up to date: revision {HEAD}.\n"


def test_migrate_makes_the_tables_of_postgresql(folder: Folder, postgres_database: str) -> None:
    env = {"DATABASE_URL": postgres_database}
    assert "went from no tables to revision" in folder.run("migrate", env=env).output
    assert "is up to date" in folder.run("migrate", env=env).output


def test_the_version_is_told_without_loading_anything(folder: Folder) -> None:
    result = folder.run("--version")
    assert result.output == "innkeeper 0.1.0\n"
    imports = folder.run("--version", env={"PYTHONPROFILEIMPORTTIME": "1"}).error
    assert not re.search(r"\| +(typer|pydantic|fastapi|uvicorn|rich)$", imports, re.M)


def test_models_are_listed(folder: Folder) -> None:
    assert "local:smollm2" in folder.run("models", "list", env={"INNKEEPER_CACHE_DIR": "cache"}).output


def test_agents_lists_those_of_a_running_server(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py")
    result = Folder(innkeeper_server.folder).run("agents", "--url", server.url)
    assert result.output.splitlines() == ["NAME            MODEL  TOOLS  DESCRIPTION", "echo (default)  -      -"]


def test_a_server_that_does_not_answer_is_told_with_its_url(folder: Folder) -> None:
    message = folder.error("agents", "--url", "http://127.0.0.1:9")
    assert message == (
        "No server answers at http://127.0.0.1:9. Start one with `innkeeper serve`, or name another with --url."
    )


def test_in_a_terminal_it_says_the_same_and_nobody_else_says_anything(folder: Folder) -> None:
    folder.write("agents/brief.yaml", "model: test\n")
    environment = clean_environment(folder.path / "data", {"NO_COLOR": "1"})
    quiet_under_tests = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST", "CI")
    environment = {name: value for name, value in environment.items() if name not in quiet_under_tests}
    command = [*INNKEEPER, "serve", "brief", "--port", "0"]
    with terminal(command, folder=folder.path, environment=environment) as person:
        screen = person.wait_for("Stop    Ctrl-C\n")
        url = re.search(r"listens at (\S+)", screen)
        assert url is not None and "  Agents  brief (default)  test\n" in screen
        assert say(url[1]).json()["output"] == "You said: Hello"
        person.type(CTRL_C)
        assert person.wait() == 0
        assert person.rest().strip() in ("", "^C")
