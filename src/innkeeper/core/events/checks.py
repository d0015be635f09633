"""Checks: what an agent may tell, so that each store can hold how its run ends and each reader can read it.

Runtimes of ours tell nothing else; a runtime of somebody else's, and a function that yields events, may.
"""

from __future__ import annotations

from typing import get_args

from innkeeper.core.errors import AgentFailed
from innkeeper.core.events.kinds import AgentEvent, FinishNoted, FinishReason, StepChanged

MAX_STEPS = 2**31 - 1


def check_event(event: AgentEvent) -> None:
    """Raises: AgentFailed for what cannot be kept."""
    if isinstance(event, FinishNoted) and event.reason not in get_args(FinishReason):
        raise AgentFailed(f"The agent ended for a reason that there is not; use one of {get_args(FinishReason)}.")
    if isinstance(event, StepChanged):
        number = event.step_number
        if type(number) is not int or not 0 <= number <= MAX_STEPS or event.status not in ("started", "completed"):
            raise AgentFailed(f"A step is started or completed, and has a whole number up to {MAX_STEPS}.")
