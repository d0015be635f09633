"""Actions: what a run waits for people to do. A run that requires one is paused until each is answered or expires.

An agent's tool that needs approval is one kind; a graph that asks its user for something is the other. What the agent
needs to go on, its `state`, is opaque text that only the runtime which paused can read.
Invariant: nothing here performs I/O, reads a clock or mints an id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from innkeeper.core.errors import AgentFailed, Invalid
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant

ActionKind = Literal["approval", "input"]
Decision = Literal["approve", "deny", "answer"]

MAX_ACTIONS = 64
MAX_STATE = 16 * 1024 * 1024
_LONGEST_NAME = 256


class ActionStatus(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    ANSWERED = "answered"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Action:
    """What is asked. `id` is unique within its run; of an approval it is the id of the tool call.

    `arguments` is JSON text: what the tool is to be called with, or, where `kind` is "input", what the agent tells
    whoever is to answer.
    """

    id: str
    kind: ActionKind
    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody decided. `arguments`, JSON text, replace those of the call; `message` is told to the model.

    `value`, JSON text, is what an "input" asked for.
    """

    action_id: str
    decision: Decision
    arguments: str | None = None
    message: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAction:
    """An action with what has become of it; `decided_by` is a user of its owner's organization."""

    run_id: str
    session_id: str
    agent_name: str
    owner: Owner
    user_id: str
    action: Action
    status: ActionStatus
    created_at: Instant
    expires_at: Instant
    answer: Answer | None = None
    decided_by: str | None = None
    decided_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a paused run goes on with: what its runtime put aside, and an answer for each of its actions."""

    state: str
    answers: tuple[Answer, ...]

    def answer_to(self, action_id: str) -> Answer | None:
        return next((answer for answer in self.answers if answer.action_id == action_id), None)


STATUS_OF: dict[Decision, ActionStatus] = {
    "approve": ActionStatus.APPROVED,
    "deny": ActionStatus.DENIED,
    "answer": ActionStatus.ANSWERED,
}


def check_actions(actions: Sequence[Action], state: str) -> None:
    """Raises: AgentFailed where a run cannot be paused for that."""
    if not 0 < len(actions) <= MAX_ACTIONS or len({action.id for action in actions}) < len(actions):
        raise AgentFailed(f"A run is paused for 1 to {MAX_ACTIONS} actions, each with an id of its own.")
    if not all(_is_name(action.id) and _is_name(action.name) for action in actions):
        raise AgentFailed(
            f"An action's id and name have 1 to {_LONGEST_NAME} characters, without NUL and lone surrogates."
        )
    if len(state) + sum(len(action.arguments) for action in actions) > MAX_STATE:
        raise AgentFailed(f"What the agent asks and put aside exceeds {MAX_STATE // (1024 * 1024)} MiB.")


def _is_name(text: str) -> bool:
    """Whether each store can hold it, and people can say it."""
    return 0 < len(text) <= _LONGEST_NAME and not any(one == "\0" or "\ud800" <= one <= "\udfff" for one in text)


def check_answer(action: Action, answer: Answer) -> None:
    """Raises: Invalid where that is no answer to what was asked."""
    if action.kind == "input" and answer.decision == "approve":
        raise Invalid(f"Action {action.id!r} asks for input: decide answer, with a value, or deny.", param="decision")
    if action.kind == "approval" and answer.decision == "answer":
        raise Invalid(f"Action {action.id!r} asks for an approval: decide approve or deny.", param="decision")
    if answer.arguments is not None and answer.decision != "approve":
        raise Invalid("arguments belong to an approval that changes them.", param="arguments")
