"""Wiring: the composition root. It alone names concrete adapters, and gives every part what it needs.

A `Kernel` belongs to one app. What it starts belongs to one event loop: where an app is entered on another
loop (as test clients do), the parts of the old one are closed and made anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from innkeeper.config import Settings
from innkeeper.core.errors import SetupError
from innkeeper.http.contexts import RequestState, new_id, now
from innkeeper.http.deps import House
from innkeeper.http.gates import Gate, GateSettings
from innkeeper.ports.journal import Journal
from innkeeper.ports.readers import RunReader, SessionReader
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.runs import RunLimits, Runs
from innkeeper.services.sessions import Sessions
from innkeeper.services.settlements import Settlements
from innkeeper.version import __version__

_logger = logging.getLogger(__name__)

DRAIN_SECONDS = 20.0


class Store(Protocol):
    """What every storage adapter offers as a whole."""

    @property
    def journal(self) -> Journal: ...

    @property
    def sessions(self) -> SessionReader: ...

    @property
    def runs(self) -> RunReader: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Started:
    """The services of one event loop."""

    store: Store
    runs: Runs
    sessions: Sessions
    loop: asyncio.AbstractEventLoop


class Kernel:
    """Starts and stops what one app needs."""

    def __init__(self, settings: Settings, agents: AgentRegistry) -> None:
        self.settings = settings
        self.agents = agents
        self.house = House(
            agents=agents,
            gate=Gate(_gate_settings(settings)),
            start=self.start,
            new_context=RequestState,
            new_id=new_id,
            status=self.status,
            shows_errors=settings.debug,
            created=int(time.time()),
            modes=frozenset(settings.allowed_modes),
        )
        self._started: Started | None = None
        self._starting: tuple[asyncio.AbstractEventLoop, asyncio.Task[Started]] | None = None
        self._began = time.monotonic()

    async def start(self) -> Started:
        """The services of the running loop; concurrent first calls share one start.

        Raises: SetupError.
        """
        loop = asyncio.get_running_loop()
        started = self._started
        if started is not None and started.loop is loop:
            return started
        if self._starting is None or self._starting[0] is not loop:
            self._starting = (loop, loop.create_task(self._open()))
        try:
            return await asyncio.shield(self._starting[1])
        finally:
            if self._starting is not None and self._starting[1].done():
                self._starting = None

    async def _open(self) -> Started:
        before, self._started = self._started, None
        if before is not None:
            await before.store.close()
        store = open_store(self.settings)
        await store.open()
        try:
            await Settlements(store.journal, now, new_id).recover(store.runs)
        except BaseException:
            await store.close()
            raise
        runs = Runs(
            journal=store.journal,
            sessions=store.sessions,
            runs=store.runs,
            agents=self.agents,
            now=now,
            new_id=new_id,
            worker=new_id(),
            limits=RunLimits(run_seconds=self.settings.run_seconds),
            shows_errors=self.settings.debug,
        )
        sessions = Sessions(journal=store.journal, sessions=store.sessions, now=now, new_id=new_id)
        self._started = Started(store, runs, sessions, asyncio.get_running_loop())
        return self._started

    async def stop(self) -> None:
        """Drain runs, then close the store; idempotent."""
        started, self._started = self._started, None
        self.house.services = None
        if started is not None:
            await started.runs.close(DRAIN_SECONDS)
            await started.store.close()

    def status(self) -> dict[str, Any]:
        """What the health routes tell."""
        names = [agent.name for agent in self.agents]
        default = next((agent.name for agent in self.agents if agent.is_default), None)
        started = self._started
        return {
            "is_draining": started is not None and started.runs.is_draining,
            "version": __version__,
            "uptime": round(time.monotonic() - self._began, 3),
            "agents": names,
            "agent": default,
            "active_requests": 0 if started is None else started.runs.active,
            "store": store_label(self.settings).partition(",")[0],
        }


def _gate_settings(settings: Settings) -> GateSettings:
    return GateSettings(
        is_auth_enabled=settings.auth_enabled,
        is_auth_forced=settings.force_auth,
        allowed_hosts=frozenset(name.lower() for name in settings.allowed_hosts),
        allowed_origins=frozenset(settings.cors_origins),
    )


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """What runtimes are told of the settings."""
    return RuntimeSettings(
        environment=settings.environment(),
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        cache_dir=settings.cache_dir,
    )


def open_store(settings: Settings) -> Store:
    """The store that the settings name, not yet opened.

    Raises: SetupError for a URL that names no store that we know.
    """
    url = _database_url(settings)
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        from innkeeper.storage.sqlite.stores import SqliteStore

        return SqliteStore(_sqlite_path(url))
    if scheme in ("postgresql", "postgres"):
        from innkeeper.storage.postgres.stores import PostgresStore

        return PostgresStore(url)
    raise SetupError(
        f"DATABASE_URL begins with {scheme!r}; use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME."
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


def _sqlite_path(url: str) -> Path:
    """`sqlite:///relative.db` and `sqlite:////absolute.db`, as SQLAlchemy reads them."""
    path = url.partition("://")[2].removeprefix("/").partition("?")[0]
    if not path or path == ":memory:":
        raise SetupError("DATABASE_URL names an in-memory database, which would forget everything; use sqlite:///PATH.")
    return Path(path).expanduser().absolute()
