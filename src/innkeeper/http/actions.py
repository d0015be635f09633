"""Actions: what paused runs wait for people to do, and the route by which they are answered and go on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator
from starlette.responses import Response

from innkeeper.core.actions import MAX_ACTIONS, ActionStatus, Answer, Decision, StoredAction
from innkeeper.core.errors import (
    ActionNotFound,
    AgentFailed,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    RunConflict,
    RunNotFound,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
)
from innkeeper.core.identity import Caller
from innkeeper.core.times import isoformat
from innkeeper.http.chat import SSE, ChatResponse, answer_turn, stream
from innkeeper.http.deps import CallerDep, Limit, Services, ServicesDep, caller_of
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.turns import resume_turn
from innkeeper.http.views import ActionView, RunView, TenantView, tenant
from innkeeper.services.pauses import ResumeRequest

router = surface(tags=["Runs"])

_READS = problems(Unauthorized, Forbidden, RunNotFound, Invalid, StorageUnavailable)
_PROBLEMS = problems(
    Invalid, IdempotencyMismatch, Unauthorized, Forbidden, RunNotFound, ActionNotFound, RunConflict, TooBusy,
    AgentFailed, ShuttingDown, StorageUnavailable,
)  # fmt: skip


class StoredActionView(TenantView, ActionView):
    """An action with its run, and with what has become of it."""

    run_id: str
    session_id: str
    agent_name: str
    user_id: str
    status: str
    created_at: str
    expires_at: str
    decision: str | None
    message: str | None
    decided_by: str | None
    decided_at: str | None

    @classmethod
    def holding(cls, stored: StoredAction, caller: Caller) -> Self:
        answer = stored.answer
        return cls(
            **ActionView.of(stored.action).model_dump(),
            run_id=stored.run_id,
            session_id=stored.session_id,
            agent_name=stored.agent_name,
            user_id=stored.user_id,
            status=stored.status.value,
            created_at=isoformat(stored.created_at),
            expires_at=isoformat(stored.expires_at),
            decision=None if answer is None else answer.decision,
            message=None if answer is None else answer.message,
            decided_by=stored.decided_by,
            decided_at=None if stored.decided_at is None else isoformat(stored.decided_at),
            **tenant(stored.owner, caller),
        )


class ActionList(BaseModel):
    actions: list[StoredActionView]
    has_more: bool


class AnswerBody(BaseModel):
    """A decision on one action. `arguments` replace those of an approved call; `message` is told to the model."""

    id: StrictStr = Field(min_length=1, max_length=256, description="The action's id; of an approval, the tool call's.")
    decision: Decision
    arguments: dict[str, Any] | None = None
    message: Annotated[StrictStr, Field(max_length=16 * 1024)] | None = None
    value: Any = Field(default=None, description="What an action of the kind `input` asks for.")

    def answer(self) -> Answer:
        return Answer(
            action_id=self.id,
            decision=self.decision,
            arguments=None if self.arguments is None else json.dumps(self.arguments),
            message=self.message,
            value=json.dumps(self.value) if self.decision == "answer" else None,
        )


class ResumeBody(BaseModel):
    """Either `answers`, one by one, or one `decision` on everything that is pending."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"decision": "approve"}]})

    answers: list[AnswerBody] | None = Field(default=None, min_length=1, max_length=MAX_ACTIONS)
    decision: Literal["approve", "deny"] | None = None
    message: Annotated[StrictStr, Field(max_length=16 * 1024)] | None = None
    stream: StrictBool = Field(default=False, description="Answer with what the run tells from here on, as SSE.")
    background: StrictBool = Field(default=False, description="Answer 202 at once.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.answers is None) == (self.decision is None):
            raise ValueError("send either answers or one decision")
        if self.stream and self.background:
            raise ValueError("stream and background exclude each other")
        return self

    def request(self, run_id: str, *, stream: bool) -> ResumeRequest:
        return ResumeRequest(
            run_id=run_id,
            answers=tuple(one.answer() for one in self.answers or ()),
            decision=self.decision,
            message=self.message,
            stream=stream,
        )


@router.get("/actions", responses=_READS, openapi_extra=needs("runs:read"))
async def list_actions(
    caller: CallerDep,
    services: ServicesDep,
    status: ActionStatus | None = None,
    limit: Limit = 50,
    after: Annotated[str | None, Query(description="The run of the last action of the page before.")] = None,
) -> ActionList:
    """What your runs wait for, or have waited for, newest run first; everybody's, for an admin."""
    found, has_more = await services.runs.pauses.page(caller, limit=limit, after=after, status=status)
    return ActionList(actions=_shown(found, caller), has_more=has_more)


@router.get("/runs/{run_id}/actions", responses=_READS, openapi_extra=needs("runs:read"))
async def list_actions_of_run(run_id: str, caller: CallerDep, services: ServicesDep) -> ActionList:
    """What a run has asked people to do, in order."""
    run = await services.runs.get(caller, run_id)
    return ActionList(actions=_shown(await services.runs.pauses.of_run(run.id), caller), has_more=False)


def _shown(found: Iterable[StoredAction], caller: Caller) -> list[StoredActionView]:
    return [StoredActionView.holding(one, caller) for one in found]


@router.post(
    "/runs/{run_id}/resume",
    response_model=ChatResponse,
    responses={**SSE, 202: {"model": RunView, "description": "The run goes on, or waits on."}, **_PROBLEMS},
    openapi_extra=needs("runs:write"),
)
async def resume_run(run_id: str, body: ResumeBody, request: Request, services: ServicesDep) -> Response:
    """Answer what a paused run waits for. Once nothing is left to answer it goes on, and this waits for its end.

    Where answers are missing yet, or with `background`, the answer is 202 and tells what it waits for.
    """
    caller = caller_of(request)
    turn = await resume_turn(request, caller, body.request(run_id, stream=body.stream))
    assert turn.started is not None, "the turn has been started"
    if turn.started.left or body.background:
        told = await run_view(services, caller, run_id)
        turn.response = Response(told.model_dump_json(), 202, media_type="application/json")
        return turn.response
    return stream(turn) if body.stream else await answer_turn(turn, request)


async def run_view(services: Services, caller: Caller, run_id: str) -> RunView:
    """A run, with what it waits for."""
    run = await services.runs.get(caller, run_id)
    waits = run.status == "requires_action"
    asked = await services.runs.pauses.of_run(run_id) if waits else ()
    pending = [ActionView.of(one.action) for one in asked if one.status is ActionStatus.PENDING]
    return RunView.of(run, caller, pending if waits else None)
