"""What every sandbox does; each sentence of the port's docstring, and every attack of `tests.sandbox.hostile`."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from innkeeper.core.errors import SourceRejected
from innkeeper.ports.sandbox import CodeFailed, HostFunction, LimitExceeded, Limits, Outcome, Sandbox, ToolFunction
from tests.sandbox.hostile import ATTACKS, CANARY, UNPARSABLE, VARIABLE, Attack
from tests.support.sandboxes import opened_or_skipped
from tests.support.sizes import sized, within

LIMITS = Limits(cpu_seconds=0.5, wall_seconds=2.0, memory=128 * 1024 * 1024)
HONEST = Limits(cpu_seconds=10, wall_seconds=60, memory=128 * 1024 * 1024)
"""For what ends by itself, however busy the machine is."""
MARGIN = within(4.0, 30.0)
"""Seconds that may be added to a limit."""


def made(name: str, calls: int = 4) -> Sandbox:
    match name:
        case "monty":
            pytest.importorskip("pydantic_monty")
            from innkeeper.sandbox.monty import MontySandbox

            return MontySandbox(calls)
        case "process":
            from innkeeper.sandbox.process import ProcessSandbox

            return ProcessSandbox(calls)
        case _:
            raise AssertionError(name)


@pytest.fixture(params=["monty", "process"])
async def sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Open, made by a server whose environment holds the canary; at most two calls at a time."""
    monkeypatch.setenv(VARIABLE, CANARY)
    opened = made(request.param, calls=2)
    await opened_or_skipped(opened)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["monty", "process"])
async def besieged(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """As `sandbox`, but one that outlives all attacks, one after the other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, CANARY)
        opened = made(request.param, calls=2)
        await opened_or_skipped(opened)
        yield opened
        await opened.close()


async def echo(*given: object, **named: object) -> object:
    return [*given, named] if named else given[0] if len(given) == 1 else list(given)


async def fail() -> object:
    secret = CANARY
    try:
        raise KeyError(secret)
    except KeyError as error:
        raise ValueError("the host failed") from error


HOSTS: dict[str, HostFunction] = {"echo": echo, "fail": fail}


async def value_of(sandbox: Sandbox, source: str, *given: object) -> object:
    outcome = await sandbox.call(source, "f", given, hosts=HOSTS, limits=HONEST)
    return outcome.value


async def burnt(sandbox: Sandbox) -> object:
    return await sandbox.call("def f():\n    while True: pass", "f", (), hosts=HOSTS, limits=LIMITS)


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["def f(a, b=1): ...", "async def f(a): ...", "def f(**given): ...", "def f(*, a): ..."]
)
async def test_a_function_that_takes_what_a_tool_declares_is_a_tool(sandbox: Sandbox, source: str) -> None:
    assert await sandbox.check_tool(source, "f", ["a"]) == ToolFunction("f", ("a",) if "given" not in source else ())


@pytest.mark.parametrize(
    ("source", "line", "column", "reason"),
    [
        ("def f(): ...", 1, 1, "has no parameter 'a'"),
        ("\ndef f(a, bé, ü): ...", 2, 10, "'bé' of 'f' is not declared"),
        ("def f(é, /, a=1): ...", 1, 7, "'é' of 'f' cannot be passed by keyword"),
        ("def f(a, *, long): ...", 1, 13, "'long' of 'f' is not declared"),
        ("def g(a): ...", 1, 1, "no function 'f' at its top level. Its functions: 'g'"),
        ("if 1:\n    def f(a): ...", 1, 1, "no function 'f' at its top level"),
        ("def f(a):\n    return é +", 2, 15, ""),
    ],
)
async def test_any_other_is_refused_with_line_and_column(
    sandbox: Sandbox, source: str, line: int, column: int, reason: str
) -> None:
    with pytest.raises(SourceRejected) as refused:
        await sandbox.check_tool(source, "f", ["a"])
    assert (refused.value.details["line"], refused.value.details["column"]) == (line, column)
    assert reason in refused.value.message


@pytest.mark.parametrize(
    "source", ["async def handle(command): ...", "def handle(event, /): ...", "def handle(e=1): ..."]
)
async def test_a_function_with_one_positional_parameter_is_a_handler(sandbox: Sandbox, source: str) -> None:
    assert await sandbox.check_handler(source, None) == "handle"


@pytest.mark.parametrize("parameters", ["", "a, b", "*, a", "a, *, b", "**given"])
async def test_a_function_with_any_other_parameters_is_no_handler(sandbox: Sandbox, parameters: str) -> None:
    with pytest.raises(SourceRejected, match=r"line 2, column 1: .*exactly one positional parameter"):
        await sandbox.check_handler(f"\ndef handle({parameters}): ...", None)


async def test_where_no_name_is_given_the_last_function_is_meant(sandbox: Sandbox) -> None:
    source = "def helper(): ...\ndef handle(event): ...\nclass Last: ...\n"
    assert await sandbox.check_handler(source, None) == "handle"
    assert (await sandbox.check_tool("def f(): ...\ndef g(a): ...\n", None, ["a"])).name == "g"
    with pytest.raises(SourceRejected, match="no function at its top level"):
        await sandbox.check_handler("handle = print", None)


@pytest.mark.parametrize("name", UNPARSABLE)
async def test_what_is_no_python_or_too_much_of_it_is_refused_at_once(sandbox: Sandbox, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(SourceRejected):
        await sandbox.check_handler(UNPARSABLE[name], None)
    assert time.monotonic() - began < within(2, 30)


async def test_checks_execute_nothing(sandbox: Sandbox) -> None:
    source = "while True: pass\ndef handle(event): ...\n"
    assert await sandbox.check_handler(source, "handle") == "handle"


async def test_checks_wait_for_no_call(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=60, wall_seconds=60)
    source = "def f():\n    while True: pass"
    burning = [asyncio.create_task(sandbox.call(source, "f", {}, hosts={}, limits=limits)) for _ in range(3)]
    await asyncio.sleep(0)
    await sandbox.check_handler("def handle(event): ...", None)
    assert not any(task.done() for task in burning)
    for task in burning:
        task.cancel()
    await asyncio.wait(burning)


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "def f(a, b): return [a, b]",
        "async def f(a, b): return [a, b]",
        "async def g(a, b): return [a, b]\ndef f(a, b): return g(a, b)",
        "together = list\ndef f(*given): return together(given)",
    ],
)
async def test_a_function_is_called_and_awaited(sandbox: Sandbox, source: str) -> None:
    assert await value_of(sandbox, source, {"x": [1, None, "é", 2.5]}, True) == [{"x": [1, None, "é", 2.5]}, True]


async def test_arguments_are_passed_by_keyword_or_by_position(sandbox: Sandbox) -> None:
    source = "def f(a, b=2, *, c=3): return [a, b, c]"
    assert await sandbox.call(source, "f", {"c": 5, "a": 1}, hosts={}, limits=LIMITS) == Outcome([1, 2, 5])
    assert await sandbox.call(source, "f", (7,), hosts={}, limits=LIMITS) == Outcome([7, 2, 3])


async def test_what_is_printed_comes_with_the_value(sandbox: Sandbox) -> None:
    outcome = await sandbox.call("print('é', 1)\ndef f(): print('two')", "f", {}, hosts={}, limits=LIMITS)
    assert outcome == Outcome(None, "é 1\ntwo\n")


async def test_what_one_call_leaves_behind_is_gone(sandbox: Sandbox) -> None:
    source = "import json\nkept = []\ndef f():\n    kept.append(1)\n    return len(kept)"
    assert [await value_of(sandbox, source) for _ in range(3)] == [1, 1, 1]
    await value_of(sandbox, "left = 1\nlen = None\ndef f(): ...")
    with pytest.raises(CodeFailed, match="NameError"):
        await value_of(sandbox, "def f(): return left")
    assert await value_of(sandbox, "def f(): return len([1])") == 1


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def f():\n    raise ValueError('so it is')", "ValueError: so it is"),
        ("def f(): return 1 / 0", "ZeroDivisionError"),
        ("def f(a): ...", "TypeError"),
        ("def g(): ...", "f"),
        ("def f(:", "SyntaxError"),
        ("raise TimeoutError('mine')\ndef f(): ...", "TimeoutError: mine"),
    ],
)
async def test_code_that_raises_says_what_it_raised(sandbox: Sandbox, source: str, text: str) -> None:
    with pytest.raises(CodeFailed, match=text):
        await value_of(sandbox, source)


async def test_what_is_not_json_comes_back_as_text(sandbox: Sandbox) -> None:
    source = (
        "def f(): return {'set': {1}, 'bytes': b'x', 'infinite': float('inf'), 'tuple': (1, 2), 3: None, (4, 5): 6}"
    )
    expected = {"set": "{1}", "bytes": "b'x'", "infinite": "inf", "tuple": [1, 2], "3": None, "(4, 5)": 6}
    assert await value_of(sandbox, source) == expected


async def test_what_is_nested_too_deeply_for_json_says_so(sandbox: Sandbox) -> None:
    source = "def f(depth):\n    deep = 1\n    for _ in range(depth): deep = [deep]\n    return deep"
    value = await value_of(sandbox, source, 50)
    for _ in range(50):
        assert isinstance(value, list)
        (value,) = value
    assert value == 1
    for depth in (200, 100_000):
        with pytest.raises(CodeFailed, match="nested deeper than 100 levels"):
            await value_of(sandbox, source, depth)


# --- host functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "def f(): return echo({'a': [1]})",
        "async def f(): return await echo({'a': [1]})",
        "import asyncio\nasync def f(): return (await asyncio.gather(echo(0), echo({'a': [1]})))[1]",
        "async def f():\n    def inner(): return echo({'a': [1]})\n    return inner()",
        "given = echo({'a': [1]})\ndef f(): return given",
        "other = echo\ndef f(): return other({'a': [1]})",
        "async def f(): return [await given for given in [echo({'a': [1]}) for _ in range(2)]][1]",
    ],
)
async def test_a_host_function_is_awaited_inside_of_async_def_and_is_the_value_elsewhere(
    sandbox: Sandbox, source: str
) -> None:
    assert await value_of(sandbox, source) == {"a": [1]}


async def test_a_host_function_begins_when_it_is_called(sandbox: Sandbox) -> None:
    begun: list[object] = []

    async def begin(value: object) -> None:
        await asyncio.sleep(0.01)
        begun.append(value)

    source = "async def f():\n    begin(1)\n    await begin(2)\n    begin(3)"
    await sandbox.call(source, "f", {}, hosts={"begin": begin}, limits=LIMITS)
    assert sorted(begun, key=str) == [1, 2, 3]


async def test_host_functions_that_are_awaited_together_run_together(sandbox: Sandbox) -> None:
    barrier = asyncio.Barrier(3)

    async def meet() -> int:
        return await barrier.wait()

    source = "import asyncio\nasync def f(): return sorted(await asyncio.gather(meet(), meet(), meet()))"
    assert (await sandbox.call(source, "f", {}, hosts={"meet": meet}, limits=LIMITS)).value == [0, 1, 2]


@pytest.mark.parametrize("kind", ["", "async "])
async def test_what_a_host_function_raises_arrives_as_runtime_error(sandbox: Sandbox, kind: str) -> None:
    call = "await fail()" if kind else "fail()"
    source = f"{kind}def f():\n    try:\n        {call}\n    except RuntimeError as error:\n        return str(error)"
    assert await value_of(sandbox, source) == "the host failed"


async def test_time_in_host_functions_is_not_time_of_the_code(sandbox: Sandbox) -> None:
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "done"

    limits = Limits(cpu_seconds=0.5, wall_seconds=60)
    outcome = await sandbox.call("def f(): return [slow(), slow()]", "f", {}, hosts={"slow": slow}, limits=limits)
    assert outcome.value == ["done", "done"]


async def test_a_host_function_that_takes_too_long_ends_the_call_and_is_cancelled(sandbox: Sandbox) -> None:
    ended = asyncio.Event()

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(LimitExceeded, match="wall_seconds"):
        await sandbox.call(
            "async def f(): await never()", "f", {}, hosts={"never": never}, limits=Limits(wall_seconds=1.5)
        )
    await asyncio.wait_for(ended.wait(), 20)


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_an_attack_ends_and_gives_nothing_away(besieged: Sandbox, attack: Attack, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(CANARY)
    began = time.monotonic()
    answer = await answer_to(besieged, attack, str(secret))
    assert time.monotonic() - began < LIMITS.wall_seconds + MARGIN
    assert CANARY not in answer
    assert "/innkeeper/" not in answer
    assert secret.read_text() == CANARY
    if attack.limits:
        assert answer in [f"limit: {one}" for one in attack.limits]
    assert await value_of(besieged, "def f(a): return a + 1", 1) == 2


@pytest.mark.parametrize(
    ("limit", "body"),
    [
        ("cpu_seconds", "while True: pass"),
        ("wall_seconds", "never()"),
        ("memory", "return len(['x' * 10 ** 6 + str(one) for one in range(1000)])"),
        ("output", "for _ in range(20): print('x' * 10 ** 5)"),
        ("output", "return ['x' * 10 ** 5] * 20"),
        ("output", "echo(['x' * 10 ** 5] * 20)"),
        ("calls", "for _ in range(20): echo(1)"),
        ("recursion", "return f()"),
    ],
)
async def test_the_limit_that_ended_a_call_is_named(sandbox: Sandbox, limit: str, body: str) -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    given: dict[str, Any] = {
        "cpu_seconds": 0.2,
        "wall_seconds": 0.2,
        "memory": 64 * 1024 * 1024,
        "calls": 10,
        "output": 1024 * 1024,
    }
    wide = Limits(cpu_seconds=20, wall_seconds=90)
    limits = dataclasses.replace(wide, **{limit: given[limit]}) if limit in given else wide
    with pytest.raises(LimitExceeded) as ended:
        await sandbox.call(f"def f():\n    {body}", "f", {}, hosts={**HOSTS, "never": never}, limits=limits)
    assert ended.value.limit == limit


async def answer_to(sandbox: Sandbox, attack: Attack, path: str) -> str:
    """In words that tests can compare."""
    try:
        await sandbox.check_tool(attack.source, "attack", ["path"])
    except SourceRejected as refused:
        return f"refused: {refused}"
    try:
        outcome = await sandbox.call(attack.source, "attack", {"path": path}, hosts=HOSTS, limits=LIMITS)
    except LimitExceeded as ended:
        return f"limit: {ended.limit}"
    except CodeFailed as failed:
        return f"failed: {failed}"
    return f"returned: {outcome.value} {outcome.printed}"


PATIENCE = within(1.0, 3.0)
"""Less than the last of all calls waits."""


async def test_as_many_calls_run_as_the_sandbox_was_made_for_and_waiting_costs_no_patience(sandbox: Sandbox) -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(PATIENCE / 2)
        running -= 1

    limits = Limits(wall_seconds=PATIENCE)
    calls = [sandbox.call("def f(): work()", "f", {}, hosts={"work": work}, limits=limits) for _ in range(6)]
    await asyncio.gather(*calls)
    assert most == 2


async def test_calls_that_call_others_do_not_wait_for_each_other(sandbox: Sandbox) -> None:
    async def again(depth: int) -> object:
        source = "def f(depth): return again(depth - 1) if depth else 'bottom'"
        outcome = await sandbox.call(source, "f", (depth,), hosts={"again": again}, limits=Limits(wall_seconds=60))
        return outcome.value

    async with asyncio.timeout(60):
        assert await asyncio.gather(*(again(2) for _ in range(4))) == ["bottom"] * 4


async def test_a_call_that_is_cancelled_ends_and_leaves_its_place(sandbox: Sandbox) -> None:
    for _ in range(3):
        calls = [asyncio.create_task(burnt(sandbox)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
    async with asyncio.timeout(LIMITS.cpu_seconds + MARGIN):
        assert await value_of(sandbox, "def f(): return 1") == 1


async def test_code_that_burns_does_not_hold_up_the_event_loop(sandbox: Sandbox) -> None:
    burning = [asyncio.create_task(burnt(sandbox)) for _ in range(sized(8, 4))]
    late = []
    while not all(task.done() for task in burning):
        began = time.monotonic()
        await asyncio.sleep(0.01)
        late.append(time.monotonic() - began - 0.01)
    assert sorted(late)[len(late) // 2] < within(0.02, 0.2)
    assert all(isinstance(task.exception(), LimitExceeded) for task in burning)


async def test_a_sandbox_that_was_closed_can_be_closed_again(sandbox: Sandbox) -> None:
    await sandbox.close()
    await sandbox.close()
