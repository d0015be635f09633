"""What the tests of the command line start from: a folder of a user's, and `innkeeper` run in it as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import clean_environment

ECHO = """
from innkeeper import register_agent

def echo(messages):
    return "You said: " + messages[-1]["content"]

register_agent("echo", echo)
"""


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended. `error` is what it wrote to standard error."""

    code: int
    output: str
    error: str


class Folder:
    """A user's working folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, given: str | None = None, timeout: float = 60
    ) -> Result:
        """`innkeeper WORDS` here."""
        ended = subprocess.run(
            [sys.executable, "-m", "innkeeper", *words],
            cwd=self.path,
            env=clean_environment(self.path / "data", env),
            input=given or "",
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)

    def names(self, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The names that `innkeeper agents WORDS` lists."""
        result = self.run("agents", *words, env=env)
        assert result.code == 0, result.error
        return [line.split()[0] for line in result.output.splitlines()[1:]]

    def error(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """The one line in which `innkeeper WORDS` says why it cannot."""
        result = self.run(*words, env=env)
        assert result.code == 1, (result.code, result.output, result.error)
        assert result.output == ""
        assert result.error.startswith("Error: ") and result.error.count("\n") == 1, result.error
        return result.error.removeprefix("Error: ").rstrip()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
