"""Assembly: the services of one event loop, over an open store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from innkeeper import runtimes
from innkeeper.buses.memory import MemoryBus
from innkeeper.config import Settings
from innkeeper.core.context import RunContext
from innkeeper.core.runs import Run
from innkeeper.http.contexts import RequestState, new_id, now
from innkeeper.http.control.event_frames import frame_of
from innkeeper.ports.accounts import AuditReader
from innkeeper.runtimes import Hold
from innkeeper.runtimes.settings import RuntimeSettings
from innkeeper.runtimes.threads import Threads
from innkeeper.services import processes
from innkeeper.services.admins import Admins
from innkeeper.services.agents import AgentRegistry
from innkeeper.services.audit import Audit
from innkeeper.services.balances import Balances
from innkeeper.services.chat_logs import ChatLogs
from innkeeper.services.control import IN_HAND, Belongings, Control
from innkeeper.services.credentials import Credentials
from innkeeper.services.credits import Credits
from innkeeper.services.denials import Denials
from innkeeper.services.engines import Engines
from innkeeper.services.figures import Figures
from innkeeper.services.files import Files
from innkeeper.services.handlers import Handlers
from innkeeper.services.initializations import Initializations
from innkeeper.services.injections import Injections
from innkeeper.services.logs import Logs
from innkeeper.services.membership import Membership
from innkeeper.services.neighbours import Neighbours
from innkeeper.services.prices import Prices
from innkeeper.services.runs import RunLimits, Runs
from innkeeper.services.session_tails import SessionTails
from innkeeper.services.sessions import Sessions
from innkeeper.services.settlements import Settlements
from innkeeper.services.tokens import Tokens
from innkeeper.services.trace_export import TraceExport
from innkeeper.services.traces import Traces
from innkeeper.services.wakes import Wakes
from innkeeper.services.webhooks import Deliveries, Webhooks
from innkeeper.services.workspaces import Workspaces
from innkeeper.telemetry.logs import LogWriter
from innkeeper.telemetry.measures import Measures
from innkeeper.telemetry.retention import LogRetention
from innkeeper.webhooks.senders import HttpSender
from innkeeper.wiring.accounting import open_audit, open_balances, open_price_file
from innkeeper.wiring.chat_logging import ChatLogging, chat_logging
from innkeeper.wiring.filing import Filing, filing
from innkeeper.wiring.openings import (
    Store,
    keeps_tokens_in_redis,
    open_bus,
    open_issuer,
    open_sandbox,
    open_span_sink,
)
from innkeeper.wiring.price_files import PriceFile
from innkeeper.wiring.tokens import token_parts

_LONGEST_WAIT = 120.0


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
    chat_logging: ChatLogging
    chat_logs: ChatLogs
    session_tails: SessionTails
    control: Control
    traces: Traces
    trace_export: TraceExport | None
    tokens: Tokens
    credentials: Credentials
    audit: Audit
    balances: Balances
    price_file: PriceFile | None
    audit_log: AuditReader
    admins: Admins
    denials: Denials
    initializations: Initializations
    filing: Filing
    files: Files
    workspaces: Workspaces
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
    credits: Credits
    prices: Prices
    price_file: PriceFile | None
    new_context: Callable[..., RunContext]
    chat_logging: ChatLogging


async def open_services(
    settings: Settings,
    agents: AgentRegistry,
    handlers: Handlers,
    store: Store,
    measures: Measures,
    new_context: Callable[..., RunContext] = RequestState,
) -> Started:
    """The services over an open store, with what others had left in it taken over.

    Raises: SetupError where what they need cannot be had here.
    """
    shared = _shared(settings, agents, store, measures, new_context)
    started = _assembled(shared, handlers)
    try:
        await started.filing.open()
        await started.control.open_sandbox()
        await started.runs.open()
        await started.control.open()
    except BaseException:
        await started.control.close()
        await started.filing.close()
        await shared.wakes.close()
        if shared.trace_export is not None:
            await shared.trace_export.close(0)
        raise
    started.log_writer.open()
    started.log_retention.open()
    started.chat_logging.open()
    if started.price_file is not None:
        started.price_file.open()
    if shared.trace_export is not None:
        shared.trace_export.open()
    return started


def _shared(
    settings: Settings, agents: AgentRegistry, store: Store, measures: Measures, new_context: Callable[..., RunContext]
) -> _Shared:
    """Raises: SetupError, MissingDependency."""
    worker, prices = new_id(), Prices()
    traces = Traces(runs=store.runs, commands=store.commands, events=store.events)
    return _Shared(
        settings=settings,
        agents=agents,
        store=store,
        worker=worker,
        wakes=Wakes(open_bus(settings) if store.is_shared else MemoryBus(), worker),
        measures=measures,
        neighbours=Neighbours(),
        traces=traces,
        trace_export=_trace_export(settings, store, traces),
        credits=Credits(store.credits, max_tokens=settings.max_tokens),
        prices=prices,
        price_file=open_price_file(settings, prices),
        new_context=new_context,
        chat_logging=chat_logging(settings, store),
    )


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
        on_deletion=_on_deletion(tails),
    )
    control = _control(shared, handlers, sessions, tails)
    filed = filing(settings, store, neighbours)
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
        chat_logging=shared.chat_logging,
        chat_logs=ChatLogs(chat_logs=store.chat_logs, sessions=store.sessions),
        session_tails=tails,
        control=control,
        traces=shared.traces,
        trace_export=shared.trace_export,
        tokens=tokens,
        credentials=Credentials(tokens=tokens, now=now, issuer=open_issuer(settings, now), admins=store.admins),
        audit=open_audit(store),
        balances=open_balances(store, shared.credits.changed),
        price_file=shared.price_file,
        audit_log=store.audit,
        admins=_admins(shared, tokens),
        denials=Denials(audit=open_audit(store)),
        initializations=_initializations(shared),
        filing=filed,
        files=filed.files,
        workspaces=filed.workspaces,
        loop=asyncio.get_running_loop(),
    )


def _runs(shared: _Shared) -> Runs:
    settings, store, meter = shared.settings, shared.store, shared.measures.meter
    settlements = Settlements(
        store.journal,
        now,
        new_id,
        shows_errors=settings.debug,
        meter=meter,
        cost=shared.prices.cost,
        action_seconds=settings.action_seconds,
    )
    settlements.on_end = _on_end(shared)
    limits = RunLimits(
        run_seconds=settings.run_seconds,
        in_background=settings.background_runs,
        max_attempts=settings.max_attempts,
        at_once_by_caller=settings.max_runs_per_caller,
        queued=settings.max_queued_runs,
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
        actions=store.actions,
        agents=shared.agents,
        settlements=settlements,
        membership=membership,
        wakes=shared.wakes,
        now=now,
        new_id=new_id,
        new_context=shared.new_context,
        worker=shared.worker,
        limits=limits,
        webhooks=_webhooks(settings, store, shared.worker),
        credits=shared.credits,
        neighbours=shared.neighbours,
        meter=meter,
    )


def _on_deletion(tails: SessionTails) -> Callable[[str], None]:
    """Who hears of each session that has been deleted here."""

    def deleted(session_key: str) -> None:
        tails.grew(session_key)
        runtimes.session_deleted(session_key)

    return deleted


def _on_end(shared: _Shared) -> Callable[[Run], None]:
    """Who hears of each run that has ended here."""
    written, export = shared.chat_logging.writer.ended, shared.trace_export
    if export is None:
        return written

    def ended(run: Run) -> None:
        export.ended(run)
        written(run)

    return ended


def _initializations(shared: _Shared) -> Initializations:
    # By then whoever had begun with what was replaced has ended, however long it had waited for its turn.
    linger = shared.settings.run_seconds + _LONGEST_WAIT
    audit = open_audit(shared.store)
    return Initializations(agents=shared.agents, audit=audit, wakes=shared.wakes, now=now, linger=linger)


def _injections(shared: _Shared) -> Injections:
    store = shared.store
    return Injections(
        journal=store.journal,
        injections=store.injections,
        sessions=store.sessions,
        runs=store.runs,
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


def _admins(shared: _Shared, tokens: Tokens) -> Admins:
    store, wakes = shared.store, shared.wakes
    return Admins(
        journal=store.journal,
        admins=store.admins,
        audit=open_audit(store),
        is_connected=lambda: wakes.is_connected,
        now=now,
        new_id=new_id,
        tokens=tokens if keeps_tokens_in_redis(shared.settings) else None,
    )


def _control(shared: _Shared, handlers: Handlers, sessions: Sessions, tails: SessionTails) -> Control:
    """Raises: SetupError where clients' code cannot be executed on this machine."""
    belongings = Belongings(
        handlers=handlers,
        sandbox=open_sandbox(shared.settings),
        in_thread=Threads(IN_HAND, "handlers").call,
        meter=shared.measures.meter,
        wakes=shared.wakes,
        audit=open_audit(shared.store),
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


def let_go(log_writer: LogWriter, store: Store, hold: Hold) -> None:
    """Let go of what would outlive an event loop that is gone; the garbage collector may ask for it, in any thread."""
    log_writer.abandon()
    store.abandon()
    hold.release_elsewhere()


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


def runtime_settings(settings: Settings) -> RuntimeSettings:
    """What runtimes are told of the settings."""
    return RuntimeSettings(
        environment=settings.environment(),
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        cache_dir=settings.cache_dir,
    )
