"""Programs that are kept: one process a session, which hears a conversation once, and whole."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from innkeeper.core.context import RunContext
from innkeeper.core.errors import AgentFailed
from innkeeper.core.messages import Message
from innkeeper.runtimes.programs_runtime import ProgramRuntime
from innkeeper.testing.runtimes import new_context, play, text_of
from tests.support.programs import CLAUDE, KEPT, hosted, is_gone, preset, script

MARKED = r"""
import sys
print("Welcome!\n> ", end="", flush=True)
for line in sys.stdin:
    print(f"heard {line.strip()}\nso\n> ", end="", flush=True)
"""


class Talk:
    """One session with a program: each turn is told all that was said before."""

    def __init__(self, runtime: ProgramRuntime, session: str = "s1") -> None:
        self.messages: list[Message] = []
        self._runtime = runtime
        self._session = session

    def context(self) -> RunContext:
        context = new_context()
        context.session_id = context.session_key = self._session
        return context

    async def say(self, text: str) -> str:
        self.messages.append(Message("user", text))
        answer = text_of(await play(self._runtime, *self.messages, context=self.context()))
        self.messages.append(Message("assistant", answer))
        return answer

    async def heard(self, text: str) -> tuple[int, list[str]]:
        told = json.loads(await self.say(text))
        return told["pid"], told["heard"]


def kept(**options: Any) -> ProgramRuntime:
    return hosted(script(KEPT), output="jsonl", kept=True, **options)


async def test_one_process_hears_each_prompt_of_a_session_once() -> None:
    runtime = kept()
    talk = Talk(runtime)
    first, second, third = [await talk.heard(text) for text in ("one", "two\nlines", "three")]
    assert first[0] == second[0] == third[0]
    assert third[1] == ["one", "two\nlines", "three"]
    await runtime.close()


async def test_each_session_has_a_process_of_its_own() -> None:
    runtime = kept()
    (first, _), (second, heard) = await Talk(runtime, "s1").heard("one"), await Talk(runtime, "s2").heard("two")
    assert first != second
    assert heard == ["two"]
    await runtime.close()


@pytest.mark.parametrize("word", ["die", "die silently"])
async def test_one_that_dies_fails_its_run_and_the_next_is_told_the_conversation(word: str) -> None:
    runtime = kept()
    talk = Talk(runtime)
    first, _ = await talk.heard("one")
    with pytest.raises(AgentFailed, match="ended before its answer did"):
        await talk.say(word)
    talk.messages.pop()
    second, heard = await talk.heard("two")
    assert second != first
    assert heard == [f"User: one\n\nAssistant: {talk.messages[1].content}\n\nUser: two"]
    await runtime.close()


async def test_one_that_died_between_two_turns_is_started_anew() -> None:
    import os
    import signal

    runtime = kept()
    talk = Talk(runtime)
    first, _ = await talk.heard("one")
    os.kill(first, signal.SIGKILL)
    assert await asyncio.to_thread(is_gone, first)
    second, heard = await talk.heard("two")
    assert second != first
    assert heard[0].endswith("User: two")
    await runtime.close()


async def test_an_edited_message_is_not_told_to_a_process_that_has_heard_another() -> None:
    runtime = kept()
    talk = Talk(runtime)
    await talk.heard("one")
    talk.messages[0] = Message("user", "another")
    _, heard = await talk.heard("two")
    assert heard[0].startswith("User: another\n\n")
    assert len(heard) == 1
    await runtime.close()


async def test_an_idle_process_ends() -> None:
    runtime = kept(idle_seconds=0.1)
    pid, _ = await Talk(runtime).heard("one")
    assert await asyncio.to_thread(is_gone, pid)
    await runtime.close()


async def test_the_oldest_idle_process_makes_room_for_another_session() -> None:
    runtime = kept(most=2)
    pids = [(await Talk(runtime, f"s{number}").heard("one"))[0] for number in range(3)]
    assert await asyncio.to_thread(is_gone, pids[0])
    assert all(Path(f"/proc/{pid}").exists() for pid in pids[1:])
    await runtime.close()
    assert all([await asyncio.to_thread(is_gone, pid) for pid in pids])


async def test_a_session_that_is_deleted_takes_its_process_along() -> None:
    runtime = kept()
    pid, _ = await Talk(runtime, "s1").heard("one")
    other, _ = await Talk(runtime, "s2").heard("one")
    runtime.forget("s1")
    assert await asyncio.to_thread(is_gone, pid)
    assert Path(f"/proc/{other}").exists()
    await runtime.close()


async def test_a_run_that_is_cancelled_ends_its_process() -> None:
    runtime = hosted(script("import sys, time; sys.stdin.readline(); time.sleep(60)"), output="jsonl", kept=True)
    run = asyncio.ensure_future(play(runtime, "hi"))
    await asyncio.wait([run], timeout=0.2)
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    await runtime.close()
    assert runtime._hall is not None
    assert runtime._hall._taken == 0


@pytest.mark.parametrize("terminal", [False, True])
async def test_text_ends_at_its_mark_and_a_greeting_is_no_answer(terminal: bool) -> None:
    runtime = hosted(script(MARKED), kept=True, end="\n> ", greets=True, terminal=terminal)
    talk = Talk(runtime)
    assert [await talk.say(text) for text in ("one", "two\nlines")] == ["heard one\nso", "heard two lines\nso"]
    await runtime.close()


async def test_what_is_typed_into_a_terminal_neither_interrupts_nor_ends_the_program() -> None:
    runtime = hosted(script(MARKED), kept=True, end="\n> ", greets=True, terminal=True)
    assert await Talk(runtime).say("a\x03b\x04c\x1b[Ad\x1ae") == "heard abc[Ade\nso"
    with pytest.raises(AgentFailed, match="4000 bytes through a terminal"):
        await Talk(runtime, "s2").say("x" * 5000)
    await runtime.close()


async def test_claude_may_be_kept(tmp_path: Path) -> None:
    runtime = hosted(preset("claude", CLAUDE, tmp_path, kept=True))
    talk = Talk(runtime)
    answers = [await talk.say(text) for text in ("one", "two")]
    assert answers == ["Let me look.\n\nYou said: one", "Let me look.\n\nYou said: two"]
    await runtime.close()


async def test_an_empty_answer_is_an_answer() -> None:
    runtime = hosted(script("for line in open(0): print('', end='> ', flush=True)"), kept=True, end="> ")
    messages = [Message("user", "one"), Message("user", "two")]
    context = Talk(runtime).context()
    await play(runtime, messages[0], context=context)
    assert runtime._hall is not None
    first = next(iter(runtime._hall._idle.values()))
    await play(runtime, *messages, context=context)
    assert next(iter(runtime._hall._idle.values())) is first
    await runtime.close()
