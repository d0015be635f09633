"""Kernels: what one app needs, started and stopped.

What a `Kernel` starts belongs to one event loop: where an app is entered on another loop (as test clients do), the
parts of the old one are closed and made anew.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from innkeeper import runtimes
from innkeeper.config import Settings
from innkeeper.core.engines import DUMMY_ENGINE
from innkeeper.core.errors import SetupError
from innkeeper.http.addresses import network_of
from innkeeper.http.bounds import Bounds
from innkeeper.http.contexts import RequestState, new_id
from innkeeper.http.deps import House
from innkeeper.http.gates import Gate, GateSettings
from innkeeper.inventories import nested
from innkeeper.runtimes.dummy import DummyRuntime
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.handlers import Handlers
from innkeeper.services.rates import Rates
from innkeeper.services.watchdogs import Watchdog
from innkeeper.telemetry.books import Shelf
from innkeeper.telemetry.measures import Measures, open_measures
from innkeeper.version import __version__
from innkeeper.wiring.assembly import Started, let_go, open_services
from innkeeper.wiring.openings import open_limiter, open_store, rate_rules, store_label

_logger = logging.getLogger(__name__)

_ANYBODY = (
    "AGENT_AUTH_ENABLED is false: whoever can reach this server runs its agents and reads what all have said. Behind an"
    " address that others can reach, set it to true and make tokens."
)

FINALIZE_SECONDS = 3.0
EXPORT_SECONDS = 1.0


kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()
"""Those of this process, for code that has no app at hand."""


class Kernel:
    """Starts and stops what one app needs."""

    def __init__(
        self,
        settings: Settings,
        agents: AgentRegistry,
        handlers: Handlers | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.agents = agents
        self._variables = variables if variables is not None else settings.dotenv
        self.handlers = handlers if handlers is not None else Handlers()
        kernels.add(self)
        agents.build_in(DUMMY_ENGINE, DummyRuntime())
        self._measures = open_measures(agents) if settings.enable_metrics else Measures()
        self._limiter = open_limiter(settings)
        self.house = House(
            agents=agents,
            gate=Gate(_gate_settings(settings), self.start, Rates(rate_rules(settings), self._limiter)),
            start=self.start,
            new_context=partial(RequestState, variables=self._variables),
            new_id=new_id,
            status=self.status,
            configuration=self.configuration,
            shows_errors=settings.debug,
            is_tracing=settings.enable_tracing,
            created=int(time.time()),
            modes=frozenset(settings.allowed_modes),
            env_headers={name.upper(): name for name in settings.env_headers},
            bounds=bounds_of(settings),
            meter=self._measures.meter,
        )
        self._started: Started | None = None
        self._is_leaving = False
        self._watchdog = Watchdog()
        self._abandon: weakref.finalize[..., Any]
        self._hold: runtimes.Hold
        self._starting: tuple[asyncio.AbstractEventLoop, asyncio.Task[Started]] | None = None
        self._began = time.monotonic()

    def measure_on(self, shelf: Shelf, number: int) -> None:
        """Count where the other processes that serve this port do, as one of them; before anything is served.

        Raises: SetupError.
        """
        if not self.settings.enable_metrics:
            return
        try:
            self._measures = open_measures(self.agents, shelf, number)
        except OSError as error:
            raise SetupError(f"Metrics cannot be kept: {error}. ENABLE_METRICS=false serves without them.") from error
        self.house.meter = self._measures.meter

    @property
    def is_started_here(self) -> bool:
        """Whether its services belong to the running event loop."""
        return self._started is not None and self._started.loop is asyncio.get_running_loop()

    @property
    def serving(self) -> Started | None:
        """Its services, where their event loop runs, in whichever thread that is."""
        started = self._started
        return started if started is not None and started.loop.is_running() else None

    def keep_in(self, data_dir: Path) -> None:
        """Keep state in another folder from now on, whatever the settings say; for tests.

        Raises: SetupError if the app is being served.
        """
        if self._started is not None and self._started.loop.is_running():
            raise SetupError("The app is being served: its data folder cannot change now.")
        self.settings = self.settings.model_copy(update={"data_dir": data_dir, "database_url": None})

    async def start(self) -> Started:
        """The services of the running loop; concurrent first calls share one start.

        Raises: SetupError.
        """
        loop = asyncio.get_running_loop()
        started = self._started
        if started is not None and started.loop is loop:
            return started
        starting = self._starting
        if starting is None or starting[0] is not loop:
            starting = self._starting = (loop, loop.create_task(self._open()))
        try:
            return await asyncio.shield(starting[1])
        finally:
            if self._starting is starting and starting[1].done():
                self._starting = None

    async def _open(self) -> Started:
        before = self._started
        if before is not None:
            if before.loop.is_running():
                raise SetupError("The app is being served on another event loop of this process; make an app for each.")
            self._started = None
            self._abandon()
        self._is_leaving = False
        if not self.settings.auth_enabled:
            _logger.warning(_ANYBODY)
        store = open_store(self.settings, self._measures.meter.committed)
        await store.open()
        try:
            self._started = await open_services(
                self.settings, self.agents, self.handlers, store, self._measures, self.house.new_context
            )
        except BaseException:
            await store.close()
            raise
        self._hold = runtimes.Hold()
        self._abandon = weakref.finalize(self, let_go, self._started.log_writer, store, self._hold)
        self._abandon.atexit = False
        _prepare_process()
        self._watchdog.start()
        return self._started

    def leave(self) -> None:
        """The server is about to stop: from now on it says that it is not ready; what arrives yet is served."""
        self._is_leaving = True

    async def drain(self) -> None:
        """Take no new runs and let those under way end, then interrupt them; clients still hear how they ended."""
        self.leave()
        started = self._started
        if started is not None and started.loop is asyncio.get_running_loop():
            patience = self.settings.drain_seconds
            await asyncio.gather(started.runs.drain(patience), started.control.drain(patience))
            await started.control.close()  # whoever waits for a call of code yet is answered
            await started.session_tails.cut()

    async def stop(self) -> None:
        """Drain runs, then close the store; idempotent."""
        started, self._started = self._started, None
        self._watchdog.stop()
        self.house.services = None
        if started is None:
            await self._limiter.close()
            return
        if started.loop is not asyncio.get_running_loop():
            self._abandon()
            return
        patience = self.settings.drain_seconds
        await asyncio.gather(started.runs.close(patience), started.control.drain(patience))
        await started.control.close()
        await runtimes.close()
        await started.session_tails.cut()
        await self.house.finished(FINALIZE_SECONDS)
        if started.trace_export is not None:
            await started.trace_export.close(EXPORT_SECONDS)
        await started.initializations.close()
        await self._limiter.close()
        await started.credentials.close()
        await started.denials.close()
        await started.tokens.close()
        await started.log_retention.close()
        await started.chat_logging.close()
        await started.filing.close()
        if started.price_file is not None:
            await started.price_file.close()
        await started.log_writer.close()
        self._abandon.detach()
        await started.store.close()
        await asyncio.to_thread(self._hold.release)

    def configuration(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings by section and key, of secrets only whether they are set."""
        return nested(self.settings)

    def status(self) -> dict[str, Any]:
        """What the health routes tell."""
        names = [agent.name for agent in self.agents]
        default = next((agent.name for agent in self.agents if agent.is_default), None)
        started = self._started
        return {
            "is_draining": self._is_leaving or (started is not None and started.runs.is_draining),
            "version": __version__,
            "uptime": round(time.monotonic() - self._began, 3),
            "agents": names,
            "agent": default,
            "active_requests": 0 if started is None else started.runs.active,
            "store": store_label(self.settings).partition(",")[0],
        }


def _prepare_process() -> None:
    """Make this process a good server.

    The garbage collector is spared what lives as long as the process. Threads change places quickly, because
    the one that commits would otherwise wait for up to 5 ms before it may begin.
    """
    if gc.get_freeze_count() == 0:
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
    sys.setswitchinterval(min(sys.getswitchinterval(), 0.0001))


def _gate_settings(settings: Settings) -> GateSettings:
    if "*" in settings.cors_origins and not (settings.force_auth and settings.auth_enabled):
        raise SetupError(
            "CORS_ORIGINS is *, and programs on this machine need no credential: any page in a browser here would act"
            " for its user. Name the origins, or set FORCE_AUTH=true."
        )
    return GateSettings(
        is_auth_enabled=settings.auth_enabled,
        is_auth_forced=settings.force_auth,
        allowed_hosts=frozenset(name.lower() for name in settings.allowed_hosts),
        allowed_origins=frozenset(settings.cors_origins),
        trusted_proxies=tuple(network_of(entry) for entry in settings.trusted_proxies),
        bounds=bounds_of(settings),
    )


def bounds_of(settings: Settings) -> Bounds:
    """How much one client may take."""
    return Bounds(
        body_bytes=settings.max_body_bytes,
        chat_body_bytes=settings.max_chat_body_bytes,
        header_bytes=settings.max_header_bytes,
        slow_seconds=settings.slow_client_seconds,
        idle_seconds=settings.idle_seconds,
        stalled_seconds=settings.stalled_seconds,
        messages_per_second=settings.max_messages_per_second,
    )
