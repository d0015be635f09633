"""Settings: one frozen value, made at the edge from flags, environment, `.env`, a YAML file and defaults.

In that order of precedence. Nothing else in the package reads the environment. `origins` reads the sources, and
`inventories` shows what came of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)

from innkeeper.core.errors import SetupError
from innkeeper.origins import DEFAULT, Given, Origin, doubts, nearest, of_variables, read_env_file, read_yaml

MODES = ("chat", "agent", "logs", "health", "api", "platform", "console")


def _capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_capitals)]


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2].strip("/") or " " in text:
        raise ValueError("it must be a URL such as http://localhost:4318")
    return text


def _listed(value: object) -> object:
    """Names separated by commas or spaces, as a list."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _port(value: object) -> object:
    """The port of `tcp://10.0.0.1:6379`, which Kubernetes puts into `REDIS_PORT` for a service called redis."""
    return value.rpartition(":")[2] if isinstance(value, str) and value.startswith("tcp://") else value


def _known_modes(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in MODES]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is none of {', '.join(MODES)}")
    return names


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Modes = Annotated[Names, AfterValidator(_known_modes)]


def default_data_dir() -> Path:
    """The user's data directory, by the platform's custom."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "innkeeper"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "innkeeper"


class Settings(BaseModel):
    """Every setting of the server. The alias is its environment variable."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
    allowed_modes: Modes = Field(MODES, validation_alias="ALLOWED_MODES", description="Groups of routes to serve.")
    temperature: float | None = Field(
        None, ge=0, le=2, validation_alias="AGENT_TEMPERATURE", description="Overrides the agents' own."
    )
    max_tokens: int | None = Field(
        None, ge=1, validation_alias="AGENT_MAX_TOKENS", description="Overrides the agents' own."
    )
    engine_models: Names = Field(
        (), validation_alias="ENGINE_MODELS", description="Models that engines may choose, beside their agents' own."
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
    api_key_secret: SecretStr | None = Field(
        None, validation_alias="API_KEY_SECRET", description="Keys the digests that are kept of tokens."
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
    enable_metrics: bool = Field(
        True, validation_alias="ENABLE_METRICS", description="Whether figures are kept of what the server does."
    )
    log_days: int = Field(
        7, ge=1, le=3650, validation_alias="OBSERVABILITY_LOG_DAYS", description="Days for which log records are kept."
    )
    enable_tracing: bool = Field(True, validation_alias="ENABLE_TRACING", description="Whether runs are traced.")
    otlp_endpoint: Annotated[str, AfterValidator(_web_address)] | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="Base URL of an OpenTelemetry collector, such as http://localhost:4318; none: nothing is exported.",
    )
    otel_service_name: str = Field(
        "innkeeper",
        min_length=1,
        max_length=255,
        validation_alias="OTEL_SERVICE_NAME",
        description="What this service is called in exported traces.",
    )
    log_level: LogLevel = Field("INFO", validation_alias="LOG_LEVEL", description="What is logged.")
    log_file: Path | None = Field(None, validation_alias="LOG_FILE", description="Where, instead of stderr.")
    debug: bool = Field(
        False, validation_alias="INNKEEPER_DEBUG", description="Shows the text of exceptions to clients."
    )

    _dotenv: dict[str, str] = PrivateAttr(default_factory=dict)
    _origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
    _doubts: list[str] = PrivateAttr(default_factory=list)

    def environment(self) -> Mapping[str, str]:
        """The process environment with `.env` merged in, for model clients."""
        return {**self._dotenv, **os.environ}

    def origin(self, name: str) -> Origin:
        """Where the value of this setting comes from."""
        return self._origins.get(name, DEFAULT)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What may be a mistake in the sources and yet is none for certain: warnings for whoever starts the server."""
        return tuple(self._doubts)


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
    "redis": {"url": "redis_url", "host": "redis_host", "port": "redis_port"},
    "logging": {"level": "log_level", "file": "log_file"},
    "security": {
        "cors_origins": "cors_origins",
        "auth_enabled": "auth_enabled",
        "force_auth": "force_auth",
        "api_key_secret": "api_key_secret",
    },
    "webhooks": {"allowed_hosts": "webhook_allowed_hosts", "secret": "webhook_secret"},
    "sandbox": {"code_execution": "code_execution"},
    "agents": {
        "temperature": "temperature",
        "max_tokens": "max_tokens",
        "engine_models": "engine_models",
        "cache_dir": "cache_dir",
    },
    "observability": {
        "enable_metrics": "enable_metrics",
        "enable_tracing": "enable_tracing",
        "log_days": "log_days",
        "otlp_endpoint": "otlp_endpoint",
        "service_name": "otel_service_name",
    },
}
"""What a configuration file may say, by section and key, and which setting it is."""

_OTHERS_VARIABLES = ("INNKEEPER_URL", "INNKEEPER_API_KEY", "INNKEEPER_TEST_CACHE")
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
        **(read_yaml(config, _YAML_KEYS) if config is not None else {}),
        **of_variables(dotenv.values, variables, dotenv),
        **of_variables(os.environ, variables),
        **_arguments(flags or {}),
        **{name: Given(value, Origin("flag", _option(name))) for name, value in command_line.flags.items()},
    }
    try:
        settings = Settings.model_validate({name: one.value for name, one in given.items()})
    except ValidationError as error:
        raise SetupError(_told(error, given)) from None
    settings._dotenv.update(dotenv.values)
    settings._origins.update({name: one.origin for name, one in given.items()})
    settings._doubts.extend(doubts(os.environ, dotenv, variables, others=_OTHERS_VARIABLES, prefix="INNKEEPER_"))
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
