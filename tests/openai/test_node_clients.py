"""Clients of other languages: OpenAI's for Node and the Vercel AI SDK, on one server, a Node process for each script.

What they check is in `clients/*.mjs`; each of its tests is one of Node's own test runner.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pydantic_ai
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from innkeeper.testing import Call, ScriptedModel
from tests.openai.hosts import Host, declare_functions
from tests.support.inns import UNCOUNTED
from tests.support.pydantic_agents import add
from tests.support.servers import serve_app
from tests.support.tokens import a_token

SCRIPTS = Path(__file__).parent / "clients"
INSTALL = ("install", "--no-audit", "--no-fund", "--no-progress", "--ignore-scripts", "--engine-strict=false")


def unavailable(reason: str) -> NoReturn:
    """Without Node and its packages these tests are skipped on your machine, and fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def packages(request: pytest.FixtureRequest) -> Path:
    """The folder of the clients, which are installed once for each list of them."""
    wanted = SCRIPTS / "package.json"
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        unavailable("node and npm are missing")
    kept = request.config.cache.mkdir("node-clients")
    folder = kept / hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]
    if not folder.exists():
        making = kept / uuid4().hex
        making.mkdir()
        shutil.copy(wanted, making)
        done = subprocess.run([npm, *INSTALL], capture_output=True, text=True, timeout=200, cwd=making)
        if done.returncode != 0:
            shutil.rmtree(making)
            unavailable(f"the clients cannot be installed: {done.stderr[-500:]}")
        making.rename(folder)
    return folder


@pytest.fixture(scope="module")
def inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with agents of several kinds."""
    app = ServerBase(settings=load_settings({"data_dir": tmp_path_factory.mktemp("data"), **UNCOUNTED}))
    declare_functions(app, Host())
    app.agent("scripted")(Agent("scripted", model="test"))
    replies = ScriptedModel([Call("add", {"a": 1, "b": 2}), "The sum is 3."], repeats=True)
    app.agent("toolbox")(pydantic_ai.Agent(replies, tools=[add]))

    @app.agent("memory")
    async def memory(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
        """Says all that it was told; to the first message, how many there were."""
        said = [message["content"] for message in messages]
        yield " | ".join(said) if len(said) > 1 else f"I heard {len(said)}"

    with serve_app(app) as url:
        yield url


@pytest.fixture(scope="module")
def strict_inn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server that wants a token and answers one request a second, as the scripts are told of it."""
    limits = {**UNCOUNTED, "rate_limit_user": "1/second", "force_auth": True}
    settings = load_settings({"data_dir": tmp_path_factory.mktemp("strict"), **limits})
    app = ServerBase(settings=settings)
    declare_functions(app, Host())
    with serve_app(app) as url:
        yield {"STRICT_INN": url, "STRICT_KEY": a_token(settings, "ann").text}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.mjs")), ids=lambda script: script.stem)
def test_clients_for_node_are_content(
    script: Path, packages: Path, inn: str, strict_inn: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(packages / "node_modules")
    copy = shutil.copy(script, tmp_path)
    environment = {"PATH": os.environ["PATH"], "INN": inn, **strict_inn}
    command = ["node", "--test-reporter=tap", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    failed = re.findall(r"^not ok \d+ - (.*)$", done.stdout, re.MULTILINE)
    assert (failed, done.returncode) == ([], 0), done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), "the script has tests"
