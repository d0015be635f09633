"""Assembly: the services of one event loop, over an open store."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Any

from innkeeper.buses.memory import MemoryBus
from innkeeper.config import Settings
from innkeeper.http.contexts import RequestState, new_id, now
from innkeeper.http.control.event_frames import frame_of
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.threads import Threads
from innkeeper.services import processes
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.audit import Audit
from innkeeper.services.control import IN_HAND, Belongings, Control
from innkeeper.services.credentials import Credentials
from innkeeper.services.engines import Engines
from innkeeper.services.figures import Figures
from innkeeper.services.handlers import Handlers
from innkeeper.services.injections import Injections
from innkeeper.services.logs import Logs
from innkeeper.services.membership import Membership
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.runs import RunLimits, Runs
from innkeeper.services.session_tails import SessionTails
from innkeeper.services.sessions import Sessions
from innkeeper.services.settlements import Settlements
from innkeeper.services.tokens import Digests, Tokens
from innkeeper.services.trace_export import TraceExport
from innkeeper.services.traces import Traces
from innkeeper.services.wakes import Wakes
from innkeeper.services.webhooks import Deliveries, Webhooks
from innkeeper.telemetry.logs import LogWriter
from innkeeper.telemetry.measures import Measures
from innkeeper.telemetry.retention import LogRetention
from innkeeper.webhooks.senders import HttpSender
from innkeeper.wiring.openings import Store, open_bus, open_sandbox, open_span_sink


@dataclass(slots=True)
class Started:
    """The services of one event loop."""

    store: Store
    runs: Runs
    sessions: Sessions
    injections: Injections
    figures: Figures | None
    engines: Engines
    logs: Logs
    log_writer: LogWriter
    log_retention: LogRetention
    session_tails: SessionTails
    control: Control
    traces: Traces
    trace_export: TraceExport | None
    tokens: Tokens
    credentials: Credentials
    audit: Audit
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True)
class _Shared:
    """What many services are made of."""

    settings: Settings
    agents: AgentRegistry
    store: Store
    worker: str
    wakes: Wakes
    measures: Measures
    neighbours: Neighbours
    traces: Traces
    trace_export: TraceExport | None


async def open_services(
    settings: Settings, agents: AgentRegistry, handlers: Handlers, store: Store, measures: Measures
) -> Started:
    """The services over an open store, with what others had left in it taken over.

    Raises: SetupError where what they need cannot be had here.
    """
    worker = new_id()
    wakes = Wakes(open_bus(settings) if store.is_shared else MemoryBus(), worker)
    traces = Traces(runs=store.runs, commands=store.commands, events=store.events)
    export = _trace_export(settings, store, traces)
    shared = _Shared(settings, agents, store, worker, wakes, measures, Neighbours(), traces, export)
    started = _assembled(shared, handlers)
    try:
        await started.control.open_sandbox()
        await started.runs.open()
        await started.control.open()
    except BaseException:
        await started.control.close()
        await wakes.close()
        if export is not None:
            await export.close(0)
        raise
    started.log_writer.open()
    started.log_retention.open()
    if export is not None:
        export.open()
    return started


def _assembled(shared: _Shared, handlers: Handlers) -> Started:
    settings, store, neighbours = shared.settings, shared.store, shared.neighbours
    tails = SessionTails(events=store.events, sessions=store.sessions, encode=frame_of, wakes=shared.wakes)
    tokens = Tokens(**token_parts(settings, store))
    sessions = Sessions(
        journal=store.journal,
        sessions=store.sessions,
        now=now,
        new_id=new_id,
        new_token=tokens.mint_for_session,
        on_deletion=tails.grew,
    )
    control = _control(shared, handlers, sessions, tails)
    control.queue.on_end = None if shared.trace_export is None else shared.trace_export.ended
    neighbours.on_growth = tails.grew
    neighbours.on_work, neighbours.on_look = control.queue.wake, control.queue.look
    neighbours.tools_of = control.code.tools_of if control.code.is_enabled else None
    return Started(
        store=store,
        runs=_runs(shared),
        figures=_figures(shared.measures, store),
        sessions=sessions,
        injections=_injections(shared),
        engines=_engines(shared),
        logs=Logs(journal=store.journal, logs=store.logs, sessions=store.sessions, now=now, new_id=new_id),
        log_writer=LogWriter(store.journal, settings.log_level, new_id=new_id, now=now, shows_errors=settings.debug),
        log_retention=LogRetention(store.journal, store.logs, now=now, days=settings.log_days),
        session_tails=tails,
        control=control,
        traces=shared.traces,
        trace_export=shared.trace_export,
        tokens=tokens,
        credentials=Credentials(tokens=tokens, journal=store.journal, now=now),
        audit=Audit(journal=store.journal, now=now, new_id=new_id),
        loop=asyncio.get_running_loop(),
    )


def _runs(shared: _Shared) -> Runs:
    settings, store, meter = shared.settings, shared.store, shared.measures.meter
    settlements = Settlements(store.journal, now, new_id, shows_errors=settings.debug, meter=meter)
    settlements.on_end = None if shared.trace_export is None else shared.trace_export.ended
    limits = RunLimits(
        run_seconds=settings.run_seconds,
        in_background=settings.background_runs,
        max_attempts=settings.max_attempts,
    )
    membership = Membership(
        journal=store.journal,
        runs=store.runs,
        workers=store.workers,
        settlements=settlements,
        wakes=shared.wakes,
        worker=shared.worker,
        process=processes.own_name(),
        now=now,
        is_shared=store.is_shared,
        max_attempts=settings.max_attempts,
        is_gone=processes.is_gone,
    )
    return Runs(
        journal=store.journal,
        sessions=store.sessions,
        runs=store.runs,
        injections=store.injections,
        agents=shared.agents,
        settlements=settlements,
        membership=membership,
        wakes=shared.wakes,
        now=now,
        new_id=new_id,
        new_context=RequestState,
        worker=shared.worker,
        limits=limits,
        webhooks=_webhooks(settings, store, shared.worker),
        neighbours=shared.neighbours,
        meter=meter,
    )


def _injections(shared: _Shared) -> Injections:
    store = shared.store
    return Injections(
        journal=store.journal,
        injections=store.injections,
        sessions=store.sessions,
        agents=shared.agents,
        now=now,
        new_id=new_id,
    )


def _engines(shared: _Shared) -> Engines:
    store = shared.store
    return Engines(
        journal=store.journal,
        engines=store.engines,
        sessions=store.sessions,
        agents=shared.agents,
        now=now,
        new_id=new_id,
        models=shared.settings.engine_models,
    )


def _control(shared: _Shared, handlers: Handlers, sessions: Sessions, tails: SessionTails) -> Control:
    """Raises: SetupError where clients' code cannot be executed on this machine."""
    belongings = Belongings(
        handlers=handlers,
        sandbox=open_sandbox(shared.settings),
        in_thread=Threads(IN_HAND, "handlers").call,
        meter=shared.measures.meter,
        wakes=shared.wakes,
        now=now,
        new_id=new_id,
        on_growth=tails.grew,
        shows_errors=shared.settings.debug,
    )
    return Control(shared.store, sessions, belongings, shared.worker)


def _trace_export(settings: Settings, store: Store, traces: Traces) -> TraceExport | None:
    """Raises: MissingDependency."""
    sink = open_span_sink(settings)
    return None if sink is None else TraceExport(runs=store.runs, traces=traces, sink=sink)


def let_go(log_writer: LogWriter, store: Store) -> None:
    """Let go of what would outlive an event loop that is gone; the garbage collector may ask for it, in any thread."""
    log_writer.abandon()
    store.abandon()


def _figures(measures: Measures, store: Store) -> Figures | None:
    if measures.figures is None:
        return None
    return Figures(figures=measures.figures, sessions=store.sessions, commands=store.commands, counts=store.counts)


def _webhooks(settings: Settings, store: Store, worker: str) -> Webhooks:
    """Raises: SetupError for hosts that cannot be allowed, and where webhooks are on and nothing signs them."""
    sender = HttpSender(settings.webhook_allowed_hosts)
    if not settings.webhook_allowed_hosts:
        return Webhooks(sender)
    secret = None if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
    return Webhooks(sender, Deliveries(journal=store.journal, sender=sender, now=now, worker=worker, secret=secret))


def token_parts(settings: Settings, store: Store) -> dict[str, Any]:
    """What `Tokens` are made of, over an open store that need not be served."""
    return {
        "journal": store.journal,
        "tokens": store.tokens,
        "digests": _digests(settings),
        "now": now,
        "random": secrets.token_bytes,
    }


def _digests(settings: Settings) -> Digests:
    key = settings.api_key_secret
    return Digests((key.get_secret_value() if key is not None else None) or None)


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """What runtimes are told of the settings."""
    return RuntimeSettings(
        environment=settings.environment(),
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        cache_dir=settings.cache_dir,
    )
