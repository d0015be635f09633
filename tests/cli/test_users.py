"""`innkeeper users forget`: on the store itself, without a server and beside one that serves it."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.cli.conftest import ECHO, Folder
from tests.support.databases import a_copy_of, a_migrated_database
from tests.support.servers import ServerFactory

CANARY = "canary-" + "w3" * 12
NAMES = {"eve": f"for {CANARY}", "bob": "for Bob"}
"""Users, and what their tokens are called."""


def files_with(folder: Path, text: str) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_a_user_is_forgotten_beside_a_server_which_goes_on(innkeeper_server: ServerFactory, tmp_path: Path) -> None:
    innkeeper_server.write("inn.py", ECHO)
    server = innkeeper_server("inn.py", env={"FORCE_AUTH": "true"})
    folder, data = Folder(tmp_path), tmp_path / "data"
    made = [folder.run("tokens", "create", "--user", name, "--name", note) for name, note in NAMES.items()]
    eve, bob = (result.output.strip() for result in made)
    with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:

        def said(token: str, text: str) -> int:
            return client.post("/chat", json={"input": text}, headers={"x-api-key": token}).status_code

        assert (said(eve, f"I am {CANARY}"), said(bob, "I am Bob")) == (200, 200)
        upload = {"file": (f"{CANARY}.txt", f"file of {CANARY}".encode(), "text/plain")}
        headers = {"x-api-key": eve}
        answer = client.post("/v1/files", files=upload, data={"purpose": "user_data"}, headers=headers)
        assert answer.is_success, answer.text
        client.post("/sessions", json={"id": "room"}, headers=headers)
        answer = client.put("/sessions/room/workspace/a.txt", content=f"work of {CANARY}".encode(), headers=headers)
        assert answer.status_code == 201, answer.text
        assert len(files_with(data / "blobs", CANARY)) == 2
        assert files_with(data, CANARY)

        result = folder.run("users", "forget", "eve", "--yes")

        assert (result.code, result.error) == (0, "")
        assert result.output.startswith("Erased eve: ")
        assert files_with(data, CANARY) == []
        assert (said(eve, "Hello?"), said(bob, "Hello?")) == (401, 200)
        sessions = client.get("/sessions", headers={"x-api-key": bob}).json()["sessions"]
        assert len(sessions) == 2


def test_nobody_is_forgotten_unasked(folder: Folder) -> None:
    assert "--yes" in folder.error("users", "forget", "eve")


@pytest.mark.parametrize("words", [["\udcff"], ["e" * 257], [""], ["eve", "--org", "\udcff"], ["eve", "--org", ""]])
def test_a_name_that_nobody_can_have_is_refused_before_anything_is_written(folder: Folder, words: list[str]) -> None:
    assert "must have 1 to 256 characters that a store can hold" in folder.error("users", "forget", *words, "--yes")
    assert not (folder.path / "data").exists()


def test_one_of_whom_nothing_is_stored_is_said_to_be_unknown(folder: Folder) -> None:
    result = folder.run("users", "forget", "nobody", "--org", "acme", "--yes")
    assert (result.code, result.output) == (0, "Nothing is stored of nobody.\n")


def test_a_user_is_forgotten_in_postgresql_and_where_chat_logs_are_copied_to(
    folder: Folder, postgres_url: str, innkeeper_server: ServerFactory
) -> None:
    pytest.importorskip("asyncpg")
    template = a_migrated_database(postgres_url)
    with a_copy_of(template, postgres_url) as store, a_copy_of("template0", postgres_url) as copies:
        port = httpx2.URL(copies).port
        env = {
            "DATABASE_URL": store,
            "DB_LOGGING_ENABLED": "true",
            "LOGGING_DB_HOST": "127.0.0.1",
            "LOGGING_DB_PORT": str(port),
            "LOGGING_DB_NAME": httpx2.URL(copies).path.lstrip("/"),
            "LOGGING_DB_CONTENTS": "true",
        }
        innkeeper_server.write("inn.py", ECHO)
        server = innkeeper_server("inn.py", env=env)
        with httpx2.Client(base_url=server.url, timeout=20, trust_env=False) as client:
            assert client.post("/chat", json={"input": CANARY, "user_id": "eve"}).status_code == 200
            assert client.post("/chat", json={"input": "Hi", "user_id": "bob"}).status_code == 200
        assert server.terminate() == 0
        assert rows_with(copies, CANARY) == 1
        result = folder.run("users", "forget", "eve", "--yes", env=env)
        assert (result.code, result.error) == (0, "")
        assert (rows_with(copies, CANARY), rows_with(copies, "bob")) == (0, 1)


def rows_with(database: str, text: str) -> int:
    import asyncio

    import asyncpg

    async def count() -> int:
        connection = await asyncpg.connect(database)
        try:
            rows = await connection.fetch("SELECT * FROM chat_logs")
        finally:
            await connection.close()
        return sum(text in repr(tuple(row.values())) for row in rows)

    return asyncio.run(count())
