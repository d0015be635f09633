"""`llmprobe`, a conformance suite for OpenAI's API from npm, against agents with an obedient model behind them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agents
import pytest

from innkeeper import Agent, ServerBase
from innkeeper.config import load_settings
from tests.openai.hosts import KEY
from tests.support.obedient_models import ObedientUpstream
from tests.support.openai_upstream import running_upstream
from tests.support.servers import serve_app

VERSION = "0.6.12"
SURFACES = ("models", "chat", "responses")


@pytest.fixture(scope="module")
def npx() -> str:
    """The command that fetches and runs llmprobe; missing, it skips on your machine and fails in CI."""
    command = shutil.which("npx")
    reason = "npx is missing"
    if command is not None:
        fetched = subprocess.run(
            [command, "--yes", f"llmprobe@{VERSION}", "--version"], capture_output=True, text=True, timeout=100
        )
        if fetched.returncode == 0:
            return command
        reason = f"llmprobe cannot be fetched: {fetched.stderr[-500:]}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with an agent of each framework that asks the obedient model."""
    with running_upstream(ObedientUpstream()) as upstream:
        monkeypatch.setenv("OPENAI_BASE_URL", upstream.url)
        app = ServerBase(settings=load_settings({"data_dir": tmp_path}))
        app.agent("declared")(Agent("declared", model="openai:gpt-test"))
        app.agent("sdk")(agents.Agent("sdk", model="gpt-test"))
        with serve_app(app) as base:
            yield base


def probe(npx: str, url: str, model: str, folder: Path) -> dict[str, Any]:
    """What llmprobe found, as it tells it in JSON."""
    report = folder / "report.json"
    command = [npx, "--yes", f"llmprobe@{VERSION}", f"{url}/v1", "-k", KEY, "-m", model]
    options = ["--no-bench", "--no-save", "--no-color", "--save", str(report)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=100, cwd=folder)
    assert report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.mark.parametrize("model", ["declared", "sdk"])
def test_no_demand_of_llmprobe_fails_on_chat_responses_and_models(
    npx: str, url: str, model: str, tmp_path: Path
) -> None:
    conformance = probe(npx, url, model, tmp_path)["conformance"]
    results = [one for one in conformance["results"] if one["surface"] in SURFACES]
    failed = [
        f"{one['name']}: {failure['label']}: {failure['message']}"
        for one in results
        for failure in one["failures"]
        if failure["severity"] == "MUST"
    ]
    assert failed == []
    assert sum(one["outcome"] == "pass" for one in results) >= 20, "it has looked at the surfaces in earnest"
    assert {one["surface"] for one in conformance["bySurface"]} >= set(SURFACES)
