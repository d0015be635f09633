"""Lanes: which calls of the journal wait for which. Those that share a run or a session keep their order.

A session is known by its key, or by the name that clients gave it; which name belongs to which key is learned
from outcomes. Where it is not known yet, a call by key and calls by name are taken to be about one session.
Invariant: a call waits for earlier calls only.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from functools import partial

from innkeeper.core.action_changes import PauseRun, ResumeRun
from innkeeper.core.changes import (
    AcceptInjection,
    AcceptRun,
    AppendEvents,
    AppendMessages,
    BeginRun,
    Change,
    CreateSession,
    DeleteSession,
    DeliverInjections,
    EndRun,
    Fence,
    RecordCredits,
    ReleaseRun,
    UpdateSession,
)
from innkeeper.core.control_changes import AcceptCommands, CreateEngine, EndCommand, PublishEvent
from innkeeper.core.file_changes import ChangeWorkspace
from innkeeper.core.identity import Owner
from innkeeper.core.outcomes import Accepted, Outcome

_REMEMBERED = 10_000

Passed = asyncio.Future[None]


class Lanes:
    """The order of the calls that are under way."""

    def __init__(self) -> None:
        self._tails: dict[Hashable, Passed] = {}
        self._names: OrderedDict[str, Hashable] = OrderedDict()
        self._by_name: set[Passed] = set()
        self._by_key_only: set[Passed] = set()

    def enter(self, changes: Sequence[Change], fence: Fence | None) -> tuple[set[Passed], Passed]:
        """Take a place; returns whom to wait for, and the future to be set when this call is through."""
        passed: Passed = asyncio.get_running_loop().create_future()
        lanes: set[Hashable] = {run_id for change in changes for run_id in _runs(change, fence)}
        before: set[Passed] = set()
        for change in changes:
            if isinstance(change, AcceptRun | CreateSession):
                session = change.new_session if isinstance(change, AcceptRun) else change.session
                lanes.add(_name(session.owner, session.id))
                before |= self._by_key_only
                self._by_name.add(passed)
            elif isinstance(change, AcceptInjection):
                lanes.add(("injections", change.owner))  # they are delivered in the order in which they came
            elif (session_key := _session_of(change)) is not None:
                lanes.add(session_key)
                if session_key in self._names:
                    lanes.add(self._names[session_key])
                else:
                    before |= self._by_name
                    self._by_key_only.add(passed)
        before |= {self._tails[lane] for lane in lanes if lane in self._tails}
        before.discard(passed)
        self._tails.update(dict.fromkeys(lanes, passed))
        passed.add_done_callback(partial(self._leave, lanes))
        return before, passed

    def _leave(self, lanes: Iterable[Hashable], passed: Passed) -> None:
        self._by_name.discard(passed)
        self._by_key_only.discard(passed)
        for lane in lanes:
            if self._tails.get(lane) is passed:
                del self._tails[lane]

    def learn(self, outcomes: Iterable[Outcome]) -> None:
        """Remember the names of sessions that were met."""
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                self._names[outcome.run.session_key] = _name(outcome.run.owner, outcome.run.session_id)
                self._names.move_to_end(outcome.run.session_key)
        while len(self._names) > _REMEMBERED:
            self._names.popitem(last=False)


def _session_of(change: Change) -> str | None:
    """The key of the session that a change is about. What a run or a queue is about waits for locks alone."""
    match change:
        case BeginRun() | EndRun() | UpdateSession() | DeleteSession() | AppendMessages():
            return change.session_key
        case PauseRun():
            return change.session_key
        case PublishEvent() | AcceptCommands() | EndCommand():
            return change.session_key
        case ChangeWorkspace(place=place) if place.kind == "session":
            return place.key
        case CreateEngine(engine=engine):
            return engine.session_key
        case _:
            return None


def _runs(change: Change, fence: Fence | None) -> tuple[str, ...]:
    match change:
        case AcceptRun(run=run):
            return (run.id,)
        case ResumeRun(run_id=run_id) | PauseRun(run_id=run_id):
            return (run_id,)
        case BeginRun(run_id=run_id) | EndRun(run_id=run_id) | RecordCredits(run_id=run_id):
            return (run_id,)
        case AppendEvents() | DeliverInjections() | ReleaseRun() if fence is not None:
            return (fence.run_id,)
        case _:
            return ()


def _name(owner: Owner, session_id: str) -> Hashable:
    return owner, session_id
