"""Inputs and outputs: how a conversation becomes what a graph or runnable takes, and what it returns becomes an answer.

What it takes is read from its own JSON schema. Importing this module imports `langchain_core`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable

from innkeeper.core.errors import AgentFailed
from innkeeper.runtimes.langchain_messages import json_text, text_of

_PROMPTS = ("input", "question", "query", "prompt", "text", "message", "user_input", "topic", "task")
_HISTORIES = ("chat_history", "history")
_ANSWERS = ("output", "answer", "response", "result", "text")

Schema = Mapping[str, Any]


def schema_of(runnable: Runnable[Any, Any]) -> Schema:
    """The JSON schema of its input; nothing is known where there is none."""
    try:
        schema = runnable.get_input_jsonschema()
    except Exception:  # noqa: BLE001 - it is made of types of the user's own
        return {}
    # So LangChain words a parallel of runnables that take whatever they are given.
    is_parallel = str(schema.get("title")).startswith("RunnableParallel")
    return {} if is_parallel and set(schema.get("properties") or ()) == {"root"} else schema


def given(schema: Schema, messages: Sequence[AnyMessage], variables: Mapping[str, object] | None, name: str) -> Any:
    """The conversation in the form that `schema` asks for.

    Messages where it takes messages, text where it takes text; of an object, its field for messages, or its field for
    text and one for what was said before. Where nothing is known, it is given the text of the last user message.

    Raises: AgentFailed if it takes an object of which no field can be told.
    """
    fields = schema.get("properties")
    if isinstance(fields, Mapping) and schema.get("type", "object") == "object":
        return _object(fields, schema.get("required") or (), messages, variables or {}, name)
    if schema.get("type") == "array" or any(one.get("type") == "array" for one in schema.get("anyOf", ())):
        return list(messages)
    if schema.get("type") == "object":
        return {"messages": list(messages)}
    return _prompt(messages)


def _object(
    fields: Schema,
    required: Sequence[str],
    messages: Sequence[AnyMessage],
    variables: Mapping[str, object],
    name: str,
) -> dict[str, Any]:
    made: dict[str, Any] = {key: value for key, value in variables.items() if key in fields}
    prompt = _prompt(messages)
    if (field := _prompt_field(fields, required, made)) is not None:
        made[field] = prompt
    place = next((key for key in ("messages", *_HISTORIES) if key in fields), None)
    if place is not None:
        made[place] = list(messages) if field is None or place == "messages" else _before(messages)
    if (field is not None or place is not None) and not [key for key in required if key not in made]:
        return made
    if (told := _told_object(prompt, fields)) is not None:
        return {**made, **told}
    if not made:
        raise AgentFailed(
            f"The agent {name!r} takes {', '.join(fields) or 'no fields'}: send a JSON object with these."
        )
    return made


def _prompt_field(fields: Schema, required: Sequence[str], made: Mapping[str, object]) -> str | None:
    """The field that takes the user's text: one that is called so, or the only text that is asked for."""
    if "messages" in fields:
        return None
    if (named := next((key for key in _PROMPTS if key in fields and key not in made), None)) is not None:
        return named
    texts = [key for key, one in fields.items() if key not in made and _may_be_text(one)]
    demanded = [key for key in texts if key in required]
    found = demanded if len(demanded) == 1 else texts
    return found[0] if len(found) == 1 else None


def _may_be_text(field: object) -> bool:
    return isinstance(field, Mapping) and field.get("type") == "string"


def _told_object(prompt: str, fields: Schema) -> dict[str, Any] | None:
    """The user's text, where it is a JSON object of these fields."""
    try:
        told = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and told and all(key in fields for key in told) else None


def _prompt(messages: Sequence[AnyMessage]) -> str:
    return next((text_of(one) for one in reversed(messages) if isinstance(one, HumanMessage)), "")


def _before(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """What was said before the last user message."""
    last = max((place for place, one in enumerate(messages) if isinstance(one, HumanMessage)), default=len(messages))
    return list(messages[:last])


def answer_of(output: object) -> str | None:
    """What an output says: the last message of the model, a field for the answer, text, or its JSON.

    `None` where it says nothing.
    """
    match output:
        case None:
            return None
        case str():
            return output
        case BaseMessage():
            return text_of(output)
        case PromptValue():
            return output.to_string()
        case Mapping():
            return _answer_in(output)
        case list() | tuple() if (last := last_message_in(output)) is not None:
            return text_of(last) if isinstance(last, AIMessage) else None
        case _:
            return json_text(output)


def _answer_in(output: Mapping[Any, Any]) -> str | None:
    if (made := output.get("structured_response")) is not None:
        return json_text(made)
    if (last := last_message_in(output)) is not None:
        return text_of(last) if isinstance(last, AIMessage) else None
    return next((one for key in _ANSWERS if isinstance(one := output.get(key), str)), None) or json_text(dict(output))


def last_message_in(output: object) -> BaseMessage | None:
    """The last message of a state that has messages, or of a list of them."""
    held = output.get("messages") if isinstance(output, Mapping) else output
    return held[-1] if isinstance(held, list | tuple) and held and isinstance(held[-1], BaseMessage) else None
