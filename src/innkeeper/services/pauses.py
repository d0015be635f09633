"""Pauses: runs that wait for people. They are answered here, go on here, and end here when nobody has answered in time.

A paused run is nobody's: no process holds it, and any may take it up. How one is paused is `settlements`' affair.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from innkeeper.core.action_changes import Expired, Resumed, ResumeRun, TakeExpired, Waits
from innkeeper.core.actions import ActionStatus, Answer, Decision, StoredAction
from innkeeper.core.claims import Claim
from innkeeper.core.context import RunContext
from innkeeper.core.errors import RunNotFound
from innkeeper.core.events import ActionRequired, ActionsAnswered, read
from innkeeper.core.identity import Caller
from innkeeper.core.outcomes import Begun, Missing, Outcome, Repeated
from innkeeper.core.runs import Run
from innkeeper.core.times import Instant
from innkeeper.core.transcripts import sort
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import ActionReader, InjectionReader, RunReader
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.chores import Chore
from innkeeper.services.executions import Executions, Job, name_context
from innkeeper.services.following import Following
from innkeeper.services.live import LiveRun
from innkeeper.services.recollections import Recollections
from innkeeper.services.settlements import Settlements
from innkeeper.services.tails import Stop
from innkeeper.services.wakes import Wakes

_EXPIRY_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """What somebody decided: `answers` one by one, or one `decision` on everything that is pending."""

    run_id: str
    answers: tuple[Answer, ...] = ()
    decision: Decision | None = None
    message: str | None = None
    stream: bool = False
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class Resumption:
    """What came of it: the run, which goes on behind `after` of its log, live if here; or how many are `left`."""

    run: Run
    live: LiveRun | None = None
    after: int = 0
    left: int = 0
    is_repeated: bool = False


@dataclass(slots=True)
class Pauses:
    """The use cases of runs that wait for people."""

    journal: Journal
    runs: RunReader
    actions: ActionReader
    injections: InjectionReader
    agents: AgentRegistry
    executions: Executions
    settlements: Settlements
    following: Following
    recollections: Recollections
    wakes: Wakes
    now: Callable[[], int]
    worker: str
    on_end: Callable[[Outcome], None]
    _chore: Chore | None = field(default=None, init=False)
    _in_hand: set[str] = field(default_factory=set, init=False)
    _committing: set[asyncio.Task[Resumption]] = field(default_factory=set, init=False)

    def open(self) -> None:
        """End what nobody has answered in time, from now on."""
        self._chore = Chore("ending runs that nobody has answered", self.expire, first=0.5, every=_EXPIRY_SECONDS)
        self._chore.open()

    async def close(self) -> None:
        if self._chore is not None:
            await self._chore.close()

    async def of_run(self, run_id: str) -> Sequence[StoredAction]:
        """What a run has asked for, the latest last."""
        return await self.actions.of_run(run_id)

    async def page(
        self, caller: Caller, *, limit: int, after: str | None = None, status: ActionStatus | None = None
    ) -> tuple[Sequence[StoredAction], bool]:
        """Those of the caller, newest run first; everybody's, for an admin; and whether there are more."""
        return await self.actions.page(caller, limit=limit, after=after, status=status)

    async def resume(self, caller: Caller, request: ResumeRequest, context: RunContext) -> Resumption:
        """Answer actions of a run; once all are answered it goes on, here.

        Raises: RunNotFound, ActionNotFound, RunConflict where it does not wait for them, Invalid, StorageUnavailable.
        """
        run = await self.runs.find(caller, request.run_id)
        if run is None:
            raise RunNotFound(f"Run {request.run_id!r} does not exist.", param="run_id")
        change = ResumeRun(
            run_id=run.id,
            owner=run.owner,
            answers=request.answers or await self._answers_to_all(run, request),
            decided_by=caller.owner.user,
            worker=self.worker,
            now=Instant(self.now()),
            claim=request.claim,
        )
        committing = asyncio.create_task(self._commit(run, change, request.stream, context))
        self._committing.add(committing)
        committing.add_done_callback(self._committing.discard)
        return await asyncio.shield(committing)  # whoever leaves meanwhile leaves a run that goes on

    async def settled(self, patience: float) -> None:
        """Return when what is being answered now goes on, or after `patience` seconds."""
        if self._committing:
            await asyncio.wait(list(self._committing), timeout=patience)

    async def _answers_to_all(self, run: Run, request: ResumeRequest) -> tuple[Answer, ...]:
        """Where nothing is pending there are none, and the store tells why, or that the request was made before."""
        asked = await self.actions.of_run(run.id)
        assert request.decision is not None, "a request has answers or one decision"
        pending = (one for one in asked if one.status is ActionStatus.PENDING)
        return tuple(Answer(one.action.id, request.decision, message=request.message) for one in pending)

    async def _commit(self, run: Run, change: ResumeRun, stream: bool, context: RunContext) -> Resumption:
        (outcome,) = await self.journal.commit((change,))
        if isinstance(outcome, Repeated):
            return await self._found_again(run, change.answers)
        if isinstance(outcome, Missing):
            raise RunNotFound(f"Run {run.id!r} does not exist.", param="run_id")
        if isinstance(outcome, Waits):
            self._tell(run)
            return Resumption(outcome.run, left=outcome.left)
        assert isinstance(outcome, Resumed), "a run waits on or goes on"
        live = await self._go_on(outcome, stream, context)
        self._tell(run)
        return Resumption(outcome.run, live, after=outcome.segment.first_seq - 1)

    async def _found_again(self, run: Run, answers: Sequence[Answer]) -> Resumption:
        """What came of a request that is made again: where the run went on with its answers, or what it waits for.

        A request for one decision on everything has no answers by now, and stands for the latest.
        """
        decided = {one.action_id for one in answers}
        place, after = None, 0
        paused_at = run.last_seq
        while segments := await self.runs.segments(run.id, after):
            for segment in segments:
                for seq, data in enumerate(segment.payloads(), segment.first_seq):
                    event = read(data)
                    if isinstance(event, ActionRequired):
                        paused_at = seq
                    elif isinstance(event, ActionsAnswered) and _holds(event, decided):
                        place = seq - 1
            after = segments[-1].last_seq
        if place is not None:
            return Resumption(run, after=place, is_repeated=True)
        left = sum(one.status is ActionStatus.PENDING for one in await self.actions.of_run(run.id))
        return Resumption(run, after=paused_at, left=left, is_repeated=True)

    def _tell(self, run: Run) -> None:
        self.following.wake((run.id,))
        self.wakes.log_grew(run.id)

    def __contains__(self, run_id: object) -> bool:
        """Whether it is this process's to let go on, or to end, and that takes as long as the store does."""
        return run_id in self._in_hand

    async def _go_on(self, resumed: Resumed, stream: bool, context: RunContext) -> LiveRun:
        run = resumed.run
        with self._holding(run):
            assembler = await self.recollections.of(run.id, context)
        live = LiveRun(
            run,
            resumed.fence,
            context,
            self.journal,
            self.injections,
            first=resumed.segment,
            assembler=assembler,
        )
        live.has_begun = True
        self.executions.add(live)
        live.task = asyncio.create_task(self._execute(live, resumed, stream))
        return live

    async def _execute(self, live: LiveRun, resumed: Resumed, stream: bool) -> None:
        run, plan = resumed.run, resumed.plan
        try:
            agent = await self.agents.find(run.agent_name)
            name_context(live.context, run, agent, plan.parameters)
        except Exception as error:  # noqa: BLE001 - resolvers may raise anything; the run carries it
            await self.executions.settle(live, error)
            return
        so_far, _ = live.assembler.progress()
        job = Job(agent, sort(run.input), plan.parameters, stream, so_far=so_far, continuation=resumed.continuation)
        await self.executions.execute(live, job, Begun(resumed.lineage, resumed.fence.epoch))

    async def expire(self) -> None:
        """End the runs that nobody has answered in time."""
        while True:
            (outcome,) = await self.journal.commit((TakeExpired(self.worker, Instant(self.now())),))
            assert isinstance(outcome, Expired), "what has expired is taken"
            with self._holding(*(run for run, _ in outcome.runs)):
                for run, fence in outcome.runs:
                    ended = await self.settlements.end_inherited(self.runs, run, fence, Stop.EXPIRED)
                    self._tell(run)
                    self.on_end(ended)
            if not outcome.runs:
                return

    @contextlib.contextmanager
    def _holding(self, *runs: Run) -> Iterator[None]:
        ours = {run.id for run in runs}
        self._in_hand |= ours
        try:
            yield
        finally:
            self._in_hand -= ours


def _holds(event: ActionsAnswered, decided: Collection[str]) -> bool:
    """Whether it was one of these actions that were answered, or any where none is named."""
    return not decided or any(one.action_id in decided for one in event.answers)
