"""Known programs: their lines, as their sources describe them, read as events, and their own memory."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from innkeeper import Program
from innkeeper.core.errors import AgentFailed, AgentTimedOut, Invalid
from innkeeper.core.events import AgentEvent, ReasoningDelta, TextDelta, ToolCalled, ToolReturned, UsageReported
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.core.usage import Usage
from innkeeper.runtimes.programs_formats import MAX_LINE, Lines, Told
from innkeeper.testing.runtimes import new_context, play, text_of
from tests.support.programs import CLAUDE, CODEX, GEMINI, hosted, preset, script


def told(*lines: object) -> list[AgentEvent]:
    """What is read of these lines of the small protocol."""
    reading = Lines(Told())
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    return [*reading.read(text), *reading.end()]


async def test_claude_tells_text_thoughts_tools_and_usage_once(tmp_path: Path) -> None:
    events = await play(hosted(preset("claude", CLAUDE, tmp_path)), "hello")
    assert text_of(events) == "Let me look.\n\nYou said: hello"
    assert [event for event in events if not isinstance(event, TextDelta)] == [
        ReasoningDelta("Hm."),
        ToolCalled("Bash", "toolu_1", '{"command": "ls"}'),
        ToolReturned("Bash", "toolu_1", "a.txt"),
        UsageReported(Usage(34, 7, "claude-sonnet-4-5")),
    ]


async def test_codex_tells_messages_commands_and_usage(tmp_path: Path) -> None:
    events = await play(hosted(preset("codex", CODEX, tmp_path)), "hello")
    assert text_of(events) == "I looked.\n\nYou said: hello"
    shell, patch = (event for event in events if isinstance(event, ToolCalled))
    assert (shell.tool_name, json.loads(shell.arguments)) == ("shell", {"command": "bash -lc ls"})
    assert patch.tool_name == "apply_patch"
    assert [(one.tool_call_id, one.result) for one in events if isinstance(one, ToolReturned)] == [
        (shell.tool_call_id, {"exit_code": 0, "output": "a.txt\n"}),
        (patch.tool_call_id, "completed"),
    ]
    assert events[-1] == UsageReported(Usage(100, 10))


async def test_gemini_tells_text_tools_and_usage(tmp_path: Path) -> None:
    events = await play(hosted(preset("gemini", GEMINI, tmp_path)), "hello")
    assert text_of(events) == "Looking. \n\nYou said: hello"
    assert [event for event in events if isinstance(event, ToolReturned)] == [
        ToolReturned("read_file", "read_file-1", "contents"),
        ToolReturned("read_file", "read_file-2", None, "not found"),
    ]
    assert events[-1] == UsageReported(Usage(11, 3, "gemini-2.5-pro"))


@pytest.mark.parametrize(("name", "source"), [("claude", CLAUDE), ("codex", CODEX), ("gemini", GEMINI)])
@pytest.mark.parametrize("terminal", [False, True])
async def test_a_known_program_goes_on_with_a_conversation_that_it_remembers(
    tmp_path: Path, name: str, source: str, terminal: bool
) -> None:
    runtime = hosted(preset(name, source, tmp_path, cwd=tmp_path, terminal=terminal))
    first = Message("user", "one")
    said = Message("assistant", text_of(await play(runtime, first)))
    second = await play(runtime, first, said, "two")
    assert text_of(second).strip().endswith("resumed You said: two")
    if name == "codex":
        assert second[-1] == UsageReported(Usage(100, 10)), "its usage is that of all turns"


@pytest.mark.parametrize("change", ["an edited answer", "another folder", "another session"])
async def test_a_conversation_that_it_does_not_remember_is_told_as_a_transcript(tmp_path: Path, change: str) -> None:
    context = new_context()
    fixed = {} if change == "another folder" else {"cwd": tmp_path}
    runtime = hosted(preset("claude", CLAUDE, tmp_path, **fixed))
    said = text_of(await play(runtime, "one", context=context))
    if change == "an edited answer":
        said = "else"
    if change == "another session":
        context = new_context()
        context.session_id = "another"
    second = text_of(await play(runtime, "one", Message("assistant", said), "two", context=context))
    assert second == f"Let me look.\n\nYou said: User: one\n\nAssistant: {said}\n\nUser: two"


async def test_the_folder_of_a_session_does_not_configure_claude() -> None:
    words = Program.preset("claude", "--permission-mode", "acceptEdits").command
    assert "--setting-sources=user" in words
    assert "--strict-mcp-config" in words
    assert words[-2:] == ("--permission-mode", "acceptEdits")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("claude", {"type": "result", "subtype": "error_max_turns", "is_error": True, "usage": {"output_tokens": 1}}),
        ("codex", {"type": "turn.failed", "error": {"message": "error_max_turns"}}),
        ("gemini", {"type": "result", "status": "error", "error": {"type": "E", "message": "error_max_turns"}}),
    ],
)
async def test_a_program_that_says_that_it_has_failed_has(tmp_path: Path, name: str, line: object) -> None:
    runtime = hosted(preset(name, f"print({json.dumps(line)!r})", tmp_path))
    with pytest.raises(AgentFailed, match="says: error_max_turns"):
        await play(runtime, "hello")


async def test_claude_that_is_not_let_in_fails_at_its_second_try_and_says_what_to_do(
    tmp_path: Path,
) -> None:
    tries = "\n".join(
        json.dumps(
            {"type": "system", "subtype": "api_retry", "attempt": attempt, "error_status": 401, "error": "refused"}
        )
        for attempt in (1, 2)
    )
    runtime = hosted(preset("claude", f"import time; print({tries!r}, flush=True); time.sleep(60)", tmp_path))
    with pytest.raises(AgentFailed, match=r"says: refused \(401\) \(Log it in .* ANTHROPIC_API_KEY"):
        await play(runtime, "hello")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("claude", {"type": "system", "subtype": "api_retry", "attempt": 9, "error_status": None, "error": "away"}),
        ("codex", {"type": "error", "message": "away"}),
        ("gemini", {"type": "error", "severity": "warning", "message": "away"}),
    ],
)
async def test_what_a_program_waits_for_is_in_the_log_before_it_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, line: object
) -> None:
    source = f"import time\nfor _ in range(9): print({json.dumps(line)!r}, flush=True)\ntime.sleep(60)"
    with pytest.raises(AgentTimedOut):
        await play(hosted(preset(name, source, tmp_path, timeout=0.5)), "hello")
    assert len([one for one in caplog.messages if "goes on, but says: away" in one]) == 1


@pytest.mark.parametrize("is_error", [True, False])
async def test_what_claude_says_itself_is_an_answer_unless_it_is_why_it_failed(tmp_path: Path, is_error: bool) -> None:
    told = {"id": "m", "model": "<synthetic>", "content": [{"type": "text", "text": "Please run /login"}]}
    lines = (
        {"type": "assistant", "message": told},
        {"type": "result", "is_error": is_error, "result": "Please run /login", "usage": {"input_tokens": 0}},
    )
    runtime = hosted(preset("claude", f"print({chr(10).join(map(json.dumps, lines))!r})", tmp_path))
    heard: list[AgentEvent | str] = []
    why = (
        pytest.raises(AgentFailed, match=r"run /login \(Log it in as the user of the server")
        if is_error
        else nullcontext()
    )
    with why:
        async for event in runtime.run(Turn((Message("user", "hello"),)), new_context()):
            heard.append(event)
    assert heard == ([] if is_error else [TextDelta("Please run /login")])


FORGETS = """
import json, sys
if any(word.startswith("--resume=") for word in sys.argv):
    print(json.dumps({"type": "result", "is_error": True, "subtype": "error_during_execution", "usage": {},
                      "errors": ["No conversation found with session ID"]}))
    sys.exit(1)
"""


async def test_a_program_that_has_forgotten_its_conversation_is_told_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = hosted(preset("claude", FORGETS + CLAUDE, tmp_path, cwd=tmp_path))
    said = text_of(await play(runtime, "one"))
    second = text_of(await play(runtime, "one", Message("assistant", said), "two"))
    assert second == f"Let me look.\n\nYou said: User: one\n\nAssistant: {said}\n\nUser: two"
    assert "told all again: The program claude says: No conversation found" in caplog.text


async def test_a_program_that_fails_after_it_has_told_something_is_not_run_again(tmp_path: Path) -> None:
    fails = "import sys, atexit, os\nif any('--resume' in word for word in sys.argv): atexit.register(os._exit, 3)\n"
    runtime = hosted(preset("claude", fails + CLAUDE, tmp_path, cwd=tmp_path))
    said = text_of(await play(runtime, "one"))
    with pytest.raises(AgentFailed, match="exit code 3"):
        await play(runtime, "one", Message("assistant", said), "two")


def test_claude_is_not_kept_in_a_terminal_as_it_reads_no_prompts_from_one() -> None:
    with pytest.raises(Invalid, match="reads no prompts from a terminal"):
        Program.preset("claude", kept=True, terminal=True)


async def test_gemini_says_that_it_trusts_no_folder_until_it_is_told_to(tmp_path: Path) -> None:
    preset("gemini", GEMINI, tmp_path)
    runtime = hosted(Program.preset("gemini", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}))
    with pytest.raises(AgentFailed, match=r"did, with the exit code 55.* not running in a trusted directory"):
        await play(runtime, "hello")


@pytest.mark.parametrize("name", ["claude", "codex", "gemini"])
async def test_a_program_that_ends_without_a_last_word_has_failed(tmp_path: Path, name: str) -> None:
    with pytest.raises(AgentFailed, match="ended before its answer did"):
        await play(hosted(preset(name, "print('{}')", tmp_path)), "hello")


def test_the_small_protocol_tells_everything() -> None:
    assert told(
        {"type": "reasoning", "text": "Hm."},
        {"type": "text", "text": "It is "},
        {"type": "tool_call", "id": "c1", "name": "look", "arguments": {"at": "it"}},
        {"type": "tool_result", "id": "c1", "result": [1]},
        {"type": "tool_call", "id": "c2", "name": "look"},
        {"type": "tool_result", "id": "c2", "error": "no"},
        {"type": "usage", "input_tokens": 3, "output_tokens": 2, "model": "m"},
        {"type": "unknown"},
        {"type": "done"},
        {"type": "text", "text": "too late"},
    ) == [
        ReasoningDelta("Hm."),
        TextDelta("It is "),
        ToolCalled("look", "c1", '{"at": "it"}'),
        ToolReturned("look", "c1", [1]),
        ToolCalled("look", "c2", "{}"),
        ToolReturned("look", "c2", None, "no"),
        UsageReported(Usage(3, 2, "m")),
    ]


def test_a_result_without_its_call_and_a_second_of_either_are_not_told() -> None:
    call, result = {"type": "tool_call", "id": "c1", "name": "look"}, {"type": "tool_result", "id": "c1", "result": 1}
    stray = {"type": "tool_result", "id": "c0", "result": 1}
    assert told(stray, call, call, result, result, {"type": "done"}) == [
        ToolCalled("look", "c1", "{}"),
        ToolReturned("look", "c1", 1),
    ]


def test_noise_between_the_lines_is_left_out() -> None:
    noise = ("Loading…", "", "[1, 2]", "\x1b[0m", "null")
    assert told(*noise, {"type": "text", "text": "hi"}, {"type": "done"}) == [TextDelta("hi")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"type": "text", "te', "not JSON, line 1"),
        ('{"a":' * 100_000, "not JSON, line 1"),
        ('{"type": "usage", "input_tokens": ' + "9" * 10_000 + "}", "not JSON, line 1"),
        ('{"type": "text"}', "cannot be read, line 1"),
        ('{"type": "text", "text": 5}', "cannot be read, line 1"),
        ('{"type": "tool_call"}', "cannot be read, line 1"),
        ('{"type": "error", "message": "no key"}', "says: no key"),
        ('{"type": "text", "text": "' + "x" * MAX_LINE, "more than 1024 KiB"),
        ('{"type": "text", "text": "half"}', "ended before its answer did"),
    ],
)
def test_lines_that_cannot_be_are_named(line: str, reason: str) -> None:
    with pytest.raises(AgentFailed, match=reason):
        told(line)


def test_a_line_without_an_end_is_given_up_before_it_fills_the_memory() -> None:
    reading = Lines(Told())
    with pytest.raises(AgentFailed, match="more than 1024 KiB"):
        for _ in range(100):
            list(reading.read("x" * 16_384))


async def test_the_pieces_of_a_line_are_put_together() -> None:
    source = (
        "import sys, time\n"
        'for letter in \'{"type": "text", "text": "ü 🦊"}\\n{"type": "done"}\':\n'
        "    for byte in letter.encode(): sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush()"
    )
    assert text_of(await play(hosted(script(source), output="jsonl"), "hi")) == "ü 🦊"
