"""`innkeeper tokens`: on the store itself, without a server and beside one that runs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import ECHO, Folder
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import ServerFactory, ServerProcess, clean_environment

TOKEN = re.compile(r"ik[a-z0-9]{16}\.[A-Za-z0-9_-]{43}\n")
FORCED = {"FORCE_AUTH": "true", "RATE_LIMIT_FAILED_AUTH": "off"}


def created(folder: Folder, *words: str, env: dict[str, str] | None = None) -> str:
    """The token that `innkeeper tokens create WORDS` prints."""
    result = folder.run("tokens", "create", *words, env=env)
    assert (result.code, result.error) == (0, "")
    assert TOKEN.fullmatch(result.output)
    return result.output.strip()


def listed(folder: Folder, env: dict[str, str] | None = None) -> list[list[str]]:
    """The rows of `innkeeper tokens list`, without its head."""
    result = folder.run("tokens", "list", env=env)
    assert (result.code, result.error) == (0, "")
    head, *rows = result.output.splitlines()
    assert head.split() == ["ID", "USER", "ORGANIZATION", "ROLE", "SCOPES", "STATE", "LAST", "USED", "NAME"]
    return [re.split(r"\s{2,}", row) for row in rows]


def status(server: ServerProcess, token: str, path: str = "/agents") -> int:
    return httpx2.get(f"{server.url}{path}", headers={"x-api-key": token}, timeout=20, trust_env=False).status_code


def test_a_token_is_made_in_a_folder_where_nothing_is_yet(folder: Folder) -> None:
    text = created(
        folder, "--user", "ann", "--org", "acme", "--role", "read", "--scope", "code", "--scope", "observability"
    )
    other = created(folder, "--ttl", "3600", "--name", "for CI")
    (second, first) = listed(folder)
    assert first == [text[:18], "ann", "acme", "read", "code,observability", "valid", "never"]
    assert second[:5] == [other[:18], other[:18], "default", "user", "-"]
    assert re.fullmatch(r"until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second[5])
    assert second[6:] == ["never", "for CI"]
    database = folder.path / "data" / "innkeeper.db"
    assert database.stat().st_mode & 0o777 == 0o600
    assert database.parent.stat().st_mode & 0o777 == 0o700
    assert text[19:].encode() not in database.read_bytes()


def test_where_nothing_can_be_written_one_line_says_why(folder: Folder) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "innkeeper", "tokens", "list"]
        env = clean_environment(folder.path / "data", {})
        ended = subprocess.run(command, cwd=folder.path, env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (1, "Error: No space left on device.\n")


def test_a_token_is_revoked_by_its_id_or_by_itself(folder: Folder) -> None:
    one, two = created(folder), created(folder)
    for named_, text in ((one, one), (two[:18], two)):
        result = folder.run("tokens", "revoke", named_)
        assert (result.code, result.output, result.error) == (0, "", f"Revoked {text[:18]}.\n")
    assert [row[5] for row in listed(folder)] == ["revoked", "revoked"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("create", "--role", "root"), "role: must be one of read, user, admin."),
        (("create", "--scope", "cod"), "scopes: may only be code, observability, impersonate."),
        (("create", "--ttl", "0"), "ttl: must be more than 0"),
        (("create", "--ttl=-1"), "ttl: must be more than 0"),
        (("create", "--user", "a\nb"), "user: must have 1 to 200 printable characters."),
        (("revoke", "nonsense"), "That is no token and no token's id"),
        (("revoke", "ik" + "0" * 16), "There is no token ik0000000000000000."),
        (("list", "--config", "none.yaml"), "none.yaml"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(folder: Folder, words: tuple[str, ...], told: str) -> None:
    assert told in folder.error("tokens", *words)


def test_commands_work_beside_a_server_which_heeds_them_at_once(
    innkeeper_server: ServerFactory, folder: Folder
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", env=FORCED)
    text = created(folder, "--user", "ann")
    assert status(server, text) == 200
    assert [row[5] for row in listed(folder)] == ["valid"]
    folder.run("tokens", "revoke", text)
    assert refused_within_a_second(server, text)
    assert server.is_alive


def refused_within_a_second(server: ServerProcess, token: str) -> bool:
    """Whether a request that begins a second from now, or earlier, is the first that is refused."""
    deadline = time.monotonic() + 1.0
    while True:
        is_last = time.monotonic() > deadline
        if status(server, token) == 401:
            return True
        if is_last:
            return False


def test_several_commands_at_once_in_a_new_folder_all_do_their_work(folder: Folder) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: created(folder), range(4)))
    assert {row[0] for row in listed(folder)} == {text[:18] for text in made}


def test_a_key_of_the_server_makes_other_tokens_worthless(innkeeper_server: ServerFactory, folder: Folder) -> None:
    innkeeper_server.write("mine.py", ECHO)
    keyed = {"API_KEY_SECRET": "a key"}
    plain, good = created(folder), created(folder, env=keyed)
    server = innkeeper_server("mine.py", env=FORCED | keyed)
    assert (status(server, good), status(server, plain)) == (200, 401)


@pytest.fixture
def in_postgresql(postgres_url: str) -> Iterator[dict[str, str]]:
    with a_copy_of(a_migrated_database(postgres_url), postgres_url) as url:
        yield {"DATABASE_URL": url}


def test_on_postgresql_every_worker_heeds_a_revocation_within_a_second(
    innkeeper_server: ServerFactory, folder: Folder, in_postgresql: dict[str, str]
) -> None:
    env = in_postgresql
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", "--workers", "2", env=FORCED | env)
    text = created(folder, "--user", "ann", env=env)
    assert {status(server, text) for _ in range(20)} == {200}
    assert folder.run("tokens", "revoke", text, env=env).code == 0
    revoked = time.monotonic()
    while time.monotonic() < revoked + 1.0:
        status(server, text)
    assert {status(server, text) for _ in range(20)} == {401}


def test_a_store_without_tables_is_told_on_postgresql(folder: Folder, postgres_database: str) -> None:
    result = folder.run("tokens", "create", env={"DATABASE_URL": postgres_database})
    assert (result.code, result.output) == (1, "")
    assert "has no tables yet. Run: innkeeper migrate" in result.error


def test_where_a_redis_is_named_tokens_are_kept_there_and_what_the_database_has_is_told(
    innkeeper_server: ServerFactory, folder: Folder, redis_url: str
) -> None:
    in_redis = {"REDIS_URL": redis_url, "TOKEN_STORE": "redis"}
    old, new = created(folder), created(folder, "--user", "ann", env=in_redis)
    result = folder.run("tokens", "list", env=in_redis)
    assert result.code == 0
    assert new[:18] in result.output
    assert old[:18] not in result.output
    assert result.error.startswith("Warning: the database has tokens, too.")
    assert [row[0] for row in listed(folder, in_redis | {"TOKEN_STORE": "database"})] == [old[:18]]
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", env=FORCED | in_redis)
    assert (status(server, new), status(server, old)) == (200, 401)
    assert folder.run("tokens", "revoke", new, env=in_redis).code == 0
    assert refused_within_a_second(server, new)


def test_a_redis_that_is_away_is_told_in_one_line(folder: Folder) -> None:
    assert "The Redis that keeps tokens does not answer" in folder.error(
        "tokens", "create", env={"REDIS_HOST": "127.0.0.1", "REDIS_PORT": "1"}
    )


# the first token

REACHABLE = ("--host", "0.0.0.0")


def first_tokens(log: str) -> list[str]:
    return re.findall(r"^ {2}(ik[a-z0-9]{16}\.[A-Za-z0-9_-]{43})$", log, re.MULTILINE)


def test_a_server_that_strangers_can_reach_shows_one_admins_token_once(
    innkeeper_server: ServerFactory, folder: Folder
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    server = innkeeper_server("mine.py", *REACHABLE, env=FORCED)
    (text,) = first_tokens(server.log)
    assert status(server, text) == 200
    assert status(server, f"{text[:-1]}_") == 401
    assert [row[1:6] for row in listed(folder)] == [["admin", "default", "admin", "-", "valid"]]
    server.terminate()
    server.start()
    assert len(first_tokens(server.log)) == 1
    folder.run("tokens", "revoke", text)
    server.terminate()
    server.start()
    assert len(first_tokens(server.log)) == 1


@pytest.mark.parametrize(
    ("options", "env"), [((), FORCED), (("--host", "localhost"), {}), (REACHABLE, {"AGENT_AUTH_ENABLED": "false"})]
)
def test_no_token_is_made_where_none_is_needed(
    innkeeper_server: ServerFactory, folder: Folder, options: tuple[str, ...], env: dict[str, str]
) -> None:
    innkeeper_server.write("mine.py", ECHO)
    assert first_tokens(innkeeper_server("mine.py", *options, env=env).log) == []
    assert listed(folder) == []


def test_servers_that_start_at_once_make_one_token(
    innkeeper_server: ServerFactory, folder: Folder, in_postgresql: dict[str, str]
) -> None:
    env = in_postgresql
    innkeeper_server.write("mine.py", ECHO)
    options = ("mine.py", *REACHABLE, "--workers", "2")
    with ThreadPoolExecutor(2) as pool:
        servers = list(pool.map(lambda _: innkeeper_server(*options, env=FORCED | env, timeout=60), range(2)))
    (text,) = [text for server in servers for text in first_tokens(server.log)]
    assert [status(server, text) for server in servers] == [200, 200]
    assert len(listed(folder, env)) == 1


SCRIPT = """
import asyncio
from innkeeper import TokenManager

async def main():
    async with TokenManager.open() as tokens:
        made = await tokens.create(user="ann", role="user", scopes=["code"], ttl=3600, name="a script")
        print(made.text)
        print((await tokens.validate(made.text)).owner.user)
        await tokens.revoke(made.token.id)
        print(await tokens.validate(made.text))
        print([token.name for token in (await tokens.list())[0]])

asyncio.run(main())
"""


def test_the_token_manager_works_in_a_script(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=clean_environment(tmp_path / "data"),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    token, *rest = ended.stdout.splitlines()
    assert TOKEN.fullmatch(f"{token}\n")
    assert rest == ["ann", "revoked", "['a script']"]
    assert ended.stderr == ""
