"""The contract of runtimes, over programs: in pipes and in a terminal, for a turn and kept."""

from __future__ import annotations

from innkeeper.ports.agents import Runtime
from innkeeper.testing import RuntimeContract
from tests.support.programs import hosted, script

ECHO_LINES = r"""
import json, sys
for line in sys.stdin:
    print(json.dumps({"type": "text", "text": json.loads(line)["text"]}))
    print(json.dumps({"type": "done"}), flush=True)
"""
TOOL_LINES = r"""
import json
print(json.dumps({"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "it"}}))
print(json.dumps({"type": "tool_result", "id": "c1", "result": 3}))
print(json.dumps({"type": "done"}))
"""


class ProgramContract(RuntimeContract):
    secrets = ("s3cret-word",)

    def echo_runtime(self) -> Runtime:
        return hosted(["cat", "-"], env={"KEY": "s3cret-word"})

    def failing_runtime(self) -> Runtime:
        return hosted(["false"])

    def slow_runtime(self) -> Runtime:
        return hosted(["sleep", "0.6"])

    def tool_runtime(self) -> Runtime:
        return hosted(script(TOOL_LINES), output="jsonl")


class TestProgram(ProgramContract):
    pass


class TestProgramInATerminal(ProgramContract):
    def echo_runtime(self) -> Runtime:
        return hosted(["cat"], terminal=True)

    def slow_runtime(self) -> Runtime:
        return hosted(["sleep", "0.6"], terminal=True)


class TestKeptProgram(ProgramContract):
    def echo_runtime(self) -> Runtime:
        return hosted(script(ECHO_LINES), output="jsonl", kept=True)
