"""Credits as programs: set aside when a run is accepted, settled when it ends, set and added to by operators.

Who holds several balances holds the organization's first, after the session and the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import BigInteger, bindparam, delete, exists, insert, select, update

from innkeeper.core.administration import AddCredits, Balanced, RateUsage, RemoveBalance, SetBalance
from innkeeper.core.changes import EndRun, Fence
from innkeeper.core.credits import (
    MAX_CREDITS,
    ORGANIZATION,
    Balance,
    ModelUsage,
    Terms,
    credits_of,
    debit,
    nanos,
    reservation,
)
from innkeeper.core.errors import InsufficientCredits, Invalid
from innkeeper.core.outcomes import Done, Missing
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord, Pricing
from innkeeper.storage import schema
from innkeeper.storage.programs import claims
from innkeeper.storage.records import dumps, plain
from innkeeper.storage.statements import Program, Query, Statement

_table, _entries, _usage, _records = (
    schema.balances,
    schema.balance_entries,
    schema.model_usage,
    schema.credit_records,
)
_is_its = (_table.c.organization == bindparam("by_organization")) & (_table.c.owner == bindparam("by_owner"))
_HOLD = Statement(select(_table.c.available, _table.c.reserved).where(_is_its).with_for_update(), returns=True)
_INSERT = Statement(insert(_table))
_CHANGE = Statement(
    update(_table)
    .where(_is_its)
    .values(
        {
            name: bindparam(f"new_{name}", type_=BigInteger)
            for name in ("available", "reserved", "updated_at")
        }
    )
)  # fmt: skip
_own = bindparam("own", type_=BigInteger)
_FREE = Statement(
    update(_table).where(_is_its).values(available=_table.c.available + _own, reserved=_table.c.reserved - _own)
)
_DELETE = Statement(delete(_table).where(_is_its))
_INSERT_ENTRY = Statement(insert(_entries))
_INSERT_USAGE = Statement(insert(_usage))
_INSERT_RECORD = Statement(
    insert(_records).from_select(
        [column.name for column in _records.c],
        select(*(bindparam(column.name, type_=column.type) for column in _records.c)).where(
            ~exists().where(_records.c.id == bindparam("by_id"))
        ),
    )
)
"""Once, however often it is told: a commit whose answer was lost is made again."""

_TRACKED = Statement(select(_records.c.credits).where(_records.c.run_id == bindparam("by_run")), returns=True)
_RATE = Statement(
    update(_usage)
    .where(_usage.c.run_id == bindparam("by_run"), _usage.c.model == bindparam("by_model"))
    .values(cost=bindparam("new_cost", type_=BigInteger))
)
ENTRY = Statement(
    select(_entries.c.id).where(
        _entries.c.organization == bindparam("by_organization"),
        _entries.c.owner == bindparam("by_owner"),
        _entries.c.id == bindparam("by_id"),
    ),
    returns=True,
)

_MOST = 2**63 - 1
"""What the columns can hold."""

Held = dict[str, tuple[int, int]]
"""Of each balance, by its user, what is available and what is set aside."""


def _hold(organization: str, users: Sequence[str]) -> Program:
    held: Held = {}
    for user in sorted(users):
        rows = yield Query(_HOLD, {"by_organization": organization, "by_owner": user})
        if rows:
            held[user] = tuple(rows[0])
    return held


def _change(organization: str, user: str, available: int, reserved: int, now: Instant) -> Query:
    values = {"new_available": available, "new_reserved": reserved, "new_updated_at": now}
    return Query(_CHANGE, {"by_organization": organization, "by_owner": user, **values})


def reserve(organization: str, terms: Terms, users: Sequence[str]) -> Program:
    """How much is to be set aside for a run, and of what; `None` where none of `users` has a balance any more.

    Raises: InsufficientCredits, before anything is written.
    """
    held = yield from _hold(organization, users)
    if not held:
        return None
    left = min(available for available, _ in held.values())
    amount = reservation(terms, left)
    if amount is None:
        poorest = min(held, key=lambda user: held[user][0])
        raise _too_little(terms, left, poorest)
    return amount, held


def keep_reserved(organization: str, amount: int, held: Held, now: Instant) -> Program:
    """Write what `reserve` has found."""
    if amount:
        for user, (available, reserved) in held.items():
            yield _change(organization, user, available - amount, reserved + amount, now)


def _too_little(terms: Terms, left: int, user: str) -> InsufficientCredits:
    needed = terms.least if terms.worst is None else terms.worst
    whose = "your organization has" if user == ORGANIZATION else "you have"
    asked = f"up to {needed.normalize():f} credits" if needed else "some credits"
    return InsufficientCredits(
        f"This run may cost {asked}, and {whose} {credits_of(left).normalize():f} left.",
        details={"required": str(needed), "available": str(credits_of(left))},
    )


def settle(change: EndRun, owner: Sequence[str], reserved: int, users: Sequence[str]) -> Program:
    """Take what the run has cost, at most what is there, and give back the rest of what was set aside."""
    organization, name = owner[0], f"run of {owner[-1]}"
    total = yield from _booked(change.run_id)
    held = yield from _hold(organization, users)
    for user, (available, aside) in held.items():
        own = min(reserved, aside)
        due = debit(total, change.ceiling, own, available)
        available += own - due
        yield _change(organization, user, available, aside - own, change.now)
        if due:
            entry_id = _entry_id(change.run_id, change.now)
            yield _entry(
                organization, user, "charge", -due, available + aside - own, entry_id, name, change.now, change.run_id
            )


def room_of(run_id: str, pricing: Pricing | None) -> Program:
    """How much a run may be charged yet, by its ceiling; `None` where it has none."""
    if pricing is None or pricing.max_credits is None:
        return None
    return pricing.max_credits - (yield from _booked(run_id))


def _booked(run_id: str) -> Program:
    rows = yield Query(_TRACKED, {"by_run": run_id})
    return sum((Decimal(credits) for (credits,) in rows), Decimal(0))


def give_back(organization: str, users: Sequence[str], reserved: int) -> Program:
    """What was set aside for a run is free again, because the run is gone."""
    held = yield from _hold(organization, users)
    for user, (_, aside) in held.items():
        yield Query(_FREE, {"by_organization": organization, "by_owner": user, "own": min(reserved, aside)})


def _entry_id(run_id: str, now: Instant) -> str:
    """Sorts among the ids of other entries by when it was written."""
    return f"{now // 1000:012x}{run_id[-20:]}"


def take(organization: str, users: Sequence[str], run_id: str, entry_id: str, cost: Decimal, now: Instant) -> Program:
    """Take what is due of what was tracked after the end of a run, at most what is left."""
    held = yield from _hold(organization, users)
    for user, (available, aside) in held.items():
        due = min(nanos(cost), available)
        if due:
            yield _change(organization, user, available - due, aside, now)
            yield _entry(
                organization, user, "charge", -due, available - due + aside, entry_id, "tracked late", now, run_id
            )


def _entry(
    organization: str,
    user: str,
    kind: str,
    amount: int,
    balance: int,
    entry_id: str,
    reason: str,
    now: Instant,
    run_id: str | None = None,
    actor: str = "",
) -> Query:
    return Query(
        _INSERT_ENTRY,
        {
            "organization": organization,
            "owner": user,
            "id": entry_id,
            "kind": kind,
            "amount": amount,
            "balance": balance,
            "run_id": run_id,
            "actor": plain(actor),
            "reason": plain(reason),
            "created_at": now,
        },
    )


def note_usage(run_id: str, owner: Sequence[str], models: Sequence[ModelUsage], now: Instant) -> Program:
    """What a run consumed, by model."""
    organization, user, user_id, agent_name = owner
    for name, one in _by_name(models).items():
        yield Query(
            _INSERT_USAGE,
            {
                "run_id": run_id,
                "model": name,
                "organization": organization,
                "owner": user,
                "user_id": user_id,
                "agent_name": agent_name,
                "input_tokens": one.usage.input_tokens,
                "output_tokens": one.usage.output_tokens,
                "cost": one.cost,
                "created_at": now,
            },
        )


def _by_name(models: Sequence[ModelUsage]) -> dict[str, ModelUsage]:
    """A row each: names that are stored alike are one model."""
    found: dict[str, ModelUsage] = {}
    for one in models:
        name = plain(one.usage.model or "")
        known = found.get(name)
        if known is not None:
            costs = [cost for cost in (known.cost, one.cost) if cost is not None]
            one = ModelUsage(known.usage.plus(one.usage), sum(costs) if costs else None)
        found[name] = one
    return found


def set_balance(change: SetBalance, fence: Fence | None) -> Program:
    held = yield from _hold(change.organization, (change.user,))
    before, aside = held.get(change.user, (0, 0))
    if change.amount + aside > _MOST:
        raise Invalid("balance: too much is set aside for runs under way; set less, or wait for them.", param="balance")
    return (yield from _place(change, "set", change.amount, before, aside, is_new=not held))


def add(change: AddCredits, fence: Fence | None) -> Program:
    if change.claim is not None:
        known = yield from claims.find(change.claimant, change.claim, change.now)
        if known is not None:
            return known
    held = yield from _hold(change.organization, (change.user,))
    before, aside = held.get(change.user, (0, 0))
    if before + aside + change.amount > nanos(MAX_CREDITS):
        raise Invalid(f"credits: a balance may be {MAX_CREDITS:f} at most.", param="credits")
    if change.claim is not None:
        yield claims.write(change.claimant, change.claim, change.entry_id, change.now)
    return (yield from _place(change, "add", before + change.amount, before, aside, is_new=not held))


def _place(
    change: SetBalance | AddCredits, kind: str, available: int, before: int, aside: int, *, is_new: bool
) -> Program:
    whose = {"organization": change.organization, "owner": change.user}
    if is_new:
        yield Query(_INSERT, {**whose, "available": available, "reserved": 0, "updated_at": change.now})
    else:
        yield _change(change.organization, change.user, available, aside, change.now)
    yield _entry(
        change.organization,
        change.user,
        kind,
        available - before,
        available + aside,
        change.entry_id,
        change.reason,
        change.now,
        actor=change.actor,
    )
    return Balanced(Balance(change.organization, change.user, available, aside, change.now))


def remove(change: RemoveBalance, fence: Fence | None) -> Program:
    held = yield from _hold(change.organization, (change.user,))
    if not held:
        return Missing()
    available, aside = held[change.user]
    yield Query(_DELETE, {"by_organization": change.organization, "by_owner": change.user})
    yield _entry(
        change.organization,
        change.user,
        "remove",
        -(available + aside),
        0,
        change.entry_id,
        change.reason,
        change.now,
        actor=change.actor,
    )
    return Done()


def rate(change: RateUsage, fence: Fence | None) -> Program:
    for run_id, model, cost in change.costs:
        yield Query(_RATE, {"by_run": run_id, "by_model": model, "new_cost": cost})
    return Done()


def record(run_id: str, owner: Sequence[str], one: CreditRecord) -> Query:
    """A row of the ledger; `owner` is the organization, the principal, the end user and the agent of its run."""
    organization, user, user_id, agent_name = owner
    return Query(
        _INSERT_RECORD,
        {
            "id": one.id,
            "organization": organization,
            "owner": user,
            "user_id": user_id,
            "run_id": run_id,
            "agent_name": agent_name,
            "credits": str(one.credits),
            "reason": plain(one.reason),
            "metadata": dumps(dict(one.metadata)),
            "created_at": one.recorded_at,
            "by_id": one.id,
        },
    )
