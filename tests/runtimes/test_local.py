"""The local model, for real: a child process with the weights, asked with the OpenAI SDK."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from openai import AsyncOpenAI, AuthenticationError
from openai.types.chat import ChatCompletionUserMessageParam

from innkeeper import runtimes
from innkeeper.core.errors import MissingDependency, SetupError, ShuttingDown
from innkeeper.runtimes import local, weights
from innkeeper.runtimes.local import LocalEndpoint
from innkeeper.runtimes.settings import RuntimeSettings

pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def settings(weights_cache: Path) -> Iterator[RuntimeSettings]:
    hold = runtimes.Hold()  # or an app of another test, collected meanwhile, would end the children
    yield RuntimeSettings(cache_dir=weights_cache)
    hold.release()


@pytest.fixture
async def place(settings: RuntimeSettings) -> LocalEndpoint:
    return await local.endpoint("local:smollm2", settings)


@pytest.fixture
async def model(place: LocalEndpoint) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(place) as client:
        yield client


def client_of(place: LocalEndpoint) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=place.base_url, api_key=place.api_key, default_headers=place.headers, max_retries=0)


def said(text: str) -> list[ChatCompletionUserMessageParam]:
    return [{"role": "user", "content": text}]


def wait_until(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not claim():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(of: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    rows = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, parent, state in rows if int(parent) == of and not state.startswith("Z")]


def is_listed(pid: int) -> bool:
    """Whether it runs, or is dead and has not been reaped: its first thread may be dead before the others are."""
    return subprocess.run(["ps", "-p", str(pid)], capture_output=True).returncode == 0


def is_running(pid: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")


def servers(of: int) -> list[int]:
    """The model servers among a process's children."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True)
    programs = {int(line.split()[0]) for line in listed.stdout.splitlines() if "local_server.py" in line}
    return [pid for pid in children(of) if pid in programs]


async def test_it_answers_a_simple_question_sensibly(model: AsyncOpenAI) -> None:
    answer = await model.chat.completions.create(
        model="smollm2", messages=said("What is the capital of France?"), temperature=0
    )
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "smollm2"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 16  # the question in the template of the catalogue, nothing else
    assert answer.usage.completion_tokens == 8


async def test_it_streams_pieces_and_then_usage(model: AsyncOpenAI) -> None:
    stream = await model.chat.completions.create(
        model="smollm2",
        messages=said("What is the capital of France?"),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == "The capital of France is Paris."
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.total_tokens == 24


async def test_it_follows_the_conversation_and_its_system_prompt(model: AsyncOpenAI) -> None:
    answer = await model.chat.completions.create(
        model="smollm2",
        messages=[
            {"role": "system", "content": "Answer with the name of the city only."},
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": "Paris"},
            {"role": "user", "content": "What is the capital of Italy?"},
        ],
        temperature=0,
        max_tokens=20,
    )
    assert "Rome" in (answer.choices[0].message.content or "")


async def test_temperature_seed_and_max_tokens_are_honoured(model: AsyncOpenAI) -> None:
    async def story(temperature: float, seed: int) -> str | None:
        answer = await model.chat.completions.create(
            model="smollm2", messages=said("Tell me a story."), temperature=temperature, seed=seed, max_tokens=12
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 12
        return answer.choices[0].message.content

    assert len({await story(0, seed) for seed in range(3)}) == 1
    assert len({await story(2, seed) for seed in range(3)}) > 1


async def test_four_questions_at_once_are_all_answered(model: AsyncOpenAI) -> None:
    patient = model.with_options(max_retries=2)  # as agents' clients are: the child may drop a connection of many

    async def capital(country: str) -> str:
        answer = await patient.chat.completions.create(
            model="smollm2", messages=said(f"What is the capital of {country}?"), temperature=0, max_tokens=20
        )
        return answer.choices[0].message.content or ""

    answers = await asyncio.gather(*map(capital, ("France", "Germany", "Italy", "Japan")))
    for city, answer in zip(("Paris", "Berlin", "Rome", "Tokyo"), answers, strict=True):
        assert city in answer


async def test_no_question_after_a_stream_is_lost(model: AsyncOpenAI) -> None:
    for _ in range(60):
        stream = await model.chat.completions.create(model="smollm2", messages=said("hi"), max_tokens=2, stream=True)
        assert [chunk async for chunk in stream]


async def test_nobody_without_the_key_is_answered(place: LocalEndpoint) -> None:
    assert place.api_key not in repr(place)
    async with AsyncOpenAI(base_url=place.base_url, api_key="guess", max_retries=0) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.chat.completions.create(model="smollm2", messages=said("hi"))


async def test_the_key_is_not_in_the_list_of_processes(place: LocalEndpoint) -> None:
    (pid,) = servers(os.getpid())
    listed = subprocess.run(["ps", "eww", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert "local_server.py" in listed.stdout
    assert place.api_key not in listed.stdout


def test_first_calls_from_several_loops_start_one_child(settings: RuntimeSettings) -> None:
    local.shutdown()

    async def several() -> list[LocalEndpoint]:
        return await asyncio.gather(*(local.endpoint("smollm2", settings) for _ in range(3)))

    with ThreadPoolExecutor(3) as pool:
        places = {place for found in pool.map(lambda _: asyncio.run(several()), range(3)) for place in found}
    assert len(places) == 1
    assert len(servers(os.getpid())) == 1


async def test_a_caller_who_gives_up_does_not_stop_the_start_for_others(settings: RuntimeSettings) -> None:
    local.shutdown()
    impatient = asyncio.create_task(local.endpoint("smollm2", settings))
    patient = asyncio.create_task(local.endpoint("smollm2", settings))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).model == "smollm2"
    assert impatient.cancelled()


async def test_a_child_that_died_is_started_again_by_the_next_call(
    settings: RuntimeSettings, place: LocalEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    (pid,) = servers(os.getpid())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_listed(pid))
    wait_until(lambda: "The process of local:smollm2 ended (-9; it said nothing)" in caplog.text)
    again = await local.endpoint("smollm2", settings)
    (fresh,) = servers(os.getpid())
    assert fresh != pid
    async with httpx2.AsyncClient() as http:
        health = await http.get(again.base_url.removesuffix("/v1") + "/health")
    assert health.status_code == 200


def test_the_child_dies_with_a_parent_that_is_killed(weights_cache: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from innkeeper.runtimes import local\n"
        "from innkeeper.runtimes.settings import RuntimeSettings\n"
        "settings = RuntimeSettings(cache_dir=pathlib.Path(sys.argv[1]))\n"
        "print(asyncio.run(local.endpoint('smollm2', settings)).base_url, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(weights_cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline().startswith(b"http://127.0.0.1:")
            (child,) = servers(parent.pid)
            os.kill(child, signal.SIGINT)  # what Ctrl-C sends to the group, while the server still drains
            os.kill(child, signal.SIGTERM)
            time.sleep(0.2)
            assert is_running(child)
        finally:
            parent.kill()
    wait_until(lambda: not is_running(child))


def test_shutdown_ends_the_child_and_a_pending_start(settings: RuntimeSettings) -> None:
    local.prepare("smollm2", settings).result(timeout=60)
    (pid,) = servers(os.getpid())
    local.shutdown()
    assert not is_running(pid)
    pending = local.prepare("smollm2", settings)
    local.shutdown()
    assert isinstance(pending.exception(timeout=10), ShuttingDown)
    assert servers(os.getpid()) == []


def test_the_child_ends_with_the_last_app_that_is_stopped_or_collected(weights_cache: Path) -> None:
    program = (
        "import gc, pathlib, sys\n"
        "from innkeeper import Server\n"
        "from innkeeper.runtimes import local\n"
        "from innkeeper.runtimes.settings import RuntimeSettings\n"
        "from innkeeper.testing import MockAgent, create_test_client\n"
        "def used(name):\n"
        "    client = create_test_client(Server(agents=[MockAgent(name)]))\n"
        "    client.get('/agents')\n"
        "    return client\n"
        "clients = [used(name) for name in 'abc']\n"
        "local.prepare('smollm2', RuntimeSettings(cache_dir=pathlib.Path(sys.argv[1]))).result()\n"
        "for end in (clients[0].close, lambda: clients.pop(1), clients[-1].close):\n"
        "    print(flush=True)\n"
        "    sys.stdin.readline()\n"
        "    end()\n"
        "    gc.collect()\n"
        "print(flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(weights_cache)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdout.readline()
        (child,) = servers(parent.pid)
        for _ in range(2):
            parent.stdin.write(b"\n")
            parent.stdout.readline()
            time.sleep(0.2)  # who is collected ends in a thread
            assert is_running(child)
        parent.stdin.write(b"\n")
        wait_until(lambda: not is_running(child))
        parent.stdin.write(b"\n")


def test_prepare_reports_what_it_is_doing(settings: RuntimeSettings) -> None:
    local.shutdown()
    phases: list[str] = []
    found = local.prepare("smollm2", settings, lambda done, total, phase: phases.append(phase))
    assert found.result(timeout=60).model == "smollm2"
    assert phases == ["loading"]


async def test_a_file_of_ones_own_is_served_under_its_own_name(settings: RuntimeSettings, tmp_path: Path) -> None:
    weights_file = weights.find("smollm2", settings.cache_dir or tmp_path)
    assert weights_file is not None
    own = tmp_path / "my model.gguf"
    own.symlink_to(weights_file)
    validated = f"local:{own}"
    local.validate(validated, settings)
    place = await local.endpoint(validated, settings)
    async with client_of(place) as client:
        answer = await client.chat.completions.create(model=place.model, messages=said("hi"), max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    local.shutdown()


async def test_a_path_where_nothing_is_is_named(settings: RuntimeSettings, tmp_path: Path) -> None:
    missing = tmp_path / "missing.gguf"
    with pytest.raises(SetupError, match=str(missing)):
        local.validate(f"local:{missing}", settings)
    with pytest.raises(SetupError, match=str(missing)):
        await local.endpoint(f"local:{missing}", settings)


def test_a_file_that_holds_no_weights_is_refused_early(settings: RuntimeSettings, tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("not weights")
    with pytest.raises(SetupError, match="is not a GGUF file"):
        local.validate(f"local:{text}", settings)


async def test_weights_that_do_not_load_are_refused_with_the_reason(settings: RuntimeSettings, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(2000))
    with pytest.raises(SetupError, match=r"broken\.gguf could not be loaded: .*failed to load model"):
        await local.endpoint(f"local:{broken}", settings)


def test_without_the_extra_the_error_says_what_to_install(
    settings: RuntimeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependency, match=r"pip install 'innkeeper\[local\]'"):
        local.validate("local:smollm2", settings)
