"""Programs for tests: small stand-ins for agents on the command line, in the formats that those print."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innkeeper import Program
from innkeeper.runtimes.programs_runtime import ProgramRuntime
from innkeeper.runtimes.settings import RuntimeSettings

PYTHON = (sys.executable, "-I", "-S", "-u")


def script(source: str, *arguments: str) -> list[str]:
    """The words that run some Python, quickly and without anything of this environment."""
    return [*PYTHON, "-c", source, *arguments]


def hosted(
    command: list[str] | Program, name: str = "agent", environment: Mapping[str, str] | None = None, **options: Any
) -> ProgramRuntime:
    program = command if isinstance(command, Program) else Program(command, **options)
    variables = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} if environment is None else environment
    return ProgramRuntime(program, name, RuntimeSettings(environment=variables))


def preset(name: str, source: str, folder: Path, **options: Any) -> Program:
    """The preset, with a stand-in for its program; the arguments are the real one's."""
    stand_in = folder / name
    stand_in.write_text(f'#!/bin/sh\nexec {" ".join(PYTHON)} {folder / name}.py "$@"\n')
    stand_in.chmod(0o755)
    Path(f"{stand_in}.py").write_text(source)
    path = f"{folder}:{os.environ['PATH']}"
    arguments = ("--skip-trust",) if name == "gemini" else ()
    return Program.preset(name, *arguments, env={"PATH": path, **options.pop("env", {})}, **options)


def is_gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends within that time; one that nobody has buried counts as one that lives."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


CLAUDE = r"""
import json, sys
def say(**line): print(json.dumps(line), flush=True)
arguments = sys.argv[1:]
is_kept = "--input-format" in arguments
resumed = next((word.partition("=")[2] for word in arguments if word.startswith("--resume=")), None)
session = resumed or "5f9f74a6-6b7c-4a3e-9e1d-2f1f0a9b8c7d"
def event(**event):
    say(type="stream_event", event=event, session_id=session, parent_tool_use_id=None, uuid="u")
def message(number, *content):
    said = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
            "content": list(content), "stop_reason": None, "usage": {"input_tokens": 3, "output_tokens": 1}}
    say(type="assistant", message=said, parent_tool_use_id=None, session_id=session, uuid="u")
def answer(prompt):
    say(type="system", subtype="init", cwd="/", session_id=session, tools=["Bash"], mcp_servers=[],
        model="claude-sonnet-4-5[1m]", permissionMode="default", apiKeySource="none")
    say(type="system", subtype="status", status="requesting", session_id=session)
    begun = {"role": "assistant", "model": "claude-sonnet-4-5", "content": []}
    event(type="message_start", message={"id": "msg_1", **begun})
    say(type="system", subtype="thinking_tokens", estimated_tokens=4, session_id=session)
    event(type="content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    event(type="content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."})
    event(type="content_block_delta", index=0, delta={"type": "signature_delta", "signature": "abc"})
    event(type="content_block_stop", index=0)
    for piece in ("Let me ", "look."):
        event(type="content_block_delta", index=1, delta={"type": "text_delta", "text": piece})
    message(1, {"type": "thinking", "thinking": "Hm.", "signature": "abc"})
    message(1, {"type": "text", "text": "Let me look."})
    message(1, {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}})
    event(type="message_stop")
    say(type="assistant", message={"id": "msg_s", "content": [{"type": "text", "text": "a subagent"}]},
        parent_tool_use_id="toolu_1", session_id=session)
    result = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.txt", "is_error": False}]
    say(type="user", message={"role": "user", "content": result}, parent_tool_use_id=None, session_id=session)
    event(type="message_start", message={"id": "msg_2", **begun})
    told = f"{'resumed ' if resumed else ''}You said: {prompt}"
    event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": told})
    message(2, {"type": "text", "text": told})
    say(type="result", subtype="success", is_error=False, duration_ms=1, duration_api_ms=1, num_turns=2,
        result=told, session_id=session, total_cost_usd=0.01,
        usage={"input_tokens": 4, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 20,
               "output_tokens": 7, "server_tool_use": {"web_search_requests": 0}})
if is_kept:
    for line in sys.stdin:
        answer(json.loads(line)["message"]["content"])
elif "--" in arguments:
    answer(arguments[arguments.index("--") + 1])
elif sys.stdin.isatty():
    sys.exit("Error: Input must be provided either through stdin or as a prompt argument when using --print")
else:
    answer(sys.stdin.read())
"""

CODEX = r"""
import json, sys
def say(**line): print(json.dumps(line), flush=True)
arguments = sys.argv[1:]
assert arguments[0] == "exec" and "--json" in arguments and arguments[-1] == "-", arguments
resumed = arguments[arguments.index("resume") + 1] if "resume" in arguments else None
prompt = sys.stdin.read()
say(type="thread.started", thread_id=resumed or "0199a213-81c0-7800-8aa1-bbab2a035a53")
say(type="item.completed", item={"id": "item_e", "type": "error", "message": "Model metadata not found."})
say(type="turn.started")
say(type="error", message="Reconnecting... 1/5")
say(type="item.completed", item={"id": "item_0", "type": "reasoning", "text": "**Looking**"})
command = {"id": "item_1", "type": "command_execution", "command": "bash -lc ls"}
say(type="item.started", item={**command, "aggregated_output": "", "exit_code": None, "status": "in_progress"})
say(type="item.completed", item={**command, "aggregated_output": "a.txt\n", "exit_code": 0, "status": "completed"})
say(type="item.completed", item={"id": "item_2", "type": "file_change", "status": "completed",
                                 "changes": [{"path": "a.txt", "kind": "update"}]})
say(type="item.completed", item={"id": "item_3", "type": "agent_message", "text": "I looked."})
told = f"{'resumed ' if resumed else ''}You said: {prompt}"
say(type="item.completed", item={"id": "item_4", "type": "agent_message", "text": told})
turns = 2 if resumed else 1
say(type="turn.completed", usage={"input_tokens": 100 * turns, "cached_input_tokens": 50, "output_tokens": 10 * turns})
"""

GEMINI = r"""
import json, sys
def say(**line): print(json.dumps({**line, "timestamp": "2026-01-01T00:00:00Z"}), flush=True)
arguments = sys.argv[1:]
assert arguments[:2] == ["--output-format", "stream-json"], arguments
resumed = any(word.startswith("--resume=") for word in arguments)
if "--skip-trust" not in arguments:
    print("Gemini CLI is not running in a trusted directory.", file=sys.stderr)
    sys.exit(55)
given = next((word.partition("=")[2] for word in arguments if word.startswith("--prompt=")), None)
assert given is not None or not sys.stdin.isatty(), "it would show its screen, and wait"
prompt = sys.stdin.read() if given is None else given
print("Loaded cached credentials.")
say(type="init", session_id="a1b2c3d4-e5f6-7890-abcd-ef1234567890", model="auto")
say(type="message", role="user", content=prompt)
say(type="message", role="assistant", content="Looking. ", delta=True)
say(type="tool_use", tool_name="read_file", tool_id="read_file-1", parameters={"path": "a.txt"})
say(type="tool_result", tool_id="read_file-1", status="success", output="contents")
say(type="tool_use", tool_name="read_file", tool_id="read_file-2", parameters={"path": "b.txt"})
say(type="tool_result", tool_id="read_file-2", status="error", output="x", error={"type": "E", "message": "not found"})
say(type="message", role="assistant", content="resumed " if resumed else "", delta=True)
say(type="message", role="assistant", content=f"You said: {prompt}", delta=True)
say(type="result", status="success", stats={"total_tokens": 14, "input_tokens": 11, "output_tokens": 3, "cached": 0,
    "input": 11, "duration_ms": 1, "tool_calls": 2, "models": {
        "gemini-2.5-flash-lite": {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "cached": 0, "input": 0},
        "gemini-2.5-pro": {"total_tokens": 14, "input_tokens": 11, "output_tokens": 3, "cached": 0, "input": 11}}})
"""

KEPT = r"""
import json, os, sys
heard = []
for line in sys.stdin:
    asked = json.loads(line)
    heard.append(asked["text"])
    if asked["text"] == "die":
        sys.exit(5)
    if asked["text"] == "die silently":
        os._exit(0)
    told = json.dumps({"pid": os.getpid(), "heard": heard})
    print(json.dumps({"type": "text", "text": told}))
    print(json.dumps({"type": "done"}), flush=True)
"""
"""One that is kept: it answers with what it has heard so far, as JSON."""
