"""Settings: every setting of the server, as one frozen value. `config` makes it; here is only what it may be.

`setting_types` has the types that are more than a number or a text, `yaml_keys` what settings are called in a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr

from innkeeper.origins import DEFAULT, Origin
from innkeeper.setting_types import (
    MODES,
    Limit,
    LogLevel,
    Modes,
    Names,
    Networks,
    PortNumber,
    RateEntries,
    RateText,
    SafeAddress,
    VariableNames,
    WebAddress,
)


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
    redis_port: PortNumber = Field(
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
    rate_limits: RateEntries = Field(
        (),
        validation_alias="RATE_LIMITS",
        description="Other rates by role, group or role/group: read/chat=100/minute, admin=off.",
    )
    max_runs_per_caller: Limit = Field(
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
    env_headers: VariableNames = Field(
        (), validation_alias="ENV_HEADERS", description="Variables that requests may set for themselves by X-Env-NAME."
    )
    trusted_proxies: Networks = Field(
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
    blob_store: Literal["local", "s3"] = Field(
        "local", validation_alias="BLOB_STORE", description="Where files are kept: local, in the data folder, or s3."
    )
    s3_bucket: str | None = Field(
        None, min_length=3, validation_alias="S3_BUCKET", description="The bucket, where files are kept in one."
    )
    s3_endpoint_url: WebAddress | None = Field(
        None, validation_alias="S3_ENDPOINT_URL", description="Whose it is, if not Amazon's."
    )
    s3_prefix: str = Field(
        "", max_length=512, validation_alias="S3_PREFIX", description="What the names in the bucket begin with."
    )
    storage_quota: Limit = Field(
        5 * 1024 * 1024 * 1024,
        validation_alias="STORAGE_QUOTA",
        description="Bytes of files that one organization may keep, old versions included, or off.",
    )
    max_file_bytes: int = Field(
        25 * 1024 * 1024,
        ge=1,
        le=5 * 1024 * 1024 * 1024,
        validation_alias="MAX_FILE_BYTES",
        description="The largest file, in bytes.",
    )
    workspace_versions: int = Field(
        10,
        ge=0,
        le=1000,
        validation_alias="WORKSPACE_VERSIONS",
        description="Older versions that are kept of each file of a workspace.",
    )
    workspace_files: int = Field(
        10_000,
        ge=1,
        le=100_000,
        validation_alias="WORKSPACE_FILES",
        description="Files that one workspace may have.",
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
    action_seconds: float = Field(
        86_400.0,
        gt=0,
        le=31_536_000,
        validation_alias="ACTION_TIME_LIMIT",
        description="How long a paused run waits for people to decide, in seconds.",
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
        description="Where tokens are kept: redis, database, or auto: in Redis where REDIS_HOST names one.",
    )
    oidc_issuer: SafeAddress | None = Field(
        None, validation_alias="OIDC_ISSUER", description="The identity provider whose signed tokens are accepted."
    )
    oidc_audience: str | None = Field(
        None, min_length=1, validation_alias="OIDC_AUDIENCE", description="For whom such a token must be."
    )
    oidc_jwks_url: SafeAddress | None = Field(
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
        False, validation_alias="LOGGING_DB_CONTENTS", description="Whether what was said is copied as well."
    )
    enable_tracing: bool = Field(True, validation_alias="ENABLE_TRACING", description="Whether runs are traced.")
    otlp_endpoint: WebAddress | None = Field(
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

    def note(self, dotenv: Mapping[str, str], origins: Mapping[str, Origin], doubts: Sequence[str]) -> None:
        """Where the values came from, told once by who made them."""
        self._dotenv.update(dotenv)
        self._origins.update(origins)
        self._doubts.extend(doubts)

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
