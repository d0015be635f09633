"""Signatures: which of the things that the server can give a user's function asks for, by parameter name.

A signature is read once, at registration. What a function may ask for is `PARAMETERS`; a single positional
parameter under a name of its own is given the messages, and `**kwargs` is given everything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from innkeeper.core.context import RunContext
from innkeeper.core.errors import SetupError
from innkeeper.core.runs import Turn

Source = Callable[[Turn, RunContext], object]

PARAMETERS: Mapping[str, Source] = {
    "messages": lambda turn, context: [message.as_dict() for message in turn.messages],
    "stream": lambda turn, context: turn.stream,
    "context": lambda turn, context: context,
    "request": lambda turn, context: context.request,
    "agent_data": lambda turn, context: context.agent_data,
}

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class Arguments:
    """What one function is called with.

    Raises: SetupError if the function requires something that the server cannot give.
    """

    def __init__(self, function: Callable[..., Any], label: str) -> None:
        parameters = _parameters_of(function, label)
        renamed = _messages_under_another_name(parameters)
        self._positional: list[Source] = []
        self._named: dict[str, Source] = {}
        for parameter in parameters:
            self._add(parameter, PARAMETERS["messages"] if parameter is renamed else None, label)
        if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
            taken = {parameter.name for parameter in parameters} | ({"messages"} if renamed else set())
            self._named |= {name: source for name, source in PARAMETERS.items() if name not in taken}

    def _add(self, parameter: Parameter, source: Source | None, label: str) -> None:
        if parameter.kind is Parameter.VAR_KEYWORD or (source is None and parameter.kind is Parameter.VAR_POSITIONAL):
            return
        source = source or PARAMETERS.get(parameter.name)
        if source is None and parameter.default is Parameter.empty:
            raise SetupError(
                f"{label} requires the parameter {parameter.name!r}, which the server cannot give. It gives"
                f" {', '.join(PARAMETERS)}: use these names, or give {parameter.name!r} a default.",
                param=parameter.name,
            )
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL):
            default = parameter.default
            self._positional.append(source or (lambda turn, context: default))
        elif source is not None:
            self._named[parameter.name] = source

    def of(self, turn: Turn, context: RunContext) -> tuple[list[object], dict[str, object]]:
        """Positional and named arguments for one run."""
        return (
            [source(turn, context) for source in self._positional],
            {name: source(turn, context) for name, source in self._named.items()},
        )


def _parameters_of(function: Callable[..., Any], label: str) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise SetupError(
            f"The signature of {label} cannot be read. Wrap it in a function that takes messages."
        ) from error


def _messages_under_another_name(parameters: list[Parameter]) -> Parameter | None:
    """The parameter that gets the messages although it is called otherwise, if there is one."""
    names = {parameter.name for parameter in parameters}
    if "messages" in names:
        return None
    strangers = [one for one in parameters if one.kind in _POSITIONAL and one.name not in PARAMETERS]
    required = [one for one in strangers if one.default is Parameter.empty]
    if len(required) == 1:
        return required[0]
    if len(strangers) == len(parameters) == 1:
        return strangers[0]
    alone = [one for one in parameters if one.kind is Parameter.VAR_POSITIONAL]
    return alone[0] if alone and not strangers and len(parameters) == 1 else None
