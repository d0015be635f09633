"""Configuration: the `Settings`, made at the edge from flags, environment, `.env`, a YAML file and defaults.

In that order of precedence. Nothing else in the package reads the environment for them. `origins` reads the sources,
`settings` says what each setting may be, and `inventories` shows what came of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError

from innkeeper.core.errors import SetupError
from innkeeper.origins import Given, Origin, doubts, nearest, of_variables, read_env_file, read_yaml
from innkeeper.setting_types import MODES
from innkeeper.settings import Settings
from innkeeper.yaml_keys import YAML_KEYS

__all__ = ["MODES", "Settings", "load_settings", "use_command_line"]

_OTHERS_VARIABLES = ("INNKEEPER_URL", "INNKEEPER_API_KEY", "INNKEEPER_TEST_CACHE", "INNKEEPER_TEST_FULL")
"""Variables with our prefix that are no settings of a server."""


@dataclass(frozen=True, slots=True)
class _CommandLine:
    flags: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    env_file: Path | None = None


_command_line: ContextVar[_CommandLine] = ContextVar("innkeeper_command_line")


def use_command_line(flags: Mapping[str, Any], *, config: Path | None = None, env_file: Path | None = None) -> None:
    """What the command line said, for every `load_settings` in this context from now on.

    So an app that a served file makes by itself keeps to it, too.
    """
    said = {name: value for name, value in flags.items() if value is not None}
    _command_line.set(_CommandLine(said, config, env_file))


def load_settings(
    flags: Mapping[str, Any] | None = None, *, config: Path | None = None, env_file: Path | None = None
) -> Settings:
    """The settings from all sources; `flags` that are `None` say nothing, and those of the command line win.

    Raises: SetupError that names the source, the key and what is wrong with it.
    """
    command_line = _command_line.get(_CommandLine())
    config, env_file = command_line.config or config, command_line.env_file or env_file
    if env_file is not None and not env_file.is_file():
        raise SetupError(f"The file {env_file} that --env-file names does not exist.")
    dotenv = read_env_file(env_file or Path(".env"))
    variables = _variables()
    given: dict[str, Given] = {
        **(read_yaml(config, YAML_KEYS) if config is not None else {}),
        **of_variables(dotenv.values, variables, dotenv),
        **of_variables(os.environ, variables),
        **_arguments(flags or {}),
        **{name: Given(value, Origin("flag", _option(name))) for name, value in command_line.flags.items()},
    }
    try:
        settings = Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as error:
        raise SetupError(_told(error, given)) from None
    settings.note(
        dotenv.values,
        {name: one.origin for name, one in given.items()},
        doubts(os.environ, dotenv, variables, others=_OTHERS_VARIABLES, prefix="INNKEEPER_"),
    )
    return settings


def _variables() -> dict[str, str]:
    """Which setting each variable is."""
    found = {}
    for name, field_info in Settings.model_fields.items():
        alias = field_info.validation_alias
        for variable in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            found[str(variable)] = name
    return found


def _arguments(flags: Mapping[str, Any]) -> dict[str, Given]:
    """What a program says. Raises: SetupError for a setting that there is not."""
    for name in flags:
        if name not in Settings.model_fields:
            raise SetupError(f"There is no setting {name!r}.{nearest(name, Settings.model_fields)}")
    return {name: Given(value, Origin("argument", name)) for name, value in flags.items() if value is not None}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _told(error: ValidationError, given: Mapping[str, Given]) -> str:
    """What is wrong first, and where it stands. The value itself may be a secret, and is not told."""
    issue = error.errors(include_input=False, include_url=False, include_context=False)[0]
    place = str(issue["loc"][0]) if issue["loc"] else ""
    name = _variables().get(place, place)
    subject = given[name].origin.subject if name in given else f"The setting {name}"
    return f"{subject} is wrong: {issue['msg'].removeprefix('Value error, ')}."
