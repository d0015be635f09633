"""Settings: one frozen value, made at the edge from flags, environment, `.env`, a YAML file and defaults.

In that order of precedence. Nothing else in the package reads the environment.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from dotenv import dotenv_values
from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from innkeeper.core.errors import SetupError

MODES = ("chat", "agent", "logs", "health", "api", "platform", "console")


def _capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_capitals)]


def _listed(value: object) -> object:
    """Names separated by commas or spaces, as a list."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _port(value: object) -> object:
    """The port of `tcp://10.0.0.1:6379`, which Kubernetes puts into `REDIS_PORT` for a service called redis."""
    return value.rpartition(":")[2] if isinstance(value, str) and value.startswith("tcp://") else value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


def default_data_dir() -> Path:
    """The user's data directory, by the platform's custom."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "innkeeper"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "innkeeper"


class Settings(BaseSettings):
    """Every setting of the server. The alias is its environment variable."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True, case_sensitive=False)

    targets: Names = Field(
        (), validation_alias="INNKEEPER_TARGETS", description="What to serve where no target is given."
    )
    host: str = Field("127.0.0.1", validation_alias="API_HOST", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, validation_alias="API_PORT", description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, validation_alias="API_WORKERS", description="Processes that serve.")
    database_url: SecretStr | None = Field(
        None,
        validation_alias="DATABASE_URL",
        description="sqlite:///PATH or postgresql://…; default is innkeeper.db in the data folder.",
    )
    redis_url: SecretStr | None = Field(
        None, validation_alias="REDIS_URL", description="redis://…; a Redis through which processes wake each other."
    )
    redis_host: str | None = Field(
        None, validation_alias="REDIS_HOST", description="The host of that Redis, where no URL is given."
    )
    redis_port: Annotated[int, BeforeValidator(_port)] = Field(
        6379, ge=1, le=65535, validation_alias="REDIS_PORT", description="The port at that host."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        validation_alias=AliasChoices("INNKEEPER_DATA_DIR"),
        description="Where state is kept.",
    )
    cache_dir: Path | None = Field(
        None, validation_alias="INNKEEPER_CACHE_DIR", description="Where downloaded model weights are kept."
    )
    auth_enabled: bool = Field(
        True, validation_alias="AGENT_AUTH_ENABLED", description="Whether requests need a credential."
    )
    force_auth: bool = Field(
        False, validation_alias="FORCE_AUTH", description="Whether requests from this machine need one too."
    )
    allowed_hosts: Names = Field(
        (), validation_alias="ALLOWED_HOSTS", description="Host names answered for, beside the loopback ones."
    )
    cors_origins: Names = Field(
        (), validation_alias="CORS_ORIGINS", description="Origins whose pages may call this server."
    )
    allowed_modes: Names = Field(MODES, validation_alias="ALLOWED_MODES", description="Groups of routes to serve.")
    temperature: float | None = Field(
        None, ge=0, le=2, validation_alias="AGENT_TEMPERATURE", description="Overrides the agents' own."
    )
    max_tokens: int | None = Field(
        None, ge=1, validation_alias="AGENT_MAX_TOKENS", description="Overrides the agents' own."
    )
    run_seconds: float = Field(
        600.0, gt=0, validation_alias="RUN_TIME_LIMIT", description="Time limit of a run, in seconds."
    )
    drain_seconds: float = Field(
        15.0,
        ge=0,
        le=3600,
        validation_alias="INNKEEPER_DRAIN_SECONDS",
        description="How long a server that stops waits for runs under way; it then ends within 9 more.",
    )
    background_runs: int = Field(
        16,
        ge=1,
        le=1000,
        validation_alias="INNKEEPER_BACKGROUND_RUNS",
        description="Runs in the background that one process executes at a time.",
    )
    max_attempts: int = Field(
        10,
        ge=1,
        le=1000,
        validation_alias="RUN_MAX_ATTEMPTS",
        description="How often a run in the background is begun, where processes die under it.",
    )
    webhook_allowed_hosts: Names = Field(
        (), validation_alias="WEBHOOK_ALLOWED_HOSTS", description="Hosts that may be told of runs' ends; none: off."
    )
    webhook_secret: SecretStr | None = Field(
        None, validation_alias="WEBHOOK_SECRET", description="Signs webhooks: whsec_ and base64, or any text."
    )
    code_execution: Literal["off", "monty", "process"] = Field(
        "off",
        validation_alias="CODE_EXECUTION",
        description="Where tools and handlers that clients register as source code run: monty, process, or off.",
    )
    log_level: LogLevel = Field("INFO", validation_alias="LOG_LEVEL", description="What is logged.")
    log_file: Path | None = Field(None, validation_alias="LOG_FILE", description="Where, instead of stderr.")
    debug: bool = Field(
        False, validation_alias="INNKEEPER_DEBUG", description="Shows the text of exceptions to clients."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        assert isinstance(init_settings, InitSettingsSource)
        file = init_settings.init_kwargs.pop("_yaml", {})
        return init_settings, env_settings, dotenv_settings, InitSettingsSource(settings_cls, file)

    def environment(self) -> Mapping[str, str]:
        """The process environment with `.env` merged in, for model clients."""
        return {**self._dotenv, **os.environ}

    _dotenv: dict[str, str] = {}


_YAML_KEYS: Mapping[str, Mapping[str, str]] = {
    "server": {
        "targets": "targets",
        "host": "host",
        "port": "port",
        "workers": "workers",
        "allowed_hosts": "allowed_hosts",
        "allowed_modes": "allowed_modes",
        "data_dir": "data_dir",
        "debug": "debug",
        "run_time_limit": "run_seconds",
        "drain_seconds": "drain_seconds",
        "background_runs": "background_runs",
        "run_max_attempts": "max_attempts",
    },
    "database": {"url": "database_url"},
    "redis": {"url": "redis_url"},
    "logging": {"level": "log_level", "file": "log_file"},
    "security": {
        "cors_origins": "cors_origins",
        "auth_enabled": "auth_enabled",
        "force_auth": "force_auth",
    },
    "webhooks": {"allowed_hosts": "webhook_allowed_hosts", "secret": "webhook_secret"},
    "sandbox": {"code_execution": "code_execution"},
    "agents": {"temperature": "temperature", "max_tokens": "max_tokens"},
}
"""What a configuration file may say, by section and key, and which setting it is."""


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
    given = {name: value for name, value in (flags or {}).items() if value is not None} | dict(command_line.flags)
    if env_file is not None and not env_file.is_file():
        raise SetupError(f"The file {env_file} that --env-file names does not exist.")
    dotenv = env_file or Path(".env")
    file = _read_yaml(config) if config is not None else {}
    try:
        settings = Settings(_env_file=dotenv, _yaml=file, **given)  # type: ignore[call-arg]
    except ValidationError as error:
        raise SetupError(_told(error)) from None
    unknown = set(settings.allowed_modes) - set(MODES)
    if unknown:
        raise SetupError(f"allowed_modes: {', '.join(sorted(unknown))} is none of {', '.join(MODES)}.")
    settings._dotenv.update({name: value for name, value in dotenv_values(dotenv).items() if value is not None})
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SetupError(f"The configuration file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise SetupError(f"The configuration file {path} is not valid YAML: {error}.") from None
    if not isinstance(raw, dict):
        raise SetupError(f"The configuration file {path} must hold sections such as server: and database:.")
    flat: dict[str, Any] = {}
    for section, keys in raw.items():
        known = _YAML_KEYS.get(section)
        if known is None:
            raise SetupError(f"{path}: unknown section {section!r}.{_nearest(section, _YAML_KEYS)}")
        for key, value in (keys or {}).items():
            if key not in known:
                raise SetupError(f"{path}: unknown key {section}.{key}.{_nearest(key, known)}")
            flat[known[key]] = value
    return flat


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(word), list(known), 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known are: {', '.join(known)}."


def _told(error: ValidationError) -> str:
    issue = error.errors(include_input=False, include_url=False)[0]
    name = str(issue["loc"][0]) if issue["loc"] else "settings"
    return f"The setting {name} is wrong: {issue['msg']}."
