"""The image: its Dockerfile, played without Docker, makes a server that runs as nobody and keeps its state in /data."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.support.composing import services
from tests.support.images import NOBODY, ROOT, Image, as_nobody, python_for_anybody, stages
from tests.support.servers import ServerProcess


def test_the_image_runs_as_nobody_with_no_tools_and_no_secrets_and_says_how_it_is() -> None:
    image = stages()[-1]
    assert image.one("USER") == f"{NOBODY}:{NOBODY}"
    assert (image.one("EXPOSE"), image.one("VOLUME")) == ("8000", "/data")
    assert "/live" in image.one("HEALTHCHECK")
    assert not re.search(r"apt|gcc|pip", str(image.steps)), "nothing is built where it is served"
    assert not re.search(r"(?i)secret|password|token|api_key", str(image.steps))


def test_nothing_is_sent_to_the_builder_but_what_is_copied() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = {source.removeprefix("./").partition("/")[0] for stage in stages() for source, _ in stage.copied()}
    assert lines[0] == "*"
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied
    assert {"**/.env", "**/__pycache__"} < set(lines)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """In a folder that every user may enter, as pytest's own may not be."""
    python = python_for_anybody()
    if python is None:
        missing = "There is no Python here that a user without rights may start."
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    root = Path(tempfile.mkdtemp(prefix="innkeeper-image-")).resolve()
    root.chmod(0o755)
    try:
        made = Image(root, python)
        made.make()
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def serving(image: Image, log: Path, **environment: str) -> Iterator[ServerProcess]:
    """The image's own command."""
    command = ["env", "API_PORT={port}", *image.command("CMD")]
    server = ServerProcess(command, folder=image.place("app"), environment=image.environment(environment))
    server.log_file = log
    try:
        server.start(timeout=60)
        yield server
    finally:
        if server.is_alive:
            server.kill()


@pytest.mark.timeout(600)
def test_the_image_migrates_serves_is_healthy_keeps_its_state_in_data_and_ends_with_0(
    image: Image, tmp_path: Path
) -> None:
    with serving(image, tmp_path / "log") as server:
        assert "went from no tables to revision" in server.log
        token = a_token(image)
        assert said(server, "Hello", token) == "You have said 1 thing in this session."
        assert is_healthy(image, server)
        assert (image.root / "data" / "innkeeper.db").is_file()
        assert owners(image.root / "data") == {NOBODY if os.geteuid() == 0 else os.geteuid()}
        assert sorted(path.name for path in (image.root / "app").rglob("*")) == ["agents", "functions.py"]
        assert server.terminate(timeout=25) == 0
        assert not is_healthy(image, server)
        server.start(timeout=60)
        assert said(server, "Hello again", token) == "You have said 2 things in this session."


@pytest.mark.timeout(600)
def test_what_compose_sets_makes_two_processes_on_postgresql_and_redis_that_ask_for_the_first_token(
    image: Image, tmp_path: Path, postgres_database: str, redis_url: str
) -> None:
    told = {
        **services()["server"]["environment"],
        "DATABASE_URL": postgres_database,
        "REDIS_URL": redis_url,
        "API_KEY_SECRET": "",
    }
    with serving(image, tmp_path / "log", **told) as server:
        assert server.wait_for_log(r"Workers (2) processes\n") == "2"
        token = server.wait_for_log(r"\n  (ik[a-z0-9]{16}\.\S+)\n")
        assert httpx2.get(f"{server.url}/api/status", trust_env=False).status_code == 401
        assert said(server, "Hello", token) == "You have said 1 thing in this session."
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx2.post(f"{server.url}/api/shutdown", headers=headers, timeout=20, trust_env=False)
        assert answer.status_code == 202
        assert server.wait(timeout=25) == 0


@pytest.mark.timeout(600)
def test_the_image_holds_no_pip(image: Image) -> None:
    assert not list((image.root / "opt" / "innkeeper" / "bin").glob("pip*"))


def a_token(image: Image) -> str:
    """Made beside the server, as whoever enters the container does; to the server this process is another user's."""
    command = [*as_nobody(), str(image.place("opt/innkeeper/bin/innkeeper")), "tokens", "create"]
    made = subprocess.run(command, env=image.environment({}), cwd="/", capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def said(server: ServerProcess, text: str, token: str = "") -> str:
    """What the default agent says to it, in a session that is kept."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    body = {"input": text, "session_id": "kept"}
    answer = httpx2.post(f"{server.url}/chat", json=body, headers=headers, timeout=20, trust_env=False)
    assert answer.status_code == 200, answer.text
    output: str = answer.json()["output"]
    return output


def is_healthy(image: Image, server: ServerProcess) -> bool:
    environment = image.environment({"API_PORT": str(server.port)})
    return subprocess.run(image.command("HEALTHCHECK"), env=environment, cwd="/", capture_output=True).returncode == 0


def owners(folder: Path) -> set[int]:
    return {path.stat().st_uid for path in folder.rglob("*")}
