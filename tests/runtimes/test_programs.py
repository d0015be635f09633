"""Programs that are run for each turn: what they are told, what they are given, and how they end."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path

import pytest

from innkeeper import Program
from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed, AgentTimedOut, Invalid
from innkeeper.core.events import TextDelta
from innkeeper.core.messages import Message
from innkeeper.core.runs import Turn
from innkeeper.runtimes.programs_formats import Text
from innkeeper.runtimes.programs_halls import Hall
from innkeeper.runtimes.programs_prompts import Place
from innkeeper.testing.runtimes import new_context, play, text_of
from tests.support.programs import hosted, is_gone, script
from tests.support.sizes import within

PRINT_ENVIRONMENT = "import json, os; print(json.dumps(dict(os.environ)))"
PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"
FORKS_AWAY = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        print(os.getpid(), flush=True)
        time.sleep(60)
    time.sleep(60)
time.sleep(60 if "stay" in sys.argv else 0.3)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of grandchildren that hide")


async def test_a_prompt_is_read_from_stdin_and_the_last_line_breaks_are_left_out() -> None:
    assert text_of(await play(hosted(["cat"]), "one\ntwo ü\n\n")) == "one\ntwo ü"


@pytest.mark.parametrize("prompt", ["-n", "--help", "- ", "$(id) `id` ; id", "a\nb", "'\""])
async def test_a_prompt_as_an_argument_is_neither_an_option_nor_for_a_shell(prompt: str) -> None:
    told = json.loads(text_of(await play(hosted(script(PRINT_ARGUMENTS, "-x"), prompt="argument"), prompt)))
    assert told[0] == "-x"
    assert len(told) == 2
    assert told[1].strip() == prompt.strip()
    assert not told[1].startswith("-")


async def test_a_prompt_goes_where_the_command_says() -> None:
    told = text_of(await play(hosted(script(PRINT_ARGUMENTS, "--message={prompt}", "end"), prompt="argument"), "-hi"))
    assert json.loads(told) == ["--message=-hi", "end"]


async def test_a_prompt_in_a_file_is_gone_afterwards() -> None:
    source = "import sys; print(sys.argv[1]); print(open(sys.argv[1]).read())"
    name, said = text_of(await play(hosted(script(source, "{file}"), prompt="file"), "in a file")).split("\n")
    assert said == "in a file"
    assert not Path(name).exists()


async def test_a_megabyte_is_read_from_stdin_and_refused_as_an_argument() -> None:
    large = "x" * 1024 * 1024
    assert text_of(await play(hosted(["wc", "-c"]), large)).strip() == str(len(large))
    with pytest.raises(AgentFailed, match="120 KiB as an argument; prompt='stdin'"):
        await play(hosted(["echo"], prompt="argument"), large)


async def test_a_program_need_not_read_what_it_is_told() -> None:
    assert text_of(await play(hosted(["echo", "done"]), "x" * 1024 * 1024)) == "done"


@pytest.mark.parametrize("prompt", ["stdin", "argument"])
async def test_a_nul_is_refused(prompt: str) -> None:
    with pytest.raises(AgentFailed, match="NUL"):
        await play(hosted(["cat"], prompt=prompt), "a\0b")


async def test_a_nul_that_was_said_before_is_left_out() -> None:
    told = (("user", "o\0ne"), ("assistant", "t\0wo"), ("user", "th\0ree"), ("user", "four"))
    said = [Message(role, text) for role, text in told]  # type: ignore[arg-type]  # a role is a literal
    assert text_of(await play(hosted(["cat"]), *said)) == "User: one\n\nAssistant: two\n\nUser: three\n\nUser: four"


async def test_the_conversation_is_told_as_a_transcript() -> None:
    messages = (
        Message("system", "Be brief."),
        Message("user", "one"),
        Message("assistant", "eins"),
        Message("user", "two"),
    )
    told = text_of(await play(hosted(["cat"]), *messages))
    assert told == "System: Be brief.\n\nUser: one\n\nAssistant: eins\n\nUser: two"
    assert text_of(await play(hosted(["cat"], history="last"), *messages)) == "two"


async def test_a_program_is_given_nothing_of_the_servers_environment_but_what_is_allowed() -> None:
    server = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "LC_ALL": "C", "TERM": "vt100", "GIVEN": "1"}
    secret = {"API_KEY_SECRET": "a", "DATABASE_URL": "b", "OPENAI_API_KEY": "c", "LD_PRELOAD": "d", "PYTHONPATH": "e"}
    runtime = hosted(
        script(PRINT_ENVIRONMENT), environment=server | secret, env_names=["GIVEN", "UNSET"], env={"OWN": "2"}
    )
    told = json.loads(text_of(await play(runtime, "hi")))
    told.pop("LC_CTYPE", None)
    allowed = {name: server[name] for name in ("PATH", "LANG", "LC_ALL", "GIVEN")}
    assert told == allowed | {"TERM": "dumb", "OWN": "2"}


async def test_a_request_sets_only_variables_that_the_operator_has_named() -> None:
    context = new_context()
    context.environment.changes.update({"KEY": "mine", "PATH": "/evil", "OTHER": "x", "FIXED": "x", "GONE": None})
    server = {"PATH": "/usr/bin:/bin", "KEY": "theirs", "GONE": "1"}
    runtime = hosted(
        script(PRINT_ENVIRONMENT), environment=server, env_names=["KEY", "FIXED", "GONE"], env={"FIXED": "1"}
    )
    told = json.loads(text_of(await play(runtime, "hi", context=context)))
    assert {name: told.get(name) for name in ("PATH", "KEY", "FIXED", "OTHER", "GONE")} == {
        "PATH": "/usr/bin:/bin",
        "KEY": "mine",
        "FIXED": "1",
        "OTHER": None,
        "GONE": None,
    }


async def test_it_works_in_the_operators_folder_or_in_one_that_is_removed(tmp_path: Path) -> None:
    assert text_of(await play(hosted(["pwd"], cwd=tmp_path), "hi")) == str(tmp_path)
    folder = text_of(await play(hosted(["sh", "-c", "echo x > file; pwd"]), "hi"))
    assert not Path(folder).exists()
    with pytest.raises(AgentFailed, match="is missing"):
        await play(hosted(["pwd"], cwd=tmp_path / "none"), "hi")


async def test_a_program_in_the_working_folder_is_never_started(tmp_path: Path) -> None:
    (tmp_path / "impostor").write_text("#!/bin/sh\necho evil\n")
    (tmp_path / "impostor").chmod(0o755)
    with pytest.raises(AgentFailed, match="was not found"):
        await play(hosted(["impostor"], cwd=tmp_path), "hi")


async def test_a_missing_program_is_warned_of_and_fails_runs_until_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        runtime = hosted(Program.preset("claude", env={"PATH": str(tmp_path)}))
    remedy = "npm install -g @anthropic-ai/claude-code"
    assert remedy in caplog.text
    with pytest.raises(AgentFailed, match=remedy):
        await play(runtime, "hi")


async def test_a_file_that_is_no_program_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"\x00\x01")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(AgentFailed, match="cannot be started: Exec format error"):
        await play(hosted([str(tmp_path / "broken")]), "hi")


async def test_an_exit_code_fails_the_run_and_the_reason_is_for_the_log() -> None:
    with pytest.raises(AgentFailed) as raised:
        await play(hosted(["sh", "-c", "printf so far; printf '\\033[1mno\\nkey' >&2; exit 3"]), "hi")
    assert str(raised.value) == "The program sh ended with the exit code 3. It wrote: no / key"


async def test_only_the_end_of_what_it_writes_to_stderr_is_kept() -> None:
    source = "import sys; sys.stderr.write('x' * 4_000_000 + 'the end'); sys.exit(1)"
    with pytest.raises(AgentFailed) as raised:
        await play(hosted(script(source)), "hi")
    assert len(str(raised.value)) < 9000
    assert str(raised.value).endswith("the end")


async def test_a_program_that_dies_in_the_middle_has_said_what_it_had() -> None:
    said: list[object] = []
    with pytest.raises(AgentFailed, match="exit code 137"):
        async for event in hosted(["sh", "-c", "echo so far; sleep 0.1; kill -9 $$"]).run(*_turn("hi")):
            said.append(event)
    assert said == [TextDelta("so far")]


async def test_text_that_is_no_utf_8_is_shown_as_far_as_it_is() -> None:
    assert text_of(await play(hosted(["printf", r"a\377b\303"], prompt="stdin"), "hi")) == "a\ufffdb\ufffd"


async def test_a_program_that_hangs_is_timed_out_and_gone() -> None:
    runtime = hosted(script("import os, time; print(os.getpid(), flush=True); time.sleep(60)"), timeout=0.5)
    said: list[object] = []
    with pytest.raises(AgentTimedOut, match=r"within 0\.5 s"):
        async for event in runtime.run(*_turn("hi")):
            said.append(event)
    assert await asyncio.to_thread(is_gone, _pid(said))


async def test_a_flood_is_read_only_as_fast_as_it_is_taken_and_then_refused() -> None:
    runtime = hosted(["yes"], max_output=1024 * 1024)
    events = runtime.run(*_turn("hi"))
    await anext(events)
    with pytest.raises(AgentFailed, match="printed more than 1048576 bytes"):
        async for _ in events:
            pass


FLOODED = within(0.6, 1.2)


async def test_a_flood_lets_the_event_loop_go_on() -> None:
    runtime = hosted(script('while True: print(\'{"type": "noise"}\')'), output="jsonl", timeout=FLOODED)
    run = asyncio.ensure_future(play(runtime, "hi"))
    longest, last = 0.0, time.monotonic()
    while not run.done():
        await asyncio.wait([run], timeout=0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert isinstance(run.exception(), AgentTimedOut)
    assert longest < FLOODED / 2


@pytest.mark.parametrize("mark", [None, "\n> "])
def test_a_flood_of_empty_lines_costs_no_more_than_another(mark: str | None) -> None:
    text = Text(mark)
    began = time.process_time()
    said = [event for _ in range(1000) for event in text.read("\n" * 16_384)]
    said += [*text.read("over\n> ")]
    assert time.process_time() - began < 1
    assert "".join(event.content for event in said if isinstance(event, TextDelta)).strip("\n").startswith("over")


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_line_breaks_before_a_mark_are_left_out_in_whatever_pieces_they_come(size: int) -> None:
    printed, text = "one\n\ntwo\n>\n\n\n> more", Text("\n> ")
    pieces = [printed[place : place + size] for place in range(0, len(printed), size)]
    said = [event for piece in pieces for event in text.read(piece)]
    assert "".join(event.content for event in said if isinstance(event, TextDelta)) == "one\n\ntwo\n>"
    assert text.is_over


async def test_whoever_is_called_and_gives_up_has_the_next_called() -> None:
    hall, taken = Hall(1, 60), Place(None, None, "taken")
    await hall.enter(taken)
    first, second = (asyncio.create_task(hall.enter(Place(None, None, name))) for name in ("one", "two"))
    await asyncio.sleep(0)
    hall.leave(taken)
    first.cancel()
    assert await asyncio.wait_for(second, 20) is None


async def test_one_that_closes_its_output_and_lives_on_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("innkeeper.runtimes.programs_runtime._LINGER", 0.2)
    source = "import os, time; print(os.getpid(), flush=True); os.close(1); time.sleep(60)"
    pid = int(text_of(await play(hosted(script(source)), "hi")))
    assert await asyncio.to_thread(is_gone, pid)


@linux
@pytest.mark.parametrize("terminal", [False, True])
async def test_what_has_forked_away_ends_with_the_program(terminal: bool) -> None:
    pid = int(text_of(await play(hosted(script(FORKS_AWAY), terminal=terminal), "hi")))
    assert await asyncio.to_thread(is_gone, pid)


@linux
async def test_what_has_forked_away_ends_when_the_run_is_cancelled() -> None:
    events = hosted(script(FORKS_AWAY, "stay")).run(*_turn("hi"))
    pid = _pid([await anext(events)])
    began = time.monotonic()
    await events.aclose()
    assert time.monotonic() - began < within(0.3, 5)
    assert await asyncio.to_thread(is_gone, pid)


async def test_one_that_ignores_sigterm_is_killed() -> None:
    source = (
        "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(60)"
    )
    events = hosted(script(source)).run(*_turn("hi"))
    pid = _pid([await anext(events)])
    await events.aclose()
    assert await asyncio.to_thread(is_gone, pid)


@linux
async def test_one_that_kills_who_watches_it_ends_its_run() -> None:
    source = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    while os.getppid() != 1 and time.sleep(0.02) is None:
        pass
    time.sleep(12)
    os._exit(0)
print("hi", flush=True)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(60)
"""
    with pytest.raises(AgentFailed, match="exit code"):
        await asyncio.wait_for(play(hosted(script(source)), "hi"), within(2, 8))


@linux
async def test_one_that_stops_who_watches_it_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("innkeeper.runtimes.programs_halls._PATIENCE", 0.2)
    source = "import os, time; os.kill(os.getppid(), 19); print(os.getpid(), flush=True); time.sleep(60)"
    events = hosted(script(source)).run(*_turn("hi"))
    pid = _pid([await anext(events)])
    await events.aclose()
    assert await asyncio.to_thread(is_gone, pid)


async def test_runs_beyond_the_most_wait_for_their_turn() -> None:
    runtime = hosted(["sh", "-c", "date +%s%N; sleep 0.2; date +%s%N"], most=1)
    first, second = sorted(
        [text_of(told).split() for told in await asyncio.gather(play(runtime, "a"), play(runtime, "b"))]
    )
    assert first[1] <= second[0]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"command": "claude -p"}, "command"),
        ({"command": []}, "command"),
        ({"command": ["a\0b"]}, "command"),
        ({"output": "xml"}, "output"),
        ({"prompt": "telepathy"}, "prompt"),
        ({"prompt": "file"}, "command"),
        ({"history": "resume"}, "resume"),
        ({"kept": True}, "end"),
        ({"kept": True, "end": "> ", "prompt": "argument"}, "prompt"),
        ({"kept": True, "output": "codex"}, "kept"),
        ({"env": {"A=B": "c"}}, "env"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"most": True}, "most"),
        ({"terminal": True, "columns": 0}, "columns"),
    ],
)
def test_what_cannot_be_is_refused_with_the_name_of_the_argument(options: dict[str, object], param: str) -> None:
    with pytest.raises(Invalid) as raised:
        Program(**{"command": ["a"], **options})  # type: ignore[arg-type]
    assert raised.value.param == param


def test_presets_are_named_where_one_is_unknown() -> None:
    with pytest.raises(Invalid, match="claude, codex, gemini"):
        Program.preset("clause")
    with pytest.raises(Invalid, match="cannot be kept"):
        Program.preset("gemini", kept=True)


def _turn(said: str) -> tuple[Turn, RunContext]:
    return Turn((Message("user", said),), stream=True), new_context()


def _pid(said: list[object]) -> int:
    return int("".join(event.content for event in said if isinstance(event, TextDelta)).split()[0])
