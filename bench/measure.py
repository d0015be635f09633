"""Measures Innkeeper against the floor and reports. `scripts/bench` runs it.

Both sides run all the time; the load is on one of them at a time, in short rounds that alternate, so that whatever
else the machine does falls on both alike. What is quoted is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.clients import CHAT, Client, chat_body
from bench.reports import Figure, Rates, report, with_others
from bench.servers import ROOT, Server, on_uvicorn

FLOOR = on_uvicorn("bench.floor:app")
PRODUCT = on_uvicorn("bench.product:app")
PRODUCT_MODEL = on_uvicorn("bench.product_model:app")
SERVED = [sys.executable, "-m", "innkeeper", "serve", "bench/product.py", "--port", "{port}"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: `rounds` a side of `seconds`, and how often what is measured singly."""

    rounds: int
    seconds: float
    paced_seconds: float
    starts: int
    singles: int


FULL = Plan(rounds=7, seconds=2.0, paced_seconds=4.0, starts=5, singles=200)
QUICK = Plan(rounds=3, seconds=1.0, paced_seconds=2.0, starts=3, singles=50)


@dataclass(frozen=True, slots=True)
class Bench:
    """The two servers under load, and where they keep things."""

    floor: Server
    product: Server
    plan: Plan
    frames: dict[str, int] = field(default_factory=dict)

    def compare(self, agent: str, *, connections: int, seconds: float, stream: bool) -> tuple[Rates, Rates]:
        """The load on both sides in turn; which comes first changes from round to round."""
        floor, product = Rates(), Rates()
        frames = self.frames.get(agent)
        sides: list[Callable[[float], None]] = [
            lambda length: _one_round(self.floor, floor, f"/{agent}", "{}", connections, length, frames),
            lambda length: _one_round(
                self.product, product, CHAT, chat_body(agent, stream=stream), connections, length, frames
            ),
        ]
        for side in sides:
            side(0.5)
        floor.forget()
        product.forget()
        for index in range(self.plan.rounds):
            for side in sides if index % 2 == 0 else reversed(sides):
                side(seconds)
        return floor, product


def _one_round(
    server: Server, rates: Rates, path: str, body: str, connections: int, seconds: float, frames: int | None
) -> None:
    command = [sys.executable, "-m", "bench.load", "--port", str(server.port), "--path", path, "--body", body]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    if frames is not None:
        command += ["--frames", str(frames)]
    before = server.cpu_seconds()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    if result["failure"]:
        raise RuntimeError(f"{path} {body}: {result['failure']}\n{done.stderr}{server.log[-4000:]}")
    rates.add(result, server.cpu_seconds() - before)


def capture(port: int, answers: Path) -> dict[str, int]:
    """Keep what Innkeeper answers, for the floor to send; tells how many frames each stream has."""
    frames = {}
    with Client(port) as client:
        (answers / "instant").write_bytes(client.post(CHAT, chat_body("instant")))
        for agent in ("hundred", "paced"):
            stream = client.post(CHAT, chat_body(agent, stream=True))
            frames[agent] = stream.count(b"data: ")
            if frames[agent] != 103:
                raise RuntimeError(
                    f"{agent} sent {frames[agent]} frames: a role, 100 words, an end and [DONE] are 103."
                )
            (answers / agent).write_bytes(stream)
    return frames


def throughput(bench: Bench) -> list[Figure]:
    plan = bench.plan
    print("Answers at once, not streamed ...", flush=True)
    plain = bench.compare("instant", connections=32, seconds=plan.seconds, stream=False)
    print("Streams of 100 frames ...", flush=True)
    streams = bench.compare("hundred", connections=32, seconds=plan.seconds, stream=True)
    print("Streams of 100 frames, 5 ms apart, 200 clients ...", flush=True)
    paced = bench.compare("paced", connections=200, seconds=plan.paced_seconds, stream=True)
    return [
        Figure.of_rates("not streamed, requests/s", *plain, at_least=0.4),
        Figure.of_rates("streamed, 100 frames, streams/s", *streams, at_least=3.0),
        Figure.of_rates("paced, 200 clients, frames/s", *paced, at_least=0.3, by_frames=True),
    ]


def first_tokens(bench: Bench) -> list[Figure]:
    """On an idle server, one request at a time."""
    print("First tokens ...", flush=True)
    product = _stamped(bench.product.port, CHAT, chat_body("stamped", stream=True), bench.plan.singles)
    floor = _stamped(bench.floor.port, "/stamped", "{}", bench.plan.singles)
    return [
        Figure("first token after the agent's first token", "ms", floor[1], product[1], at_most=2.0),
        Figure("first token after the request", "ms", floor[0], product[0]),
    ]


def _stamped(port: int, path: str, body: str, times: int) -> tuple[float, float]:
    with Client(port) as client:
        client.first_token(path, body)
        both = [client.first_token(path, body) for _ in range(times)]
    return median(request for request, _ in both), median(agent for _, agent in both)


def sessions(bench: Bench) -> list[Figure]:
    """Turns one at a time: in a new session, the second of a session, and after 1,000 messages."""
    print("Second turns, and a session of 1,000 messages ...", flush=True)
    firsts, seconds = [], []
    with Client(bench.product.port) as client:

        def turn(session_id: str) -> float:
            return client.timed_post(CHAT, chat_body("instant", session_id=session_id))

        for index in range(bench.plan.singles):
            firsts.append(turn(f"bench-{index}"))
            seconds.append(turn(f"bench-{index}"))
        for _ in range(500):
            turn("bench-long")
        longs = [turn("bench-long") for _ in range(bench.plan.singles)]
    return [
        Figure("first turn of a session", "ms", None, median(firsts)),
        Figure("second turn of a session", "ms", None, median(seconds)),
        Figure("turn after 1,000 messages", "ms", None, median(longs)),
    ]


def starts(scratch: Path, answers: Path, plan: Plan) -> list[Figure]:
    """From spawning until /live answers, and memory then; the data folder exists, as it does on most starts."""
    print("Starts ...", flush=True)
    floor = _started(FLOOR, {"BENCH_ANSWERS": str(answers)}, scratch, plan.starts)
    product = _started(PRODUCT, {"INNKEEPER_DATA_DIR": str(scratch / "start")}, scratch, plan.starts)
    served = _started(SERVED, {"INNKEEPER_DATA_DIR": str(scratch / "served")}, scratch, plan.starts)
    model = _started(PRODUCT_MODEL, {"INNKEEPER_DATA_DIR": str(scratch / "model")}, scratch, plan.starts)
    return [
        Figure("start to ready, function agents", "s", floor[0], product[0], at_most=1.5),
        Figure("idle memory, function agents", "MB", floor[1], product[1], at_most=130),
        Figure("start to ready, `innkeeper serve`", "s", floor[0], served[0], at_most=1.5),
        Figure("idle memory, `innkeeper serve`", "MB", floor[1], served[1], at_most=130),
        Figure("start to ready, Pydantic AI agent", "s", floor[0], model[0], at_most=2.5),
        Figure("idle memory, Pydantic AI agent", "MB", floor[1], model[1], at_most=150),
    ]


def _started(command: list[str], environment: dict[str, str], scratch: Path, times: int) -> tuple[float, float]:
    Server(command, scratch, environment).stop()
    seconds, megabytes = [], []
    for _ in range(times):
        with Server(command, scratch, environment) as server:
            seconds.append(server.ready_after)
            megabytes.append(server.memory())
    return median(seconds), median(megabytes)


def measure(plan: Plan, scratch: Path) -> list[Figure]:
    answers = scratch / "answers"
    answers.mkdir()
    product_environment = {"INNKEEPER_DATA_DIR": str(scratch / "data")}
    with Server(PRODUCT, scratch, product_environment) as product:
        frames = capture(product.port, answers)
        with Server(FLOOR, scratch, {"BENCH_ANSWERS": str(answers)}) as floor:
            bench = Bench(floor, product, plan, frames)
            figures = [*first_tokens(bench), *sessions(bench), *throughput(bench)]
            figures.append(Figure("memory after the load", "MB", floor.memory(), product.memory()))
    return [*figures, *starts(scratch, answers, plan)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Innkeeper against a bare app.")
    parser.add_argument("--quick", action="store_true", help="about a minute; RESULTS.md is left as it is")
    options = parser.parse_args()
    # In the repository, because a temporary folder may be memory, on which durability costs nothing.
    (ROOT / ".data").mkdir(exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=ROOT / ".data"))
    try:
        figures = measure(QUICK if options.quick else FULL, scratch)
        text = report(figures, "scripts/bench --quick" if options.quick else "scripts/bench", scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(text)
    if not options.quick:
        results = ROOT / "bench" / "RESULTS.md"
        results.write_text(with_others(text, results.read_text()))


if __name__ == "__main__":
    main()
