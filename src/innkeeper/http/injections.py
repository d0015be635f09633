"""Injections: steer a run while it works, and see what became of the message."""

from __future__ import annotations

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response

from innkeeper.core.errors import (
    AgentNotFound,
    Forbidden,
    IdempotencyMismatch,
    InjectionNotFound,
    Invalid,
    NoAgents,
    NoDefaultAgent,
    RunNotFound,
    SessionNotFound,
    StorageUnavailable,
    Unauthorized,
)
from innkeeper.core.injections import Injection
from innkeeper.core.times import Instant, isoformat
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.contexts import now
from innkeeper.http.deps import CallerDep, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import InjectRequest
from innkeeper.http.routes import needs, surface

router = surface(tags=["Runs"])

_PROBLEMS = problems(Unauthorized, Forbidden, Invalid, StorageUnavailable)


class Injected(BaseModel):
    """The message is stored; `run_id` is the run that it was accepted for, null if it waits for the next."""

    status: str = "injected"
    injection_id: str
    run_id: str | None


class InjectionView(BaseModel):
    """A receipt. `run_id` and `seq` say where the message is in which run's log, once it has been delivered."""

    id: str
    status: str
    run_id: str | None
    seq: int | None
    content: str
    created_at: str

    @classmethod
    def of(cls, injection: Injection) -> InjectionView:
        return cls(
            id=injection.id,
            status=injection.status_at(Instant(now())).value,
            run_id=injection.run_id,
            seq=injection.seq,
            content=injection.content,
            created_at=isoformat(injection.created_at),
        )


@router.post(
    "/inject",
    response_model=Injected,
    responses={
        **_PROBLEMS,
        **problems(
            NoDefaultAgent, AgentNotFound, SessionNotFound, RunNotFound, IdempotencyMismatch, Invalid, NoAgents,
            StorageUnavailable,
        ),
    },
    openapi_extra=needs("runs:write"),
)  # fmt: skip
async def inject(body: InjectRequest, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Give a run under way a message, which its agent sees before its next model call; else the next run gets it."""
    injection, is_repeated = await services.injections.accept(
        caller,
        body.message,
        agent_name=body.agent_name,
        session_id=body.session_id,
        run_id=body.run_id,
        user_id=body.user_id,
        claim=claim_of(request, request.scope["innkeeper.body"]),
    )
    told = Injected(injection_id=injection.id, run_id=injection.first_run_id)
    return JSONResponse(told.model_dump(), headers={REPLAYED: "true"} if is_repeated else None)


@router.get(
    "/injections/{injection_id}",
    responses={**_PROBLEMS, **problems(InjectionNotFound)},
    openapi_extra=needs("runs:read"),
)
async def get_injection(injection_id: str, caller: CallerDep, services: ServicesDep) -> InjectionView:
    """What became of an injected message: `accepted`, `delivered`, `deferred` to the next run, or `expired`."""
    return InjectionView.of(await services.injections.get(caller, injection_id))
