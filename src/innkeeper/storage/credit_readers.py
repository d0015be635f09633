"""Credit readers: balances, their movements, and what runs consumed."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, Select, bindparam, cast, func, literal_column, select, tuple_

from innkeeper.core.credits import Balance, BalanceEntry, BookedCredits, ModelTotal, UsageRecord
from innkeeper.core.identity import Owner
from innkeeper.core.times import Instant
from innkeeper.core.usage import CreditRecord
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

_balances, _entries, _usage, _records = (
    schema.balances,
    schema.balance_entries,
    schema.model_usage,
    schema.credit_records,
)
_IDS_UP_TO = "run_g"
"""Sorts behind every run's id."""
_LAST_MILLISECOND = 2**48 - 1
_BEHIND = "g"
"""Sorts behind every other id."""

_BALANCES = Statement(
    select(*_balances.c).where(
        _balances.c.organization == bindparam("by_organization"), _balances.c.owner == bindparam("by_owner")
    ),
    returns=True,
)
_ANY = Statement(
    select(_balances.c.organization)
    .where(_balances.c.organization >= literal_column("''"))
    .order_by(_balances.c.organization)
    .limit(literal_column("1")),
    returns=True,
)
_PAGE = Statement(
    select(*_balances.c)
    .where(tuple_(_balances.c.organization, _balances.c.owner) > tuple_(bindparam("after"), bindparam("after_owner")))
    .order_by(_balances.c.organization, _balances.c.owner)
    .limit(bindparam("limit")),
    returns=True,
)
_ENTRIES = Statement(
    select(*_entries.c)
    .where(
        _entries.c.organization == bindparam("by_organization"),
        _entries.c.owner == bindparam("by_owner"),
        _entries.c.id < bindparam("before"),
    )
    .order_by(_entries.c.id.desc())
    .limit(bindparam("limit")),
    returns=True,
)
_ENTRY = Statement(
    select(*_entries.c).where(
        _entries.c.organization == bindparam("by_organization"),
        _entries.c.owner == bindparam("by_owner"),
        _entries.c.id == bindparam("by_id"),
    ),
    returns=True,
)
_USAGE_OF = Statement(
    select(*_usage.c)
    .where(
        _usage.c.organization == bindparam("by_organization"),
        _usage.c.owner == bindparam("by_owner"),
        _usage.c.run_id < bindparam("before"),
    )
    .order_by(_usage.c.run_id.desc())
    .limit(bindparam("limit")),
    returns=True,
)
_USAGE = Statement(
    select(*_usage.c)
    .where(_usage.c.run_id < bindparam("before"))
    .order_by(_usage.c.run_id.desc())
    .limit(bindparam("limit")),
    returns=True,
)
_USAGE_IN = Statement(select(*_usage.c).where(_usage.c.run_id == bindparam("by_run")), returns=True)
_BETWEEN = Statement(
    select(*_usage.c)
    .where(
        tuple_(_usage.c.run_id, _usage.c.model) > tuple_(bindparam("after"), bindparam("after_model")),
        _usage.c.run_id < bindparam("until_id"),
    )
    .order_by(_usage.c.run_id, _usage.c.model)
    .limit(bindparam("limit")),
    returns=True,
)


def _total() -> Select[Any]:
    sums = [cast(func.sum(column), BigInteger) for column in (_usage.c.input_tokens, _usage.c.output_tokens)]
    return (
        select(_usage.c.model, func.count(), *sums, cast(func.sum(_usage.c.cost), BigInteger))
        .where(_usage.c.run_id >= bindparam("since_id"), _usage.c.run_id < bindparam("until_id"))
        .group_by(_usage.c.model)
        .order_by(_usage.c.model)
    )


_TOTALS = Statement(_total(), returns=True)
_TOTALS_OF = Statement(
    _total().where(
        _usage.c.organization == bindparam("by_organization"),
        _usage.c.owner == bindparam("by_owner"),
    ),
    returns=True,
)
_TOTALS_OF_ORGANIZATION = Statement(
    _total().where(_usage.c.organization == bindparam("by_organization")),
    returns=True,
)
_RECORDS = Statement(
    select(*_records.c)
    .where(_records.c.id < bindparam("before"))
    .order_by(_records.c.id.desc())
    .limit(bindparam("limit")),
    returns=True,
)
_RECORDS_OF_OWNER = Statement(
    select(*_records.c)
    .where(
        _records.c.organization == bindparam("by_organization"),
        _records.c.owner == bindparam("by_owner"),
        _records.c.id < bindparam("before"),
    )
    .order_by(_records.c.id.desc())
    .limit(bindparam("limit")),
    returns=True,
)
_RECORDS_OF = Statement(
    select(_records.c.id, _records.c.credits, _records.c.reason, _records.c.metadata, _records.c.created_at)
    .where(_records.c.run_id == bindparam("by_run"))
    .order_by(_records.c.created_at, _records.c.id),
    returns=True,
)


class StoredCredits:
    """Implements `ports.accounts.CreditReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def balances(self, organization: str, users: Sequence[str]) -> Sequence[Balance]:
        found = []
        for user in users:
            rows = await self._fetch(_BALANCES, {"by_organization": organization, "by_owner": user}, is_quick=True)
            found += [Balance(*row) for row in rows]
        return found

    async def has_any(self) -> bool:
        return bool(await self._fetch(_ANY, {}, is_quick=True))

    async def page(self, *, limit: int, after: tuple[str, str] | None = None) -> tuple[Sequence[Balance], bool]:
        organization, user = after or ("", "")
        rows = await self._fetch(_PAGE, {"after": organization, "after_owner": user, "limit": limit + 1})
        return [Balance(*row) for row in rows[:limit]], len(rows) > limit

    async def entries(
        self, organization: str, user: str, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[BalanceEntry], bool]:
        values = {"by_organization": organization, "by_owner": user, "before": after or _BEHIND, "limit": limit + 1}
        rows = await self._fetch(_ENTRIES, values)
        return [_entry_of(row) for row in rows[:limit]], len(rows) > limit

    async def entry(self, organization: str, user: str, entry_id: str) -> BalanceEntry | None:
        values = {"by_organization": organization, "by_owner": user, "by_id": entry_id}
        rows = await self._fetch(_ENTRY, values, is_quick=True)
        return _entry_of(rows[0]) if rows else None

    async def usage(
        self, owner: Owner | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[UsageRecord], bool]:
        statement, values = _USAGE, dict[str, object]()
        if owner is not None:
            statement, values = _USAGE_OF, {"by_organization": owner.organization, "by_owner": owner.user}
        rows = await self._fetch(statement, {**values, "before": after or _IDS_UP_TO, "limit": limit + 1})
        found = [_usage_of(row) for row in rows]
        if len(found) <= limit:
            return found, False
        cut = found[-1].run_id  # a page holds whole runs, so that its last one's id is where the next begins
        whole = [one for one in found if one.run_id != cut]
        if whole:
            return whole, True
        of_one = [_usage_of(row) for row in await self._fetch(_USAGE_IN, {"by_run": cut})]
        return of_one, bool(await self._fetch(statement, {**values, "before": cut, "limit": 1}))

    async def usage_between(
        self, since: Instant, until: Instant, *, limit: int, after: tuple[str, str] = ("", "")
    ) -> Sequence[UsageRecord]:
        begin = max(after, (_id_at(since), ""))
        values = {"after": begin[0], "after_model": begin[1], "until_id": _id_at(until), "limit": limit}
        return [_usage_of(row) for row in await self._fetch(_BETWEEN, values)]

    async def totals(
        self, since: Instant, until: Instant, *, organization: str | None = None, user: str | None = None
    ) -> Sequence[ModelTotal]:
        values: dict[str, object] = {"since_id": _id_at(since), "until_id": _id_at(until)}
        statement = _TOTALS
        if organization is not None:
            values["by_organization"], statement = organization, _TOTALS_OF_ORGANIZATION
            if user is not None:
                values["by_owner"], statement = user, _TOTALS_OF
        return [ModelTotal(*row) for row in await self._fetch(statement, values)]

    async def records(
        self, owner: Owner | None, *, limit: int, after: str | None = None
    ) -> tuple[Sequence[BookedCredits], bool]:
        values: dict[str, object] = {"before": after or _BEHIND, "limit": limit + 1}
        if owner is not None:
            values |= {"by_organization": owner.organization, "by_owner": owner.user}
        rows = await self._fetch(_RECORDS if owner is None else _RECORDS_OF_OWNER, values)
        return [_booked_of(row) for row in rows[:limit]], len(rows) > limit

    async def records_of(self, run_id: str) -> Sequence[CreditRecord]:
        rows = await self._fetch(_RECORDS_OF, {"by_run": run_id}, is_quick=True)
        return [CreditRecord(id, Decimal(credits), reason, loads(told), at) for id, credits, reason, told, at in rows]


_ENTRY_NAMES = tuple(column.name for column in _entries.c)
_RECORD_NAMES = tuple(column.name for column in _records.c)
_USAGE_NAMES = tuple(column.name for column in _usage.c)


def _entry_of(row: Row) -> BalanceEntry:
    cell = dict(zip(_ENTRY_NAMES, row, strict=True))
    cell["user"] = cell.pop("owner")
    return BalanceEntry(**cell)


def _usage_of(row: Row) -> UsageRecord:
    cell = dict(zip(_USAGE_NAMES, row, strict=True))
    owner = Owner(cell.pop("organization"), cell.pop("owner"))
    return UsageRecord(owner=owner, **cell)


def _booked_of(row: Row) -> BookedCredits:
    cell = dict(zip(_RECORD_NAMES, row, strict=True))
    owner = Owner(cell["organization"], cell["owner"])
    record = CreditRecord(
        cell["id"], Decimal(cell["credits"]), cell["reason"], loads(cell["metadata"]), cell["created_at"]
    )
    return BookedCredits(cell["run_id"], owner, cell["user_id"], cell["agent_name"], record)


def _id_at(instant: Instant) -> str:
    """Sorts before every run that was accepted in the millisecond of that instant or later: ids begin with it."""
    return f"run_{min(max(instant // 1000, 0), _LAST_MILLISECOND):012x}"
