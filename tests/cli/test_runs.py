"""`innkeeper runs`: what agents did, listed, shown and exported, as a test too, without a server and beside one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from innkeeper import Agent, Server
from innkeeper.testing import MockAgent, served
from tests.cli.conftest import Folder
from tests.support.servers import clean_environment

SUMS = """
from innkeeper import Agent

def add(a: int, b: int) -> int:
    return a + b

adder = Agent("adder", model="test", tools=[add])
"""


def add(a: int, b: int) -> int:
    """As in `SUMS`."""
    return a + b


@pytest.fixture
def runs(folder: Folder) -> list[str]:
    """Two runs, of `echo` and then of `adder`, in the store of the folder; the server has left."""
    folder.write("sums.py", SUMS)
    app = Server(agents=[MockAgent("echo", response="Hi there"), Agent("adder", model="test", tools=[add])])
    asked = ({"input": "Hi"}, {"input": 'call add {"a": 1, "b": 2}', "agent_name": "adder", "session_id": "sums"})
    with served(app, data_dir=folder.path / "data") as server:
        return [server.client.post("/chat", json=body).json()["run_id"] for body in asked]


def checked(folder: Folder, *files: str) -> str:
    """What pytest says of files in the folder."""
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *files],
        cwd=folder.path,
        env=clean_environment(folder.path / "data", {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}),  # they take seconds
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.stdout


def test_a_run_is_exported_as_a_test_that_fails_when_the_agent_changes(folder: Folder, runs: list[str]) -> None:
    echoed, added = runs
    words = ("runs", "export", added, "-o", "1-plus-2.json", "--test", "--target", "sums.py")
    exported = folder.run(*words)
    assert (exported.code, exported.error) == (0, "Wrote 1-plus-2.json and test_1_plus_2.py.\n")
    test = (folder.path / "test_1_plus_2.py").read_text()
    folder.write("changed.py", SUMS.replace("a + b", "a - b"))
    folder.write("test_2_again.py", test)
    folder.write("test_3_changed.py", test.replace("sums.py", "changed.py"))
    told = checked(folder, "test_1_plus_2.py", "test_2_again.py", "test_3_changed.py")
    assert ("1 failed, 2 passed" in told, 'now add({"a": 1, "b": 2}) -> -1' in told) == (True, True), told
    again = folder.run(*words)
    assert (again.code, again.error.startswith("Error: test_1_plus_2.py exists")) == (1, True)
    assert folder.run("runs", "export", echoed).code == 0
    assert json.loads((folder.path / f"{echoed}.json").read_text())["output"] == "Hi there"


def test_runs_are_listed_newest_first_and_shown(folder: Folder, runs: list[str]) -> None:
    echoed, added = runs
    lines = [line.split()[0] for line in folder.run("runs", "list").output.splitlines()]
    assert lines == ["RUN", added, echoed]
    (told,) = json.loads(folder.run("runs", "list", "--session", "sums", "--agent", "adder", "--json").output)
    assert (told["id"], told["status"], told["steps"]) == (added, "completed", 2)
    shown = json.loads(folder.run("runs", "show", echoed).output)
    assert (shown["output"], shown["input"][0]["content"]) == ("Hi there", "Hi")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "run_none"), "Run 'run_none' does not exist."),
        (("export", "run_none", "-o", "-", "--test"), "--test: needs a file to stand beside"),
        (("list", "--session", "none"), "Session 'none' does not exist."),
    ],
)
def test_what_cannot_be_is_told_in_one_line(folder: Folder, words: tuple[str, ...], message: str) -> None:
    result = folder.run("runs", *words)
    assert (result.code, result.output) == (1, "")
    assert result.error.startswith(f"Error: {message}")
