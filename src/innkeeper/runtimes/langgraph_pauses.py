"""Pauses of a graph: its interrupts as actions that people answer, and their answers as what it is resumed with.

`interrupt(value)` asks for input. A value of the shape that LangChain's middleware for approvals has
(`action_requests`, `review_configs`) asks for the approval of each of the tool calls that it names. A node that the
graph was compiled to stop at (`interrupt_before`, `interrupt_after`) asks for input, too; to deny that ends the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from langgraph.types import StateSnapshot

from innkeeper.core.actions import Action, Answer, Continuation
from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.langchain_messages import json_text

VERSION = 1

_NEEDED = frozenset({"approve", "reject"})
_NOT_EDITABLE = "The call was approved with other arguments, which the agent does not allow. It was not made."


@dataclass(frozen=True, slots=True)
class Question:
    """An interrupt of the graph. `calls` are the tool calls that it wants to have approved, `names` their tools.

    `fixed` are those of the tools whose arguments it does not let anybody replace.
    """

    interrupt_id: str
    calls: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run that is paused must know when it goes on. `stop` is the id of the action where the graph was compiled
    to stop; `checkpoint` is empty where the graph has a checkpointer of its own, which was at `checkpoint_id`.
    """

    checkpoint: str
    checkpoint_id: str
    step: int
    supersteps: int
    told: Sequence[str]
    opened: Mapping[str, Sequence[str]]
    questions: tuple[Question, ...] = ()
    stop: str | None = None
    version: int = field(default=VERSION)

    def dump(self) -> str:
        return json.dumps(asdict(self))


def read(state: str) -> Progress:
    """The progress that `dump` told. Raises: AgentFailed where another version, or runtime, has told it."""
    try:
        raw = json.loads(state)
        if raw["version"] != VERSION:
            raise ValueError("not this version's")
        asked = tuple(_question(one) for one in raw["questions"])
        return Progress(**{**raw, "questions": asked})
    except (ValueError, LookupError, TypeError) as error:
        raise AgentFailed("What the run was paused with was put aside by another version of its agent.") from error


def _question(raw: Mapping[str, Any]) -> Question:
    fixed = raw.get("fixed", ())  # a run that was paused before there was such a field has none
    return Question(raw["interrupt_id"], tuple(raw["calls"]), tuple(raw["names"]), tuple(fixed))


def asked(snapshot: StateSnapshot, opened: Mapping[str, Sequence[str]]) -> tuple[list[Action], tuple[Question, ...]]:
    """What the graph's interrupts ask, where `opened` are the calls (name, arguments) that have no result, by id."""
    nodes = {interrupt.id: task.name for task in snapshot.tasks for interrupt in task.interrupts}
    actions: list[Action] = []
    questions: list[Question] = []
    for interrupt in snapshot.interrupts:
        calls = _calls(interrupt.value, {key: call for key, call in opened.items() if _is_free(key, questions)})
        names = tuple(opened[key][0] for key in calls)
        questions.append(Question(interrupt.id, calls, names, _fixed(interrupt.value) if calls else ()))
        if calls:
            actions += [Action(key, "approval", opened[key][0], opened[key][1]) for key in calls]
        else:
            actions.append(
                Action(interrupt.id, "input", nodes.get(interrupt.id, "interrupt"), json_text(interrupt.value))
            )
    return actions, tuple(questions)


def _is_free(call_id: str, questions: Iterable[Question]) -> bool:
    return not any(call_id in question.calls for question in questions)


def _calls(value: object, opened: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The ids of the calls that a request for approvals names, in its order; none if it is another request."""
    match value:
        case {"action_requests": list(requests), "review_configs": list(configs)} if requests:
            pass
        case _:
            return ()
    if not all(set(_allowed(config)) >= _NEEDED for config in configs):
        return ()
    found: list[str] = []
    for request in requests:
        matching = (key for key, call in opened.items() if key not in found and _is_call(request, call))
        if (key := next(matching, None)) is None:
            return ()
        found.append(key)
    return tuple(found)


def _allowed(config: object) -> Iterable[Any]:
    allowed = config.get("allowed_decisions") if isinstance(config, Mapping) else None
    return allowed if isinstance(allowed, list | tuple) else ()


def _fixed(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The tools of a request for approvals that are called with the model's arguments, or not at all."""
    configs = [one for one in value["review_configs"] if isinstance(one, Mapping)]
    return tuple(str(one.get("action_name")) for one in configs if "edit" not in _allowed(one))


def _is_call(request: object, call: Sequence[str]) -> bool:
    if not isinstance(request, Mapping) or request.get("name") != call[0]:
        return False
    return bool(json.loads(json_text(request.get("args", request.get("arguments")))) == json.loads(call[1]))


def resumption(progress: Progress, continuation: Continuation) -> dict[str, Any]:
    """What each interrupt is answered with, by its id. Raises: AgentFailed if one has no answer."""
    return {one.interrupt_id: _value(one, continuation) for one in progress.questions}


def is_denied(progress: Progress, continuation: Continuation) -> Answer | None:
    """The answer that ends the run where the graph was compiled to stop."""
    answer = continuation.answer_to(progress.stop or "")
    return answer if answer is not None and answer.decision == "deny" else None


def _value(question: Question, continuation: Continuation) -> Any:
    if question.calls:
        named = zip(question.calls, question.names, strict=True)
        return {"decisions": [_decided(_answer(continuation, key), name, question.fixed) for key, name in named]}
    answer = _answer(continuation, question.interrupt_id)
    if answer.decision == "deny":
        return {"decision": "deny", "message": answer.message}
    return None if answer.value is None else json.loads(answer.value)


def _decided(answer: Answer, name: str, fixed: Sequence[str]) -> dict[str, Any]:
    if answer.decision == "deny":
        return {"type": "reject", **({"message": answer.message} if answer.message is not None else {})}
    if answer.arguments is None:
        return {"type": "approve"}
    if name in fixed:  # the graph would raise, and all that the run has done would be lost
        return {"type": "reject", "message": _NOT_EDITABLE}
    return {"type": "edit", "edited_action": {"name": name, "args": json.loads(answer.arguments)}}


def _answer(continuation: Continuation, action_id: str) -> Answer:
    answer = continuation.answer_to(action_id)
    if answer is None:
        raise AgentFailed(f"The action {action_id!r} has no answer.")
    return answer
