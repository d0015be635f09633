"""Executions: the runs that this process has under way, from their first line of agent code to their settlement."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from innkeeper.core.action_changes import Paused
from innkeeper.core.actions import Continuation
from innkeeper.core.context import RunContext, reset_context, set_context
from innkeeper.core.errors import InnkeeperError
from innkeeper.core.identity import Caller
from innkeeper.core.messages import Message
from innkeeper.core.outcomes import Accepted, Begun, Ended, Outcome
from innkeeper.core.runs import NO_PARAMETERS, Parameters, Plan, Resumption, Run, Turn
from innkeeper.core.transcripts import Transcript, as_turn
from innkeeper.ports.meters import UNMETERED, Meter
from innkeeper.ports.readers import SessionReader
from innkeeper.services.agents import ServedAgent
from innkeeper.services.following import Following
from innkeeper.services.live import LiveRun
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.settlements import Settlements
from innkeeper.services.tails import Stop
from innkeeper.services.wakes import Wakes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Bounds on runs; times in seconds."""

    run_seconds: float = 600.0
    queue_depth: int = 10
    queue_seconds: float = 60.0
    stop_seconds: float = 1.0
    in_background: int = 16
    max_attempts: int = 10
    at_once_by_caller: int | None = None
    queued: int = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """What an agent is to do: for whom, with which wishes, and how the conversation is told to it."""

    agent: ServedAgent
    transcript: Transcript
    parameters: Parameters = NO_PARAMETERS
    stream: bool = False
    resumption: Resumption | None = None
    so_far: tuple[Message, ...] = ()
    is_answered: bool = False
    continuation: Continuation | None = None


class Executions:
    """Executes, stops and settles. `on_end` hears of each run that has ended here."""

    def __init__(
        self,
        *,
        sessions: SessionReader,
        settlements: Settlements,
        following: Following,
        wakes: Wakes,
        limits: RunLimits,
        on_end: Callable[[Ended], None],
        neighbours: Neighbours,
        meter: Meter = UNMETERED,
    ) -> None:
        self._sessions = sessions
        self._settlements = settlements
        self._following = following
        self._wakes = wakes
        self._limits = limits
        self._on_end = on_end
        self._neighbours = neighbours
        self._meter = meter
        self._live: dict[str, LiveRun] = {}
        self._running = 0
        self._emptied: asyncio.Future[None] | None = None
        self.cancel_elsewhere: Callable[[Caller, str], Awaitable[None]] | None = None
        """Has a run ended whose end was asked for here while it ceased to be this process's."""

    # the runs at hand

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._live

    def find(self, run_id: str) -> LiveRun | None:
        return self._live.get(run_id)

    def all(self) -> list[LiveRun]:
        return list(self._live.values())

    def add(self, live: LiveRun) -> None:
        """Know a run from now on; it may have to wait yet."""
        self._live[live.run.id] = live
        live.announce = self._log_grew
        live.announce_notes = self._neighbours.on_growth
        live.on_first_text = self._spoke
        live.on_spent = self._spent
        live.on_lost = self._lost

    def _log_grew(self, run_id: str) -> None:
        """Tell whoever follows it in the store: here, since before it was ours, or elsewhere."""
        self._following.wake((run_id,))
        self._wakes.log_grew(run_id)

    def _spent(self, live: LiveRun) -> None:
        self.stop(live, Stop.SPENT)

    def _lost(self, live: LiveRun) -> None:
        self.stop(live, Stop.INTERRUPTED)

    def _spoke(self, live: LiveRun) -> None:
        if live.began_at is not None:
            seconds = time.perf_counter() - live.began_at
            live.timings.spoke(seconds)
            self._meter.first_text(live.run.agent_name, seconds)

    # executing

    async def execute(self, live: LiveRun, job: Job, placed: Accepted | Begun) -> None:
        """The run loop: hand the conversation to the agent, emit what it yields, settle."""
        loop = asyncio.get_running_loop()
        live.began_at = time.perf_counter()
        live.has_begun = True
        self._running += 1
        self._meter.running(self._running)
        expiry = loop.call_later(self._limits.run_seconds, self.stop, live, Stop.TIMED_OUT)
        token = set_context(live.context)
        failure: BaseException | None = None
        try:
            self._neighbours.on_growth(live.run.session_key)
            if self._neighbours.tools_of is not None:
                live.context.session_tools = await self._neighbours.tools_of(live.run)
            if self._neighbours.workspaces_of is not None:
                live.context.workspace, live.context.agent_workspace = self._neighbours.workspaces_of(live.run)
            messages = await self._conversation(job, placed)
            if not messages:  # the session has been deleted meanwhile
                live.stop = live.stop or Stop.CANCELLED
            elif not job.is_answered:
                if self._neighbours.attached is not None:
                    messages = await self._neighbours.attached(live.run, messages)
                if job.parameters.instructions is not None:
                    messages = (Message("system", job.parameters.instructions), *messages)
                turn = Turn(messages, _affordable(live, job.parameters), job.stream, job.resumption, job.continuation)
                live.plan = Plan(job.parameters)
                await _pump(live, job.agent.runtime.run(turn, live.context))
        except asyncio.CancelledError:
            live.stop = live.stop or Stop.INTERRUPTED
        except (GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - agent code may raise anything; the run carries it
            failure = error
            _log_failure(live.run, error)
        finally:
            reset_context(token)
            expiry.cancel()
        await _rest()
        await self.settle(live, failure)

    async def _conversation(self, job: Job, placed: Accepted | Begun) -> tuple[Message, ...]:
        if isinstance(placed, Accepted) and placed.is_new_session and placed.first is None:
            transcript = job.transcript
            return (*transcript.instructions, *transcript.before, *transcript.new)
        assert placed.lineage is not None, "a run that runs has a lineage"
        said = as_turn(await self._sessions.history(placed.lineage))
        return (*said, *job.so_far) if said else ()

    async def settle(self, live: LiveRun, failure: BaseException | None) -> None:
        """End a run, or leave it to others, whatever it has come to."""
        if live.is_ending:
            return
        if live.stop is Stop.RELEASED:
            outcome: Outcome = await self._settlements.release(live)
            self._wakes.work_came()
        elif live.pause is not None and live.stop is None and failure is None:
            outcome = await self._settlements.pause(live, live.pause)
        else:
            outcome = await self._settlements.settle(live, failure)
        self._forget(live)
        self._log_grew(live.run.id)
        self._neighbours.on_growth(live.run.session_key)
        if isinstance(outcome, Ended):
            self._on_end(outcome)
            return
        if not isinstance(outcome, Paused):
            self._following.adopt(live)  # it is another process's, or has been deleted
        is_unwanted = live.is_unwanted or (isinstance(outcome, Paused) and outcome.is_cancelling)
        if is_unwanted and self.cancel_elsewhere is not None:
            await self.cancel_elsewhere(Caller(live.run.owner), live.run.id)

    def _forget(self, live: LiveRun) -> None:
        self._live.pop(live.run.id, None)
        if live.began_at is not None:
            self._running -= 1
            self._meter.running(self._running)
        if not self._live and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def emptied(self, patience: float) -> None:
        """Return when nothing is under way any more, or after `patience` seconds."""
        if self._live and patience > 0:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=patience)

    # stopping

    def stop(self, live: LiveRun, why: Stop) -> None:
        """End a run from outside; its code gets a moment to react, then the run ends without it."""
        if live.halt(why):
            asyncio.get_running_loop().call_later(self._limits.stop_seconds, self._abandon, live)

    def _abandon(self, live: LiveRun) -> None:
        if not live.is_ending:
            _logger.warning("run %s did not react to being stopped and is ended without it", live.run.id)
            live.task = asyncio.create_task(self.settle(live, None))


async def _rest() -> None:
    """What an agent has done to its own task, such as to cancel it, comes due here, and not amid the run's end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _affordable(live: LiveRun, parameters: Parameters) -> Parameters:
    """What was wished for, and what the run can pay for."""
    tokens = None if live.spending is None else live.spending.affordable_tokens(live.assembler.usage)
    return parameters if tokens is None else replace(parameters, affordable_tokens=tokens)


async def _pump(live: LiveRun, events: AsyncIterator[object]) -> None:
    emit, since = live.emit, 0
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        async for event in events:
            if live.stop is not None:
                return
            emit(event)  # type: ignore[arg-type]
            since += 1
            if since >= 128:
                since = 0
                await asyncio.sleep(0)
                if live.is_backlogged:
                    await live.drained()


def name_context(context: RunContext, run: Run, agent: ServedAgent, parameters: Parameters) -> None:
    """Tell the context which run it belongs to."""
    context.run_id, context.session_id, context.user_id = run.id, run.session_id, run.user_id
    context.session_key = run.session_key
    context.owner, context.agent_name, context.agent_data = run.owner, run.agent_name, agent.data
    context.metadata, context.attempt, context.place = run.metadata, run.attempt, run.place
    context.workflow = parameters.workflow
    context.variables = parameters.variables or {}


def _log_failure(run: Run, error: BaseException) -> None:
    expected = isinstance(error, InnkeeperError)
    _logger.error(
        "run %s of agent %s failed: %s: %s",
        run.id,
        run.agent_name,
        type(error).__name__,
        error,
        exc_info=None if expected else error,
    )
