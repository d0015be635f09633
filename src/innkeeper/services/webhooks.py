"""Webhooks: tell a URL that a run has ended, signed, again and again until it has taken it or the last try is over.

The body is the run's, so every attempt sends the same bytes under the same id. Signatures follow the Standard
Webhooks specification. Who may be told is the sender's to decide; what is due is the journal's to say.
Invariant: nothing here is kept that a restart would miss: a delivery is over when the journal says so.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable, Sequence

from innkeeper.core.changes import SettleDelivery, TakeDeliveries
from innkeeper.core.errors import SetupError, StorageUnavailable
from innkeeper.core.events import json_bytes, shown_usage
from innkeeper.core.outcomes import TakenDeliveries
from innkeeper.core.runs import Run
from innkeeper.core.times import Instant, isoformat, unix_seconds
from innkeeper.core.webhooks import RETRIES, Delivery, retry_at
from innkeeper.ports.journal import Journal
from innkeeper.ports.senders import DeliveryFailed, Sender

_logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Deliveries that one process sends at a time."""

_LOOK_SECONDS = 5.0
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_RELEASE_SECONDS = 1.0


def notice(run: Run) -> bytes:
    """The body that tells of a run's end; the same bytes for the same run."""
    assert run.ended_at is not None, "only a run that has ended is told of"
    error = run.error
    data = {
        "id": run.id,
        "agent_name": run.agent_name,
        "session_id": run.session_id,
        "status": run.status.value,
        "output": run.output,
        "usage": shown_usage(run.usage),
        "error": None if error is None else {"code": error.code, "message": error.message},
        "background": run.background,
        "attempt": run.attempt,
        "created_at": isoformat(run.created_at),
        "started_at": None if run.started_at is None else isoformat(run.started_at),
        "ended_at": isoformat(run.ended_at),
        "metadata": dict(run.metadata),
    }
    return json_bytes({"type": "run.ended", "timestamp": isoformat(run.ended_at), "data": data})


def signing_key(secret: str | None) -> bytes:
    """The bytes that a secret stands for: those behind `whsec_` in base64, or those of any other text.

    Raises: SetupError where there is none, or no base64 behind `whsec_`.
    """
    if not secret:
        raise SetupError("Webhooks are signed: set webhook_secret (WEBHOOK_SECRET), or empty webhook_allowed_hosts.")
    head, prefix, encoded = secret.partition("whsec_")
    if head or not prefix:
        return secret.encode(errors="surrogateescape")  # what the environment held, byte for byte
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if not key:
        raise SetupError("webhook_secret: what follows whsec_ must be base64. Any other text is used as it is.")
    return key


def signed(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that show who sent `body`, and when: `timestamp` is in seconds, and is that of the attempt."""
    return _signed(signing_key(secret), message_id, timestamp, body)


def _signed(key: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Webhooks:
    """The webhooks of one process: which are allowed, and what sends them. Without `deliveries` they are off."""

    def __init__(self, sender: Sender, deliveries: Deliveries | None = None) -> None:
        self._sender = sender
        self._deliveries = deliveries

    def check(self, url: str) -> None:
        """Raises: Invalid, naming the setting, for a URL that may not be told."""
        self._sender.check(url)

    def start(self) -> None:
        if self._deliveries is not None:
            self._deliveries.start()

    def wake(self) -> None:
        """A run has ended whose webhook is due."""
        if self._deliveries is not None:
            self._deliveries.wake()

    async def stop(self) -> None:
        if self._deliveries is not None:
            await self._deliveries.stop()
        await self._sender.close()


class Deliveries:
    """Sends what is due. `wake` says that something may be; without it, what is due is found within 5 s."""

    def __init__(
        self,
        *,
        journal: Journal,
        sender: Sender,
        now: Callable[[], int],
        worker: str,
        secret: str | None,
        retries: Sequence[float] = RETRIES,
    ) -> None:
        """Raises: SetupError for a secret that cannot be used."""
        self._journal = journal
        self._sender = sender
        self._now = now
        self._worker = worker
        self._key = signing_key(secret)
        self._retries = retries
        self._bell = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._endings: dict[str, SettleDelivery] = {}
        self._due: list[Instant] = []
        self._may_be_more = False
        self._is_stopping = False
        self._is_store_away = False

    def start(self) -> None:
        """Begin, on the running event loop, with what an earlier process left."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._work())

    def wake(self) -> None:
        """Something may be due; from the event loop."""
        self._bell.set()

    async def stop(self, seconds: float = 3.0) -> None:
        """Take nothing more, give what is on its way so many seconds, and hand back what is not done."""
        self._is_stopping = True
        self._bell.set()
        deadline = time.monotonic() + seconds
        if self._loop is not None:
            await _ended([self._loop], deadline)
        await _ended(tuple(self._sending), deadline)
        if left := tuple(self._endings.values()):
            released = asyncio.ensure_future(self._journal.commit(left))
            await asyncio.wait([released], timeout=_RELEASE_SECONDS)
            if not released.done() or released.cancelled() or released.exception() is not None:
                _logger.warning("%d webhooks wait for up to a minute, because the store did not answer", len(left))
        self._endings.clear()

    async def _work(self) -> None:
        while not self._is_stopping:
            self._bell.clear()
            free = AT_ONCE - len(self._sending)
            taken = await self._take(free) if free else ()
            self._may_be_more = len(taken) == free
            for delivery in taken:
                self._begin(delivery)
            await self._rest()

    async def _take(self, limit: int) -> tuple[Delivery, ...]:
        now = Instant(self._now())
        self._due = [due for due in self._due if due > now]
        try:
            (outcome,) = await self._journal.commit((TakeDeliveries(self._worker, now, limit),))
        except StorageUnavailable as error:
            if not self._is_store_away:
                _logger.warning("webhooks wait for the store: %s", error.message)
            self._is_store_away = True
            return ()
        except Exception:
            _logger.exception("webhooks could not be looked for")
            return ()
        self._is_store_away = False
        return outcome.deliveries if isinstance(outcome, TakenDeliveries) else ()

    async def _rest(self) -> None:
        """Until somebody wakes us, a retry of ours is due, or it is time to look what others have left."""
        until_due = (min(self._due) - self._now()) / 1_000_000 if self._due else _LOOK_SECONDS
        try:
            async with asyncio.timeout(min(max(until_due, 0.01), _LOOK_SECONDS)):
                await self._bell.wait()
        except TimeoutError:
            pass

    def _begin(self, delivery: Delivery) -> None:
        if delivery.id in self._endings:  # held for longer than others respect, because the store was away
            return
        now = Instant(self._now())
        self._endings[delivery.id] = SettleDelivery(delivery.id, False, now, now)
        task = asyncio.create_task(self._deliver(delivery))
        self._sending.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._may_be_more:
            self._bell.set()

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._send(delivery)
        except DeliveryFailed as failed:
            self._endings[delivery.id] = self._failure(delivery, str(failed))
        except Exception:
            _logger.exception("webhook %s could not be sent", delivery.id)
            self._endings[delivery.id] = self._failure(delivery, "the server failed")
        else:
            self._endings[delivery.id] = SettleDelivery(delivery.id, True, None, Instant(self._now()))
        await self._settle(self._endings[delivery.id])

    async def _send(self, delivery: Delivery) -> None:
        body = notice(delivery.run)
        headers = _signed(self._key, delivery.id, unix_seconds(Instant(self._now())), body)
        await self._sender.send(delivery.url, body, {"content-type": "application/json", **headers})

    def _failure(self, delivery: Delivery, reason: str) -> SettleDelivery:
        now = Instant(self._now())
        due = retry_at(delivery.attempt, now, random.random(), self._retries)  # noqa: S311 -- spreads load, guards nothing
        _logger.warning(
            "webhook %s for run %s: %s did not take it at attempt %d: %s; %s",
            delivery.id,
            delivery.run.id,
            _place(delivery.url),
            delivery.attempt,
            reason,
            "given up" if due is None else f"tried again in {(due - now) / 1_000_000:.0f} s",
        )
        return SettleDelivery(delivery.id, False, due, now)

    async def _settle(self, ending: SettleDelivery) -> None:
        """Write how it went, however long the store is away; whoever sent it again meanwhile used the same id."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._journal.commit((ending,))
            except StorageUnavailable:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)
            except Exception:
                _logger.exception("how webhook %s went could not be written", ending.id)
                break
            else:
                break
        del self._endings[ending.id]
        if ending.retry_at is not None:
            self._due.append(ending.retry_at)
            self._bell.set()


def _place(url: str) -> str:
    """Scheme, host and port: what comes behind them is often a secret."""
    return "/".join(url.split("/", 3)[:3]).partition("?")[0]


async def _ended(tasks: Sequence[asyncio.Task[None]], deadline: float) -> None:
    """Wait for tasks until the deadline, then cancel those that are left."""
    if not tasks:
        return
    _, left = await asyncio.wait(tasks, timeout=max(deadline - time.monotonic(), 0))
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
