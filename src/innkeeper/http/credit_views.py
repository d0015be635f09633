"""Credits as they are shown: amounts are JSON numbers, and the user of an organization's own balance is null."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from innkeeper.core.credits import (
    ORGANIZATION,
    Balance,
    BalanceEntry,
    BookedCredits,
    ModelTotal,
    UsageRecord,
    credits_of,
)
from innkeeper.core.times import Instant, isoformat
from innkeeper.services.balances import Holding


class BalanceView(BaseModel):
    """`balance` is `available` and `reserved` together; the latter is set aside for runs under way."""

    organization: str
    user: str | None
    balance: int | float
    available: int | float
    reserved: int | float
    updated_at: str

    @classmethod
    def of(cls, balance: Balance) -> BalanceView:
        return cls(
            organization=balance.organization,
            user=_user(balance.user),
            balance=_shown(balance.total),
            available=_shown(balance.available),
            reserved=_shown(balance.reserved),
            updated_at=isoformat(balance.updated_at),
        )


class HoldingView(BaseModel):
    """Both must suffice for a run, and both are charged. Null bounds nothing."""

    user: BalanceView | None
    organization: BalanceView | None

    @classmethod
    def of(cls, holding: Holding) -> HoldingView:
        own, whole = holding.user, holding.organization
        return cls(
            user=None if own is None else BalanceView.of(own),
            organization=None if whole is None else BalanceView.of(whole),
        )


class BalanceList(BaseModel):
    """In the order of organization and user, an organization's own before its users'."""

    balances: list[BalanceView]
    has_more: bool


class EntryView(BaseModel):
    """One movement. `credits` is what it changed, `balance` all that was there then; `kind` tells who moved it.

    `set`, `add` and `remove` are an operator's, `charge` is a run's.
    """

    id: str
    organization: str
    user: str | None
    kind: str
    credits: int | float
    balance: int | float
    run_id: str | None
    actor: str | None
    reason: str
    created_at: str

    @classmethod
    def of(cls, entry: BalanceEntry) -> EntryView:
        return cls(
            id=entry.id,
            organization=entry.organization,
            user=_user(entry.user),
            kind=entry.kind,
            credits=_shown(entry.amount),
            balance=_shown(entry.balance),
            run_id=entry.run_id,
            actor=entry.actor or None,
            reason=entry.reason,
            created_at=isoformat(entry.created_at),
        )


class EntryList(BaseModel):
    """Newest first."""

    entries: list[EntryView]
    has_more: bool


class UsageView(BaseModel):
    """Tokens of one model in one run. `user` is whose credential it was, `user_id` on whose behalf.

    `cost` is what they cost the operator, in the currency of its prices; null without a price.
    """

    run_id: str
    agent_name: str
    organization: str
    user: str
    user_id: str
    model: str | None
    input_tokens: int
    output_tokens: int
    cost: int | float | None
    created_at: str

    @classmethod
    def of(cls, record: UsageRecord) -> UsageView:
        return cls(
            run_id=record.run_id,
            agent_name=record.agent_name,
            organization=record.owner.organization,
            user=record.owner.user,
            user_id=record.user_id,
            model=record.model or None,
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cost=None if record.cost is None else _shown(record.cost),
            created_at=isoformat(record.created_at),
        )


class UsageList(BaseModel):
    """Newest run first; a run's models are never on two pages."""

    usage: list[UsageView]
    has_more: bool


class ModelView(BaseModel):
    """One model over many runs. `cost` sums up what has a price; null where nothing has."""

    model: str | None
    runs: int
    input_tokens: int
    output_tokens: int
    cost: int | float | None

    @classmethod
    def of(cls, total: ModelTotal) -> ModelView:
        return cls(
            model=total.model or None,
            runs=total.runs,
            input_tokens=total.input_tokens,
            output_tokens=total.output_tokens,
            cost=None if total.cost is None else _shown(total.cost),
        )


class ModelList(BaseModel):
    """In the order of the models' names."""

    models: list[ModelView]


class RecordView(BaseModel):
    """What a run was charged (`reason` is `pricing`), or what its agent tracked."""

    id: str
    run_id: str
    agent_name: str
    organization: str
    user: str
    user_id: str
    credits: int | float
    reason: str
    metadata: dict[str, Any]
    created_at: str

    @classmethod
    def of(cls, booked: BookedCredits) -> RecordView:
        record = booked.record
        return cls(
            id=record.id,
            run_id=booked.run_id,
            agent_name=booked.agent_name,
            organization=booked.owner.organization,
            user=booked.owner.user,
            user_id=booked.user_id,
            credits=_number(record.credits),
            reason=record.reason,
            metadata=dict(record.metadata),
            created_at=isoformat(Instant(record.recorded_at)),
        )


class RecordList(BaseModel):
    """Newest first."""

    records: list[RecordView]
    has_more: bool


def _user(name: str) -> str | None:
    return None if name == ORGANIZATION else name


def _shown(amount: int) -> int | float:
    return _number(credits_of(amount))


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)
