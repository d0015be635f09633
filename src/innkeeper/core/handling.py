"""Handling: commands and events as Python code makes them and as handlers are given them.

A subclass that is a dataclass has its fields as parameters, and its name as its type:

    @dataclass
    class Greet(Command):
        name: str

What arrives for a handler that was registered by a type's name alone is a `NamedCommand` or a `NamedEvent`, whose
parameters are there as attributes, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from innkeeper.core.errors import Invalid

_NO_FACTS: Mapping[str, object] = {}


class _Message:
    """What commands and events share: the server's facts about one, which are no parameters of it."""

    session_id = ""
    metadata = _NO_FACTS

    def _tell(self, facts: Mapping[str, object]) -> None:
        """A field of the message's own that is called as a fact is stays what was said."""
        own = getattr(type(self), "__dataclass_fields__", ())
        for name, value in facts.items():
            if name not in own:
                object.__setattr__(self, name, value)


class Command(_Message):
    """Base of commands. A handler finds `command_id`, `session_id` and `metadata` on the one that it is given."""

    command_id = ""


class Event(_Message):
    """Base of events. A handler finds `event_id`, `sequence`, `session_id`, `source` and `metadata` on it."""

    event_id = ""
    sequence = 0
    source = ""


@dataclass(frozen=True)
class NamedCommand(Command):
    """A command by the name of its type; its parameters are attributes, too."""

    command_type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return _found(self, "parameters", name)


@dataclass(frozen=True)
class NamedEvent(Event):
    """An event by the name of its type; what its `data` says is there as attributes, too."""

    event_type: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return _found(self, "data", name)


def _found(message: object, place: str, name: str) -> Any:
    told = vars(message).get(place, _NO_FACTS)
    if name in told:
        return told[name]
    raise AttributeError(f"{type(message).__name__} has no {name!r}; its {place} are {', '.join(told) or 'empty'}")


@dataclass
class DummyEngineCommand(Command):
    """Asks the engine that works offline; its handler is always there."""

    prompt: str


@dataclass
class DummyEngineStatusUpdate(Event):
    """What the handler of `DummyEngineCommand` tells of its work."""

    status: str


def metadata_of(message: Command | Event) -> Mapping[str, object]:
    """What is said beside the parameters; nothing where `metadata` is a parameter itself."""
    is_parameter = "metadata" in getattr(type(message), "__dataclass_fields__", ())
    return _NO_FACTS if is_parameter else message.metadata


_MAX_DEPTH = 64


def as_data(value: object, levels: int = _MAX_DEPTH) -> object:
    """A value as JSON has it, as far as it is made of dataclasses and of models that have a `model_dump`."""
    if not levels or isinstance(value, type | str):
        return value
    if dataclasses.is_dataclass(value):
        told = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return as_data(told, levels)
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if isinstance(value, dict):
        return {name: as_data(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item, levels - 1) for item in value]
    return value


M = TypeVar("M", bound=_Message)


def type_name(kind: str | type[_Message]) -> str:
    """The name of a type of commands or events."""
    return kind if isinstance(kind, str) else kind.__name__


def told_by(message: Command | Event) -> tuple[str, Mapping[str, Any]]:
    """The type of a message and what it says.

    Raises: Invalid where it is no dataclass, so that its parameters are unknown.
    """
    if isinstance(message, NamedCommand):
        return message.command_type, message.parameters
    if isinstance(message, NamedEvent):
        return message.event_type, message.data
    kind: type = type(message)
    if kind is Command or kind is Event:
        raise Invalid("Make a subclass of Command or Event for what you mean, or use NamedCommand or NamedEvent.")
    if dataclasses.is_dataclass(kind):
        return kind.__name__, {one.name: getattr(message, one.name) for one in dataclasses.fields(kind) if one.init}
    return kind.__name__, dict(vars(message))


def made(kind: type[M], told: Mapping[str, Any], facts: Mapping[str, object]) -> M:
    """The message of that type that says `told`.

    Raises: Invalid where these are not its parameters.
    """
    try:
        message = kind(**told)
    except TypeError as error:
        raise Invalid(f"The parameters do not fit {kind.__name__}: {error}.", param="parameters") from error
    message._tell(facts)
    return message


def named_command(command_type: str, parameters: Mapping[str, Any], facts: Mapping[str, object]) -> NamedCommand:
    command = NamedCommand(command_type, parameters)
    command._tell(facts)
    return command


def named_event(event_type: str, data: Mapping[str, Any], facts: Mapping[str, object]) -> NamedEvent:
    event = NamedEvent(event_type, data)
    event._tell(facts)
    return event
