"""Records: core values as rows and back. The only place that knows how a value is spelled in a column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from innkeeper.core.changes import Segment
from innkeeper.core.events import json_bytes
from innkeeper.core.identity import Owner
from innkeeper.core.injections import Injection, InjectionStatus
from innkeeper.core.messages import Message, from_dict
from innkeeper.core.runs import Parameters, Plan, Run, RunError, RunStatus, given_of
from innkeeper.core.sessions import Session, StoredMessage
from innkeeper.core.times import Instant
from innkeeper.core.usage import Pricing, Usage
from innkeeper.storage import schema
from innkeeper.storage.statements import Row

_encoder = msgspec.json.Encoder(enc_hook=str)


def dumps(value: Any) -> str:
    """JSON text for a TEXT column; lone surrogates, which agents may produce, become U+FFFD."""
    try:
        return "{}" if value == {} else _encoder.encode(value).decode()
    except UnicodeEncodeError:
        finite = json.loads(json_bytes(value))  # Python would write NaN as no JSON parser reads it
        return plain(json.dumps(finite, ensure_ascii=False, separators=(",", ":")))


loads = msgspec.json.decode


def json_text(value: Any) -> str:
    """Any value as JSON text that every store can hold and `loads` can read; see `json_bytes` and `plain`."""
    text = json_bytes(value).decode()
    if "\\ud" in text:  # it may be half of a surrogate pair, which is JSON to Python alone
        text = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    return plain(text)


def plain(text: str) -> str:
    """Text that every store can hold as it is."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def message_body(message: Message) -> str:
    return dumps(message.as_dict())


def message_of(body: str, internal: int) -> Message:
    return from_dict(loads(body), is_internal=bool(internal))


def messages_body(messages: Sequence[Message]) -> str:
    return dumps([message.as_dict() for message in messages])


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


SESSION_COLUMNS = tuple(schema.sessions.c)
_APART = (
    "started_sequence",
    "ended_sequence",
    "opening",
    "closing",
    "closing_seq",
    "plan",
    "webhook",
    "injections",
)
RUN_COLUMNS = tuple(column for column in schema.runs.c if column.name not in _APART)
_SESSION_NAMES = tuple(column.name for column in SESSION_COLUMNS)
_RUN_NAMES = tuple(column.name for column in RUN_COLUMNS)


def session_of(row: Row) -> Session:
    """The session in a row of `SESSION_COLUMNS`."""
    cell = dict(zip(_SESSION_NAMES, row, strict=True))
    return Session(
        key=cell["key"],
        owner=Owner(cell["organization"], cell["owner"]),
        user_id=cell["user_id"],
        id=cell["id"],
        created_at=Instant(cell["created_at"]),
        updated_at=Instant(cell["updated_at"]),
        agent_name=cell["agent_name"],
        title=cell["title"],
        metadata=loads(cell["metadata"]),
        archived=bool(cell["archived"]),
        message_count=cell["message_count"],
        last_message_at=cell["last_message_at"],
        input_tokens=cell["input_tokens"],
        output_tokens=cell["output_tokens"],
    )


def run_of(row: Row) -> Run:
    """The run in a row of `RUN_COLUMNS`."""
    cell = dict(zip(_RUN_NAMES, row, strict=True))
    return Run(
        id=cell["id"],
        owner=Owner(cell["organization"], cell["owner"]),
        user_id=cell["user_id"],
        session_key=cell["session_key"],
        session_id=cell["session_id"],
        agent_name=cell["agent_name"],
        endpoint=cell["endpoint"],
        status=RunStatus(cell["status"]),
        turn=cell["turn"],
        created_at=Instant(cell["created_at"]),
        input=tuple(from_dict(raw) for raw in loads(cell["input"])),
        output=None if cell["output"] is None else loads(cell["output"]),
        error=None if cell["error"] is None else RunError(**loads(cell["error"])),
        usage=_usage_of(cell),
        finish_reason=cell["finish_reason"],
        steps=cell["steps"],
        background=bool(cell["background"]),
        recorded=bool(cell["recorded"]),
        attempt=cell["attempt"],
        last_seq=cell["last_seq"],
        is_cancelling=bool(cell["cancel_requested"]),
        metadata=loads(cell["metadata"]),
        started_at=cell["started_at"],
        ended_at=cell["ended_at"],
        own_trace_id=cell["trace_id"],
        parent_span=cell["parent_span"],
        pricing=pricing_of(cell["terms"]),
        reserved=cell["reserved"],
        request=None if cell["request"] is None else loads(cell["request"]),
    )


@lru_cache(1024)
def terms_text(pricing: Pricing | None, charged: tuple[str, ...]) -> str:
    """What a run's agent costs, and whose balances are charged, as JSON."""
    prices = None
    if pricing is not None:
        ceiling = None if pricing.max_credits is None else str(pricing.max_credits)
        prices = [str(pricing.credits_per_request), str(pricing.credits_per_token), ceiling]
    return dumps({"prices": prices, "charged": list(charged)})


def charged_of(text: str) -> tuple[str, ...]:
    """Whose balances are charged, of a run's terms."""
    return tuple(loads(text)["charged"])


def pricing_of(text: str | None) -> Pricing | None:
    """What an agent costs, of a run's terms."""
    prices = None if text is None else loads(text)["prices"]
    if prices is None:
        return None
    per_request, per_token, ceiling = prices
    return Pricing(Decimal(per_request), Decimal(per_token), None if ceiling is None else Decimal(ceiling))


def plan_text(plan: Plan) -> str:
    """A plan as JSON, without what it leaves open."""
    followed = {} if plan.follows is None else {"follows": plan.follows}
    return dumps({"parameters": given_of(plan.parameters), "history": plan.history, **followed})


def plan_of(text: str) -> Plan:
    raw = loads(text)
    given: dict[str, Any] = {
        name: tuple(value) if name in _TUPLES else value for name, value in raw["parameters"].items()
    }
    return Plan(Parameters(**given), raw["history"], raw.get("follows"))


_TUPLES = ("stop", "tools", "allowed_tools")


INJECTION_COLUMNS = tuple(column for column in schema.injections.c if column.name != "number")
_INJECTION_NAMES = tuple(column.name for column in INJECTION_COLUMNS)


def injection_of(row: Row) -> Injection:
    """The injection in a row of `INJECTION_COLUMNS`."""
    cell = dict(zip(_INJECTION_NAMES, row, strict=True))
    return Injection(
        id=cell["id"],
        owner=Owner(cell["organization"], cell["owner"]),
        content=loads(cell["content"]),
        status=InjectionStatus(cell["status"]),
        created_at=Instant(cell["created_at"]),
        first_run_id=cell["first_run_id"],
        run_id=cell["run_id"],
        seq=cell["seq"],
        session_key=cell["session_key"],
        agent_name=cell["agent_name"],
    )


def _usage_of(cell: Mapping[str, Any]) -> Usage | None:
    if cell["input_tokens"] is None:
        return None
    return Usage(cell["input_tokens"], cell["output_tokens"], cell["model"])


def stored_message_of(row: Row) -> StoredMessage:
    """From (position, run_id, internal, body, created_at)."""
    position, run_id, internal, body, created_at = row
    return StoredMessage(position, run_id, message_of(body, internal), Instant(created_at))


def segment_of(row: Row) -> Segment:
    """From (first_seq, last_seq, data)."""
    first_seq, last_seq, data = row
    return Segment(first_seq, last_seq - first_seq + 1, bytes(data))


def segment_at(first_seq: int, data: bytes) -> Segment:
    """From a log's opening or closing, whose count is that of its lines."""
    return Segment(first_seq, data.count(b"\n") + 1, bytes(data))
