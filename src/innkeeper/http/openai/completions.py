"""`POST /v1/chat/completions`, and the same for an agent that the path names."""

from __future__ import annotations

from functools import partial

from fastapi import Request
from pydantic import ValidationError
from starlette.responses import Response

from innkeeper.core.errors import (
    AgentFailed,
    AgentNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    NoAgents,
    NoDefaultAgent,
    PayloadTooLarge,
    RunConflict,
    ShuttingDown,
    StorageUnavailable,
    TooBusy,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.http.answers import failed, run_headers
from innkeeper.http.deps import caller_of
from innkeeper.http.openai.chunks import DONE, ChunkEncoder, completion, error_frame
from innkeeper.http.openai.models import ChatCompletion
from innkeeper.http.openai.requests import ChatCompletionRequest, start_run
from innkeeper.http.problems import facts, invalid, problem_of, problems
from innkeeper.http.routes import needs, request_id_of, surface
from innkeeper.http.turns import Answer, Stream, Turn, open_turn, wait_for_end
from innkeeper.services.tails import Tail

router = surface(prefix="/v1", tags=["OpenAI"])

PROBLEMS = problems(
    Invalid, IdempotencyMismatch, Unauthorized, Forbidden, AgentNotFound, RunConflict, PayloadTooLarge,
    UnsupportedMediaType, TooBusy, AgentFailed, NoAgents, NoDefaultAgent, ShuttingDown, StorageUnavailable,
)  # fmt: skip


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "The completion, or its chunks."},
        **PROBLEMS,
    },
    openapi_extra=needs("runs:write"),
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
    """Run the agent that `model` names on these messages; the session's id is the `system_fingerprint`."""
    return await answer_completion(body, request, None)


async def answer_completion(body: ChatCompletionRequest, request: Request, agent_name: str | None) -> Response:
    """Start the run and answer it, whole or as chunks."""
    try:
        start = start_run(body, request.scope["path"], agent_name)
    except ValidationError as error:
        raise invalid(error) from None
    try:
        turn = await open_turn(request, caller_of(request), start)
    except (AgentNotFound, NoDefaultAgent) as error:
        error.param = "model" if agent_name is None else error.param
        raise
    if start.stream:
        return _stream(turn, include_usage=bool(body.stream_options and body.stream_options.include_usage))
    ending = await wait_for_end(turn, request.receive)
    if ending.status not in ("completed", "requires_action"):
        return failed(turn, ending, request_id_of(request.scope))
    return Answer(turn, completion(turn.tail.run, ending), headers=run_headers(turn))


def _farewell(tail: Tail, _: int) -> bytes:
    """This process leaves. Where the run has ended with it, its log has said so."""
    if tail.has_ended:
        return b""
    told = "The server is shutting down; the run goes on. Read it with GET /runs/{id}."
    return error_frame(facts(problem_of(ShuttingDown), told)) + DONE


def _stream(turn: Turn, *, include_usage: bool) -> Stream:
    return Stream(
        turn.watch(),
        ChunkEncoder(turn.tail.run, include_usage=include_usage, joins_late=turn.joins_late),
        on_trouble=lambda error: error_frame(facts(problem_of(type(error)), str(error))) + DONE,
        farewell=partial(_farewell, turn.tail),
        turn=turn,
        headers=run_headers(turn),
    )
