"""Declarations: an agent as a YAML file, `agents/NAME.yaml`, instead of Python.

    model: local:smollm2
    instructions: You are a helpful assistant.
    tools: [weather:get_weather]        # module:function; modules beside the file, in the working folder, or installed
    temperature: 0.2

The file's name is the agent's, unless it says `name`. `prompts` are texts by name; the one called `system` serves as
the instructions where there are none. A file that says `program` declares one, see `program_declarations`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from innkeeper.apps.imports import add_folder, load_module
from innkeeper.apps.program_declarations import read_program
from innkeeper.apps.targets import near
from innkeeper.core.errors import InnkeeperError, SetupError
from innkeeper.runtimes.declared import Agent
from innkeeper.runtimes.programs import Program


class Declaration(BaseModel):
    """What a file may say."""

    model_config = ConfigDict(extra="forbid")

    model: StrictStr
    name: StrictStr | None = None
    description: StrictStr = ""
    instructions: StrictStr = ""
    prompts: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    tools: list[StrictStr] = Field(default_factory=list)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: StrictInt | None = Field(None, ge=1)
    max_steps: StrictInt = Field(10, ge=1)
    isolated: StrictBool = False
    requires_approval: list[StrictStr] = Field(default_factory=list)
    mcp_servers: list[Any] | dict[StrictStr, Any] = Field(default_factory=list)


def read_agent(path: Path) -> Agent | Program:
    """The agent that the file at `path` declares.

    Raises: SetupError that names the file, the key and what is wrong with it.
    """
    raw = _read(path)
    if "program" in raw:
        return read_program(path, raw)
    said = _checked(path, raw)
    try:
        return Agent(
            name=said.name or path.stem,
            model=said.model,
            instructions=said.instructions or said.prompts.get("system", ""),
            tools=[_tool(path, spec) for spec in said.tools],
            max_steps=said.max_steps,
            description=said.description,
            temperature=said.temperature,
            max_tokens=said.max_tokens,
            prompts=said.prompts,
            isolated=said.isolated,
            requires_approval=said.requires_approval,
            mcp_servers=said.mcp_servers,
        )
    except SetupError:
        raise
    except InnkeeperError as error:
        raise SetupError(f"{path}: {error.message}", param=error.param) from error


def _read(path: Path) -> dict[Any, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise SetupError(f"{path} declares no agent: it must say at least model: …")
    return raw


def _checked(path: Path, raw: dict[Any, Any]) -> Declaration:
    for key in raw:
        if key not in Declaration.model_fields:
            raise SetupError(f"{path}: unknown key {key!r}.{near(str(key), Declaration.model_fields)}")
    try:
        return Declaration.model_validate(raw)
    except ValidationError as error:
        raise SetupError(f"{path}: {_told(error)}") from None


def _told(error: ValidationError) -> str:
    issue = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in issue["loc"])
    if issue["type"] == "missing":
        return f"the key {key!r} is missing, such as {key}: local:smollm2."
    return f"{key}: {issue['msg']}."


def _tool(path: Path, spec: str) -> Callable[..., Any]:
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name.isidentifier()):
        raise SetupError(f"{path}: the tool {spec!r} is not of the form module:function.")
    add_folder(path.parent)
    try:
        module = load_module(module_name, path.parent if _is_beside(path, module_name) else Path.cwd())
    except SetupError as error:
        raise SetupError(f"{path}: the tool {spec!r} cannot be loaded. {error.message}") from error
    tool = getattr(module, name, None)
    if not callable(tool) and not hasattr(tool, "function_schema"):
        known = [word for word, value in vars(module).items() if callable(value)]
        raise SetupError(f"{path}: the tool {spec!r} is no function of {module_name}.{near(name, known)}")
    found: Callable[..., Any] = tool
    return found


def _is_beside(path: Path, module_name: str) -> bool:
    return path.parent.joinpath(*module_name.split(".")).with_suffix(".py").is_file()
