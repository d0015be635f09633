"""Answers that all surfaces which run agents give alike."""

from __future__ import annotations

from starlette.responses import Response

from innkeeper.http.claims import REPLAYED
from innkeeper.http.problems import CODES, facts, respond, run_error_facts
from innkeeper.http.traceparents import HEADER
from innkeeper.http.turns import Turn
from innkeeper.services.tails import Ending, Stop

_RETRY_AFTER = "5"
"""Seconds after which a turn that waited in vain may be tried again."""


def run_headers(turn: Turn) -> dict[str, str]:
    """Names the run and its session, for clients that want to steer or resume."""
    started = turn.started
    assert started is not None, "the turn has been started"
    headers = {"x-run-id": started.run.id, "x-session-id": _header(started.run.session_id)}
    if turn.is_traced:
        headers[HEADER] = str(turn.context.place or started.run.place)
    if started.is_repeated:
        headers[REPLAYED] = "true"
    if started.after:
        headers["x-run-cursor"] = str(started.after)
    if started.injection_id is not None:
        headers["x-injection-id"] = started.injection_id
    return headers


def _header(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def failed(turn: Turn, ending: Ending, request_id: str) -> Response:
    """The answer to a caller that waited for a run which did not complete."""
    if ending.status == "requires_action":
        problem = CODES["RUN_CONFLICT"]
        told = facts(problem, "The run waits for a decision: answer it with POST /runs/{id}/resume.")
    elif ending.error is None:
        problem = CODES["CANCELLED"]
        told = facts(problem, "The run was cancelled.")
    else:
        problem = CODES[ending.error.code]
        told = run_error_facts(ending.error)
    if ending.stop is Stop.TIMED_OUT:
        problem = problem._replace(status=504)
    headers = run_headers(turn)
    if problem.status == 429:
        headers["retry-after"] = _RETRY_AFTER
    turn.response = respond(problem, told, request_id, headers)
    return turn.response
