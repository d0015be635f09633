"""Openings: the store, the bus and the sandbox that the settings name, not yet opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from innkeeper.blobs.local import LocalBlobs
from innkeeper.buses.memory import MemoryBus
from innkeeper.config import MODES, Settings
from innkeeper.core.errors import MissingDependency, SetupError
from innkeeper.core.rates import RateRules, rate_of, special_rates
from innkeeper.limiters.memory import MemoryLimiter
from innkeeper.ports.accounts import AdminReader, AuditReader, ChatLogReader, CreditReader, UserReader
from innkeeper.ports.blobs import BlobStore
from innkeeper.ports.bus import Bus
from innkeeper.ports.files import FileReader, WorkspaceReader
from innkeeper.ports.issuers import Issuer
from innkeeper.ports.journal import Journal
from innkeeper.ports.limits import Limiter
from innkeeper.ports.readers import (
    ActionReader,
    CommandReader,
    CountReader,
    EngineReader,
    EventReader,
    InjectionReader,
    LogReader,
    RunReader,
    SessionReader,
    SourceReader,
    TokenReader,
    WorkerReader,
)
from innkeeper.ports.sandbox import Sandbox
from innkeeper.ports.spans import SpanSink
from innkeeper.ports.tokens import TokenVault
from innkeeper.vaults.stored import StoredVault
from innkeeper.version import __version__


class Store(Protocol):
    """What every storage adapter offers as a whole."""

    @property
    def journal(self) -> Journal: ...

    @property
    def sessions(self) -> SessionReader: ...

    @property
    def runs(self) -> RunReader: ...

    @property
    def actions(self) -> ActionReader: ...

    @property
    def injections(self) -> InjectionReader: ...

    @property
    def workers(self) -> WorkerReader: ...

    @property
    def events(self) -> EventReader: ...

    @property
    def commands(self) -> CommandReader: ...

    @property
    def counts(self) -> CountReader: ...

    @property
    def engines(self) -> EngineReader: ...

    @property
    def sources(self) -> SourceReader: ...

    @property
    def logs(self) -> LogReader: ...

    @property
    def chat_logs(self) -> ChatLogReader: ...

    @property
    def users(self) -> UserReader: ...

    @property
    def files(self) -> FileReader: ...

    @property
    def workspaces(self) -> WorkspaceReader: ...

    @property
    def tokens(self) -> TokenReader: ...

    @property
    def credits(self) -> CreditReader: ...

    @property
    def audit(self) -> AuditReader: ...

    @property
    def admins(self) -> AdminReader: ...

    @property
    def is_shared(self) -> bool: ...

    async def open(self, *, serves: bool = True) -> None: ...

    async def close(self) -> None: ...

    def scrub(self) -> bool: ...

    def abandon(self) -> None: ...

    async def migrate(self) -> tuple[str | None, str]: ...


def open_store(settings: Settings, on_commit: Callable[[float], None] = lambda seconds: None) -> Store:
    """The store that the settings name, not yet opened; `on_commit` is told how long each commit took.

    Raises: SetupError for a URL that names no store that we know.
    """
    url = _database_url(settings)
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        from innkeeper.storage.sqlite.stores import SqliteStore

        return SqliteStore(_sqlite_path(url), on_commit=on_commit)
    if scheme in ("postgresql", "postgres"):
        try:
            from innkeeper.storage.postgres.stores import PostgresStore
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"PostgreSQL needs the package {error.name}: pip install 'innkeeper[postgres]'."
            ) from error
        return PostgresStore(url, on_commit=on_commit)
    raise SetupError(
        f"DATABASE_URL begins with {scheme!r}; use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME."
    )


def open_blobs(settings: Settings) -> BlobStore:
    """Where the contents of files are kept, not yet opened.

    Raises: SetupError, MissingDependency.
    """
    if settings.blob_store == "local":
        return LocalBlobs(settings.data_dir.expanduser().absolute() / "blobs")
    if settings.s3_bucket is None:
        raise SetupError("BLOB_STORE=s3 needs a bucket: name one with S3_BUCKET.")
    try:
        from innkeeper.blobs.s3 import S3Blobs
    except ModuleNotFoundError as error:
        raise MissingDependency(f"S3 needs the package {error.name}: pip install 'innkeeper[s3]'.") from error
    return S3Blobs(
        settings.s3_bucket,
        settings.environment(),
        endpoint_url=settings.s3_endpoint_url,
        prefix=settings.s3_prefix,
    )


def open_sandbox(settings: Settings) -> Sandbox | None:
    """Where clients' code is executed, not yet opened; none where it is not.

    Raises: MissingDependency.
    """
    if settings.code_execution == "monty":
        from innkeeper.sandbox.monty import MontySandbox

        return MontySandbox()
    if settings.code_execution == "process":
        from innkeeper.sandbox.process import ProcessSandbox

        return ProcessSandbox()
    return None


def open_span_sink(settings: Settings) -> SpanSink | None:
    """Where traces are exported to; none where they are not.

    Raises: MissingDependency.
    """
    if settings.otlp_endpoint is None or not settings.enable_tracing:
        return None
    try:
        from innkeeper.telemetry.spans import OtlpSpans
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"OTEL_EXPORTER_OTLP_ENDPOINT needs the package {error.name}: pip install 'innkeeper[otel]'."
        ) from error
    return OtlpSpans(settings.otlp_endpoint, settings.otel_service_name, __version__)


def open_bus(settings: Settings) -> Bus:
    """What wakes the processes that share the store of the settings, not yet opened.

    Raises: MissingDependency.
    """
    redis, database = _redis_url(settings), _database_url(settings)
    if redis is not None:
        try:
            from innkeeper.buses.redis import RedisBus
        except ModuleNotFoundError as error:
            raise MissingDependency(f"Redis needs the package {error.name}: pip install 'innkeeper[redis]'.") from error
        return RedisBus(redis)
    if database.startswith("postgres"):
        try:
            from innkeeper.buses.postgres import PostgresBus
        except ModuleNotFoundError as error:
            raise MissingDependency(
                f"PostgreSQL needs the package {error.name}: pip install 'innkeeper[postgres]'."
            ) from error
        return PostgresBus(database)
    return MemoryBus()


def open_vault(settings: Settings, store: Store) -> TokenVault:
    """Where tokens are kept, not yet connected, over an open store.

    Raises: SetupError, MissingDependency.
    """
    if not keeps_tokens_in_redis(settings):
        return StoredVault(store.journal, store.tokens)
    redis = _redis_url(settings)
    if redis is None:
        raise SetupError("TOKEN_STORE=redis needs a Redis: name one with REDIS_URL or REDIS_HOST.")
    try:
        from innkeeper.vaults.redis import RedisVault
    except ModuleNotFoundError as error:
        raise MissingDependency(f"Redis needs the package {error.name}: pip install 'innkeeper[redis]'.") from error
    return RedisVault(redis, store.journal)


def keeps_tokens_in_redis(settings: Settings) -> bool:
    """Whether tokens are kept there, and not in the store. A Redis that `REDIS_URL` names may keep nothing on disk."""
    chosen = settings.token_store
    return bool(settings.redis_host) if chosen == "auto" else chosen == "redis"


def open_issuer(settings: Settings, now: Callable[[], int]) -> Issuer | None:
    """Whose signed tokens are accepted; nobody's where none is named.

    Raises: SetupError, MissingDependency.
    """
    if settings.oidc_issuer is None:
        if settings.oidc_audience is not None or settings.oidc_jwks_url is not None:
            raise SetupError("OIDC_AUDIENCE and OIDC_JWKS_URL say nothing without OIDC_ISSUER.")
        return None
    if settings.oidc_audience is None:
        raise SetupError("OIDC_ISSUER needs OIDC_AUDIENCE: without it, tokens for other services would be accepted.")
    try:
        from innkeeper.issuers.keys import IssuerKeys
        from innkeeper.issuers.oidc import Claims, OidcIssuer
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"OIDC_ISSUER needs the package {error.name}: pip install 'innkeeper[oidc]'."
        ) from error
    claims = Claims(
        user=settings.oidc_user_claim,
        organization=settings.oidc_organization_claim,
        role=settings.oidc_role_claim or "role",
        scope=settings.oidc_scope_claim,
        makes_admins=settings.oidc_role_claim is not None,
    )
    keys = IssuerKeys(settings.oidc_issuer, settings.oidc_jwks_url)
    return OidcIssuer(settings.oidc_issuer, settings.oidc_audience, keys, now=now, claims=claims)


def open_limiter(settings: Settings) -> Limiter:
    """What counts towards rates: Redis, for all that share it, else this process for itself.

    Raises: MissingDependency; SetupError for an address that cannot be one.
    """
    redis = _redis_url(settings)
    if redis is None:
        return MemoryLimiter()
    try:
        from innkeeper.limiters.redis import RedisLimiter
    except ModuleNotFoundError as error:
        raise MissingDependency(f"Redis needs the package {error.name}: pip install 'innkeeper[redis]'.") from error
    return RedisLimiter(redis)


def rate_rules(settings: Settings) -> RateRules:
    """The rates that the settings name."""
    return RateRules(
        anonymous=rate_of(settings.rate_limit_anonymous),
        user=rate_of(settings.rate_limit_user),
        websocket=rate_of(settings.rate_limit_websocket),
        failed_auth=rate_of(settings.rate_limit_failed_auth),
        special=special_rates(settings.rate_limits, MODES),
    )


def store_label(settings: Settings) -> str:
    """How the store is called in what people read, without credentials."""
    url = _database_url(settings)
    if url.startswith("sqlite"):
        return f"SQLite, {_sqlite_path(url)}"
    return f"PostgreSQL, {url.rpartition('@')[2].partition('?')[0]}"


def _database_url(settings: Settings) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return f"sqlite:///{settings.data_dir.expanduser().absolute() / 'innkeeper.db'}"


def _redis_url(settings: Settings) -> str | None:
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    if settings.redis_host:
        host = f"[{settings.redis_host}]" if ":" in settings.redis_host else settings.redis_host
        return f"redis://{host}:{settings.redis_port}"
    return None


def _sqlite_path(url: str) -> Path:
    """`sqlite:///relative.db` and `sqlite:////absolute.db`, as SQLAlchemy reads them."""
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    if not path or path == ":memory:":
        raise SetupError("DATABASE_URL names an in-memory database, which would forget everything; use sqlite:///PATH.")
    return Path(path).expanduser().absolute()
