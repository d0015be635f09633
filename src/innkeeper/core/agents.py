"""Agents, as the outside knows them: their description, never their instructions or secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from innkeeper.core.errors import Invalid
from innkeeper.core.usage import Pricing


@dataclass(frozen=True, slots=True)
class AgentDescription:
    """What clients may know of an agent. `accepts_client_tools` and `has_model` decide what a request may ask.

    `accepts_models` says that the runtime asks the model that `Parameters.model` names, where one is named.
    `resumes` says that the runtime goes on from what an earlier attempt of a run had done, instead of from the start.
    """

    name: str
    model: str | None = None
    description: str = ""
    tools: tuple[str, ...] = ()
    max_steps: int | None = None
    provider: str = "innkeeper"
    has_model: bool = False
    accepts_client_tools: bool = False
    accepts_models: bool = False
    streams: bool = True
    resumes: bool = False
    pricing: Pricing | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompts:
    """What an agent is configured to tell its model, apart from its description, which anybody may read.

    `instructions` are its fixed ones; `named` are texts by name, for people to read.
    """

    instructions: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,127}")


def checked_name(name: object) -> str:
    """`name` if it can stand as one segment of a URL.

    Raises: Invalid, with what a name may look like.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} is not a usable agent name: use 1 to 128 letters, digits and _ . : @ - and begin with a"
            " letter, a digit or _.",
            param="name",
        )
    return name
