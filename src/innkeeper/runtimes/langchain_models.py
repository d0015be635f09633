"""Models inside of runnables: what a request asks of them, what they are called, and the tools beside them.

Importing this module imports `langchain_core`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableBinding, RunnableSequence

from innkeeper.core.runs import Parameters
from innkeeper.runtimes.settings import RuntimeSettings

AnyRunnable = Runnable[Any, Any]

_DEEPEST = 6


def asked(runnable: AnyRunnable, parameters: Parameters, settings: RuntimeSettings) -> AnyRunnable:
    """`runnable`, whose models are asked with the request's settings as far as they know them; else itself."""
    if isinstance(runnable, RunnableSequence):
        steps = [asked(step, parameters, settings) for step in runnable.steps]
        changed = any(new is not old for new, old in zip(steps, runnable.steps, strict=True))
        return RunnableSequence(*steps, name=runnable.name) if changed else runnable
    model = chat_model_of(runnable)
    if model is None:
        return runnable
    own = {"max_tokens": getattr(model, "max_tokens", None), **getattr(runnable, "kwargs", {})}
    wishes = _wishes(parameters, settings, own["max_tokens"])
    bound = {key: value for key, value in wishes.items() if _knows(model, key)}
    return runnable.bind(**bound) if bound else runnable


def _wishes(parameters: Parameters, settings: RuntimeSettings, own_limit: object) -> dict[str, Any]:
    wishes: dict[str, Any] = {
        "temperature": settings.temperature if parameters.temperature is None else parameters.temperature,
        "max_tokens": settings.tokens_asked(parameters, own_limit),
        "top_p": parameters.top_p,
        "stop": list(parameters.stop) or None,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
    }
    return {key: value for key, value in wishes.items() if value is not None}


def _knows(model: BaseChatModel, key: str) -> bool:
    """Whether the model has such a setting itself; providers refuse what they do not know. All know `stop`."""
    fields = type(model).model_fields
    return key == "stop" or key in fields or any(key == field.alias for field in fields.values())


def chat_model_of(runnable: object) -> BaseChatModel | None:
    """The chat model that `runnable` is, with or without something bound to it."""
    while isinstance(runnable, RunnableBinding):
        runnable = runnable.bound
    return runnable if isinstance(runnable, BaseChatModel) else None


def takes_tools(runnable: AnyRunnable) -> bool:
    """Whether it is a chat model that knows tools, and none have been bound to it."""
    return isinstance(runnable, BaseChatModel) and type(runnable).bind_tools is not BaseChatModel.bind_tools


def with_tools(runnable: AnyRunnable, parameters: Parameters) -> tuple[AnyRunnable, list[str]]:
    """The chat model with the tools that the client brings and answers, and their names."""
    tools = [dict(tool) for tool in parameters.tools if tool.get("type") == "function"]
    match parameters.tool_choice:
        case {"type": "allowed_tools", "allowed_tools": {"tools": list(chosen)}}:
            allowed = {one["function"]["name"] for one in cast("list[dict[str, Any]]", chosen)}
            tools = [tool for tool in tools if _name(tool) in allowed]
    if not tools or not takes_tools(runnable) or parameters.tool_choice == "none":
        return runnable, []
    choice = _choice(parameters.tool_choice)
    bound = cast("BaseChatModel", runnable).bind_tools(tools, **({"tool_choice": choice} if choice else {}))
    return cast("AnyRunnable", bound), [_name(tool) for tool in tools]


def _name(tool: Mapping[str, Any]) -> str:
    return str(cast("Mapping[str, Any]", tool["function"])["name"])


def _choice(choice: str | Mapping[str, object] | None) -> str | None:
    match choice:
        case "required" | {"allowed_tools": {"mode": "required"}}:
            return "any"
        case {"function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            return name
        case _:
            return None


def models_in(value: object, depth: int = 0) -> Iterator[BaseLanguageModel[Any]]:
    """The models that a runnable is made of, as far as its parts are to be seen; a function's are in its closure."""
    if isinstance(value, BaseLanguageModel):
        yield value
    elif depth < _DEEPEST:
        for part in _parts(value):
            yield from models_in(part, depth + 1)


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, RunnableBinding):
        yield value.bound
    elif isinstance(value, RunnableSequence):
        yield from value.steps
    elif isinstance(value, Runnable):
        yield from filter(callable, (getattr(value, "func", None), getattr(value, "afunc", None)))
    else:
        for cell in getattr(value, "__closure__", None) or ():
            try:
                held = cell.cell_contents
            except ValueError:  # it is empty still
                continue
            if isinstance(held, Runnable):
                yield held


def name_of(model: BaseLanguageModel[Any]) -> str | None:
    """What the model is called at its provider."""
    names = (getattr(model, key, None) for key in ("model_name", "model", "model_id", "deployment_name"))
    return next((name for name in names if isinstance(name, str) and name), None)


def tools_bound_to(runnable: object) -> tuple[str, ...]:
    """The names of the tools that its author has bound to a model."""
    tools = runnable.kwargs.get("tools") if isinstance(runnable, RunnableBinding) else None
    names = [tool.get("function", tool).get("name") for tool in tools or () if isinstance(tool, Mapping)]
    return tuple(name for name in names if isinstance(name, str))
