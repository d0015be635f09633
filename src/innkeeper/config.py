"""Settings: one frozen value, made at the edge from flags, environment, `.env`, a YAML file and defaults.

In that order of precedence. Nothing else in the package reads the environment. `origins` reads the sources, and
`inventories` shows what came of them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

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
from innkeeper.core.rates import OFF, rate_of, special_rates
from innkeeper.origins import DEFAULT, Given, Origin, doubts, nearest, of_variables, read_env_file, read_yaml

MODES = ("chat", "agent", "logs", "health", "api", "platform", "console")


def _capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_capitals)]


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")) or not text.partition("://")[2].strip("/") or " " in text:
        raise ValueError("it must be a URL such as http://localhost:4318")
    return text


def _safe_address(text: str) -> str:
    """An address at which nobody on the way can exchange what is read."""
    parts = urlsplit(_web_address(text))
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it must have no user, query or fragment")
    if parts.scheme != "https" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("it must begin with https://, because whoever is on the way could let anybody in")
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


def _own_variables(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names that clients may set, for a request of theirs alone."""
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name} is no name of a variable: letters, digits and _")
        if name.upper().endswith(_ADDRESSES):
            raise ValueError(f"{name} says where model clients connect to, which is not for clients to choose")
    if len({name.upper() for name in names}) < len(names):
        raise ValueError("two of its names differ in capitals only, or not at all")
    return names


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ADDRESSES = ("_BASE_URL", "_ENDPOINT", "_INFERENCE_URL")


def _networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    for entry in entries:
        try:
            ip_network(entry)
        except ValueError:
            raise ValueError(f"{entry} is no address and no network such as 10.0.0.0/8") from None
    return entries


def _a_rate(text: str) -> str:
    rate_of(text)
    return text


def _a_limit(value: object) -> object:
    """`off` is none."""
    return None if value == OFF else value


def _entries(value: object) -> object:
    """The keys and values of a configuration file's mapping, as the variable has them."""
    return [f"{key}={one}" for key, one in value.items()] if isinstance(value, dict) else value


def _special_rates(entries: tuple[str, ...]) -> tuple[str, ...]:
    special_rates(entries, MODES)
    return entries


RateText = Annotated[str, AfterValidator(_a_rate)]
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
    rate_limit_anonymous: RateText = Field(
        "100/minute",
        validation_alias="RATE_LIMIT_ANONYMOUS",
        description="Requests of an address without a token, such as 100/minute, or off.",
    )
    rate_limit_user: RateText = Field(
        "1000/minute", validation_alias="RATE_LIMIT_USER", description="Requests of one user, or off."
    )
    rate_limit_websocket: RateText = Field(
        "10/minute",
        validation_alias="RATE_LIMIT_WEBSOCKET",
        description="New WebSockets of one user or address, or off.",
    )
    rate_limit_failed_auth: RateText = Field(
        "10/minute",
        validation_alias="RATE_LIMIT_FAILED_AUTH",
        description="Credentials of one address that open nothing, or off.",
    )
    rate_limits: Annotated[Names, BeforeValidator(_entries), AfterValidator(_special_rates)] = Field(
        (),
        validation_alias="RATE_LIMITS",
        description="Other rates by role, group or role/group: read/chat=100/minute, admin=off.",
    )
    max_runs_per_caller: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_a_limit)] = Field(
        20,
        validation_alias="MAX_RUNS_PER_CALLER",
        description="Runs of one user that a process has under way or waiting, or off.",
    )
    max_queued_runs: int = Field(
        1000,
        ge=1,
        le=100_000,
        validation_alias="MAX_QUEUED_RUNS",
        description="Runs in the background that may wait; of one user, a tenth.",
    )
    env_headers: Annotated[Names, AfterValidator(_own_variables)] = Field(
        (), validation_alias="ENV_HEADERS", description="Variables that requests may set for themselves by X-Env-NAME."
    )
    trusted_proxies: Annotated[Names, AfterValidator(_networks)] = Field(
        (),
        validation_alias="TRUSTED_PROXIES",
        description="Addresses and networks of proxies whose word on their clients' addresses is believed.",
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, validation_alias="MAX_BODY_BYTES", description="The largest JSON body, in bytes."
    )
    max_chat_body_bytes: int = Field(
        10 * 1024 * 1024,
        ge=1024,
        validation_alias="MAX_CHAT_BODY_BYTES",
        description="The same for turns, which may have images in them.",
    )
    max_header_bytes: int = Field(
        16 * 1024, ge=1024, le=1024 * 1024, validation_alias="MAX_HEADER_BYTES", description="Of all header fields."
    )
    slow_client_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        validation_alias="SLOW_CLIENT_SECONDS",
        description="How long a request's head may take, and each gap in its body.",
    )
    idle_seconds: float = Field(
        15.0,
        gt=0,
        le=3600,
        validation_alias="IDLE_CONNECTION_SECONDS",
        description="How long a connection is kept on which nothing is asked.",
    )
    stalled_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        validation_alias="STALLED_READER_SECONDS",
        description="How long a client may take nothing of what is sent to it.",
    )
    max_messages_per_second: int = Field(
        50,
        ge=1,
        le=100_000,
        validation_alias="MAX_MESSAGES_PER_SECOND",
        description="What one client may send on a WebSocket.",
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
    token_store: Literal["auto", "database", "redis"] = Field(
        "auto",
        validation_alias="TOKEN_STORE",
        description="Where tokens are kept: redis, database, or auto: in Redis where one is named.",
    )
    oidc_issuer: Annotated[str, AfterValidator(_safe_address)] | None = Field(
        None, validation_alias="OIDC_ISSUER", description="The identity provider whose signed tokens are accepted."
    )
    oidc_audience: str | None = Field(
        None, min_length=1, validation_alias="OIDC_AUDIENCE", description="For whom such a token must be."
    )
    oidc_jwks_url: Annotated[str, AfterValidator(_safe_address)] | None = Field(
        None, validation_alias="OIDC_JWKS_URL", description="Where its keys are; else its own document says it."
    )
    oidc_user_claim: str = Field(
        "sub", min_length=1, validation_alias="OIDC_USER_CLAIM", description="The claim that names the user."
    )
    oidc_organization_claim: str = Field(
        "org_id",
        min_length=1,
        validation_alias="OIDC_ORGANIZATION_CLAIM",
        description="The claim that names the organization.",
    )
    oidc_role_claim: str | None = Field(
        None,
        min_length=1,
        validation_alias="OIDC_ROLE_CLAIM",
        description="The claim that names the role; unless it is set, role is read and makes no admins.",
    )
    oidc_scope_claim: str = Field(
        "scope", min_length=1, validation_alias="OIDC_SCOPE_CLAIM", description="The claim that names scopes."
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
    log_retention_days: int = Field(
        0,
        ge=0,
        le=36_500,
        validation_alias="LOG_RETENTION_DAYS",
        description="Days for which chat logs are kept; 0: for good.",
    )
    db_logging_enabled: bool = Field(
        False,
        validation_alias="DB_LOGGING_ENABLED",
        description="Whether chat logs are copied to a PostgreSQL of their own.",
    )
    logging_db_host: str = Field(
        "localhost", min_length=1, validation_alias="LOGGING_DB_HOST", description="Where that PostgreSQL is."
    )
    logging_db_port: int = Field(5432, ge=1, le=65535, validation_alias="LOGGING_DB_PORT", description="Its port.")
    logging_db_name: str = Field(
        "agent_logs", min_length=1, validation_alias="LOGGING_DB_NAME", description="The database there."
    )
    logging_db_user: str = Field(
        "postgres", min_length=1, validation_alias="LOGGING_DB_USER", description="Who writes to it."
    )
    logging_db_password: SecretStr = Field(
        SecretStr("postgres"), validation_alias="LOGGING_DB_PASSWORD", description="The password."
    )
    logging_db_contents: bool = Field(
        False,
        validation_alias="LOGGING_DB_CONTENTS",
        description="Whether what was said is copied as well.",
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
    model_prices: Path | None = Field(
        None, validation_alias="MODEL_PRICES", description="A YAML file that says what models cost the operator."
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

    @property
    def dotenv(self) -> Mapping[str, str]:
        """What `.env` says, whosever it is."""
        return dict(self._dotenv)

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
        "trusted_proxies": "trusted_proxies",
        "max_body_bytes": "max_body_bytes",
        "max_chat_body_bytes": "max_chat_body_bytes",
        "max_header_bytes": "max_header_bytes",
        "max_messages_per_second": "max_messages_per_second",
        "slow_client_seconds": "slow_client_seconds",
        "idle_connection_seconds": "idle_seconds",
        "stalled_reader_seconds": "stalled_seconds",
        "env_headers": "env_headers",
        "auth_enabled": "auth_enabled",
        "force_auth": "force_auth",
        "api_key_secret": "api_key_secret",
        "rate_limit_anonymous": "rate_limit_anonymous",
        "rate_limit_user": "rate_limit_user",
        "rate_limit_websocket": "rate_limit_websocket",
        "rate_limit_failed_auth": "rate_limit_failed_auth",
        "rate_limits": "rate_limits",
        "max_runs_per_caller": "max_runs_per_caller",
        "max_queued_runs": "max_queued_runs",
        "token_store": "token_store",
    },
    "oidc": {
        "issuer": "oidc_issuer",
        "audience": "oidc_audience",
        "jwks_url": "oidc_jwks_url",
        "user_claim": "oidc_user_claim",
        "organization_claim": "oidc_organization_claim",
        "role_claim": "oidc_role_claim",
        "scope_claim": "oidc_scope_claim",
    },
    "webhooks": {"allowed_hosts": "webhook_allowed_hosts", "secret": "webhook_secret"},
    "sandbox": {"code_execution": "code_execution"},
    "agents": {
        "temperature": "temperature",
        "max_tokens": "max_tokens",
        "engine_models": "engine_models",
        "cache_dir": "cache_dir",
    },
    "pricing": {"models_file": "model_prices"},
    "chat_logs": {
        "retention_days": "log_retention_days",
        "db_enabled": "db_logging_enabled",
        "db_host": "logging_db_host",
        "db_port": "logging_db_port",
        "db_name": "logging_db_name",
        "db_user": "logging_db_user",
        "db_password": "logging_db_password",
        "db_contents": "logging_db_contents",
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
