"""A server whose agents work on files, and clients of two tenants and of its administrator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.context import RunContext
from tests.support.inns import UNCOUNTED, Inn, Json, serve_inn
from tests.support.tokens import a_token

MAX_FILE = 64 * 1024
QUOTA = 1024 * 1024


def filing_agents(app: ServerBase) -> None:
    """`scribe` does to its workspace what it is told, as JSON; `sync-scribe` does so from a thread."""
    import json

    @app.agent("scribe")
    async def scribe(messages: list[Json], context: RunContext) -> str:
        told = json.loads(messages[-1]["content"])
        return json.dumps([await do(context, *step) for step in told])

    @app.agent("sync-scribe")
    def sync_scribe(messages: list[Json], context: RunContext) -> str:
        files = context.workspace.sync
        files.write("note.txt", "written in a thread")
        with files.checkout() as folder:
            (folder / "more.txt").write_text((folder / "note.txt").read_text().upper())
        return ", ".join(f"{file.path}={files.read_text(file.path)}" for file in files.list())

    @app.agent("isolated-scribe", isolated=True)
    async def isolated_scribe(messages: list[Json], context: RunContext) -> str:
        async def pieces() -> Any:
            yield b"from "
            yield b"afar"

        await context.workspace.write("note.txt", pieces())
        return b"".join([piece async for piece in context.workspace.open("note.txt")]).decode()


async def do(context: RunContext, verb: str, *told: Any) -> Any:
    files = context.workspace
    if verb == "write":
        return (await files.write(*told)).version
    if verb == "read":
        return await files.read_text(*told)
    if verb == "list":
        return [file.path for file in await files.list()]
    if verb == "read-agents":
        return await context.agent_workspace.read_text(*told)
    if verb == "delete":
        return await files.delete(*told)
    assert verb == "checkout"
    async with files.checkout() as folder:
        for name, text in told[0].items():
            if text is None:
                (folder / name).unlink()
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text)
    return folder.exists()


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    settings = load_settings({
        "data_dir": tmp_path_factory.mktemp("data"),
        "max_file_bytes": MAX_FILE,
        "storage_quota": QUOTA,
        "workspace_versions": 2,
        **UNCOUNTED,
    })  # fmt: skip
    app = ServerBase(settings=settings)
    filing_agents(app)
    with serve_inn(app) as running:
        yield running


def client_of(inn: Inn, user: str, organization: str, role: str = "user") -> httpx2.Client:
    token = a_token(inn.app.kernel.settings, user, role, organization=organization).text
    return httpx2.Client(base_url=inn.url, headers={"authorization": f"Bearer {token}"}, timeout=20, trust_env=False)


@pytest.fixture(scope="module")
def ann(inn: Inn) -> Iterator[httpx2.Client]:
    with client_of(inn, "ann", "acme") as client:
        yield client


@pytest.fixture(scope="module")
def eve(inn: Inn) -> Iterator[httpx2.Client]:
    with client_of(inn, "eve", "elsewhere") as client:
        yield client


@pytest.fixture(scope="module")
def boss(inn: Inn) -> Iterator[httpx2.Client]:
    with client_of(inn, "boss", "house", "admin") as client:
        yield client


@pytest.fixture
def room(ann: httpx2.Client) -> str:
    """A session of Ann's."""
    made = ann.post("/sessions", json={})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])
