"""Initializing: an agent made anew before the run that an admin's request starts, as `AGENT_REINITIALIZE: true` asks.

The header is read in both of its spellings, because some proxies drop names with an underscore. Who may not have agents
made anew is refused, and so is a value that is neither yes nor no.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection

from innkeeper.core.errors import Forbidden, Invalid
from innkeeper.core.identity import Caller
from innkeeper.http.deps import House, Services
from innkeeper.http.gates import check_permission

_HEADER = "AGENT_REINITIALIZE"
_SPELLINGS = frozenset({b"agent_reinitialize", b"agent-reinitialize"})
_ANSWERS = {"true": True, "1": True, "false": False, "0": False, "": False}


def asks_for_initialization(request: HTTPConnection) -> bool:
    """Whether the agent is to be made anew first. Raises: Invalid."""
    sent = {value for name, value in request.scope["headers"] if name in _SPELLINGS}
    if not sent:
        return False
    answers = {_ANSWERS.get(value.decode("latin-1").strip().lower()) for value in sent}
    if len(answers) > 1 or None in answers:
        raise Invalid(f"{_HEADER} is true or false.", param=_HEADER)
    return answers == {True}


async def initialize_for(house: House, services: Services, caller: Caller, agent_name: str | None) -> None:
    """Make the agent anew, as `POST /agent/initialize` does.

    Raises: Forbidden; what `Initializations.initialize` raises.
    """
    check_permission(caller, "server:admin")
    if "agent" not in house.modes:
        raise Forbidden(f"{_HEADER} is not served here: ALLOWED_MODES leaves out agent.", param=_HEADER)
    await services.initializations.initialize(caller.owner, agent_name)
