"""`innkeeper audit`: on the store itself, without a server and beside one that runs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from innkeeper import TokenManager
from innkeeper.config import load_settings
from tests.cli.conftest import ECHO, Folder
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import ServerFactory
from tests.support.tokens import with_tokens

HOLDS = re.compile(r"The chain holds: (\d+) entr(?:y|ies)\.\nHead: ([0-9a-f]{64})\n")


def holding(folder: Folder, *words: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The number of entries and the head of a chain that holds."""
    result = folder.run("audit", "verify", *words, env=env)
    assert (result.code, result.error) == (0, "")
    told = HOLDS.fullmatch(result.output)
    assert told is not None, result.output
    return int(told[1]), told[2]


def acted(folder: Folder, count: int) -> None:
    """So many tokens are made, each of which is an entry."""

    async def make(tokens: TokenManager) -> None:
        for _ in range(count):
            await tokens.create()

    with_tokens(load_settings({"data_dir": folder.path / "data"}), make)


def by_hand(folder: Folder, statement: str) -> None:
    with closing(sqlite3.connect(folder.path / "data" / "innkeeper.db", timeout=10)) as database, database:
        database.execute(statement)


def test_an_empty_log_holds(folder: Folder) -> None:
    result = folder.run("audit", "verify")
    assert (result.code, result.output) == (0, "The chain holds: 0 entries.\n")


def test_a_broken_link_is_named_and_the_exit_code_says_so(folder: Folder) -> None:
    acted(folder, 3)
    count, head = holding(folder)
    assert count == 3
    listed = json.loads(folder.run("audit", "list", "--json", "--limit", "2").output)
    assert [one["number"] for one in listed] == [3, 2]
    assert listed[0]["digest"] == head
    lines = folder.run("audit", "list").output.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert "token.create" in lines[1]
    by_hand(folder, "UPDATE audit_entries SET action = 'nothing' WHERE number = 2")
    result = folder.run("audit", "verify")
    told = f"The chain is broken: entry 2 ({listed[1]['id']}) was changed. What stands before holds: 1 entry.\n"
    assert (result.code, result.output) == (1, told)


def test_a_chain_that_was_written_anew_is_told_from_a_head_that_was_noted(folder: Folder) -> None:
    acted(folder, 1)
    _, noted = holding(folder)
    by_hand(folder, "DELETE FROM audit_entries")
    by_hand(folder, "UPDATE audit_head SET number = 0, digest = ''")
    acted(folder, 1)
    result = folder.run("audit", "verify", "--head", noted)
    assert result.code == 1
    assert result.output == "The chain was written anew: of 1 entry none has the digest that was noted.\n"


def test_what_is_no_digest_is_refused(folder: Folder) -> None:
    assert folder.error("audit", "verify", "--head", "abc").startswith("--head: must be a digest of 64 hexadecimal")


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    if request.param == "sqlite":
        yield {}
        return
    server = request.getfixturevalue("postgres_url")
    with a_copy_of(a_migrated_database(server), server) as url:
        yield {"DATABASE_URL": url}


def test_it_is_verified_beside_a_server_that_writes(
    innkeeper_server: ServerFactory, env: dict[str, str], tmp_path: Path
) -> None:
    innkeeper_server.write("echo.py", ECHO)
    server = innkeeper_server("echo.py", env=env)
    folder = Folder(tmp_path)
    token = folder.run("tokens", "create", "--role", "admin", env=env).output.strip()
    with httpx2.Client(base_url=server.url, headers={"x-api-key": token}, trust_env=False) as http:
        before, head = holding(folder, env=env)
        for number in range(5):
            body = {"workos_id": f"user_{number}", "email": f"a{number}@example.org"}
            assert http.post("/api/v1/platform/admins", json=body).status_code == 201
        after, _ = holding(folder, "--head", head, env=env)
        assert after == before + 5
        newest = json.loads(folder.run("audit", "list", "--json", "--limit", "1", env=env).output)
    assert (newest[0]["action"], newest[0]["resource_id"]) == ("admin.add", "a4@example.org")
