"""Credits over HTTP: what is left to whom, what became of it, and what runs have consumed.

Amounts come as JSON numbers or as texts of digits, and are shown as JSON numbers.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, WithJsonSchema, field_validator

from innkeeper.core.credits import MAX_CREDITS, ORGANIZATION, amount_of
from innkeeper.core.errors import (
    BalanceNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.periods import begins_at, ends_before
from innkeeper.core.times import Instant
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.contexts import now
from innkeeper.http.credit_views import (
    BalanceList,
    BalanceView,
    EntryList,
    EntryView,
    HoldingView,
    ModelList,
    ModelView,
    RecordList,
    RecordView,
    UsageList,
    UsageView,
)
from innkeeper.http.deps import CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.requests import Named, printable
from innkeeper.http.routes import needs, surface

router = surface(prefix="/credits", tags=["Credits"])

_READING = problems(Unauthorized, Forbidden, Invalid, StorageUnavailable)
_WRITING = {**_READING, **problems(PayloadTooLarge, UnsupportedMediaType)}
_IDS = r"^[0-9a-f-]{1,80}$"
_RUNS = r"^run_[0-9a-f]{32}$"

Credits = Annotated[
    Decimal,
    BeforeValidator(amount_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": int(MAX_CREDITS)},
                {"type": "string", "pattern": r"^[0-9]{1,10}(\.[0-9]{1,9})?$"},
            ],
            "description": "At most 9 digits behind the point. A number keeps 15 digits; a text keeps all.",
        }
    ),
]
Reason = Annotated[StrictStr, Field(max_length=500)]
Since = Annotated[Instant, BeforeValidator(begins_at), WithJsonSchema({"type": "string", "examples": ["2026-01-31"]})]
Until = Annotated[Instant, BeforeValidator(ends_before), WithJsonSchema({"type": "string", "examples": ["2026-01-31"]})]


class _Place(BaseModel):
    organization: Named | None = Field(default=None, description="Your own if omitted.")
    user: Named | None = None

    _checked_names = field_validator("organization", "user")(printable)


class SetRequest(_Place):
    """Let so much be left to a user, or without one to the organization as a whole."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user": "ann", "balance": 100}]})

    balance: Credits
    reason: Reason = ""

    _checked_reason = field_validator("reason")(printable)


class AddRequest(_Place):
    """Add so much to the balance of a user, or without one of the organization as a whole."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user": "ann", "credits": 12.5, "reason": "invoice 17"}]}
    )

    credits: Credits
    reason: Reason = ""

    _checked_reason = field_validator("reason")(printable)


class HolderQuery(_Place):
    """Whose."""


class RemovalQuery(_Place):
    """Whose; at least one of them is named, so that nobody's bound is lifted by accident."""

    model_config = ConfigDict(extra="forbid")


class BalancesQuery(BaseModel):
    """Which part of the list: what comes behind the last one of the page before."""

    after_organization: Named | None = None
    after_user: Annotated[StrictStr, Field(max_length=256)] = Field(
        default=ORGANIZATION, description="Omitted behind an organization's own."
    )
    limit: Limit = 50

    _checked_names = field_validator("after_organization", "after_user")(printable)


class EntriesQuery(_Place):
    after: Annotated[StrictStr, Field(pattern=_IDS)] | None = Field(default=None, description="An entry's id.")
    limit: Limit = 50


class UsageQuery(_Place):
    after: Annotated[StrictStr, Field(pattern=_RUNS)] | None = Field(default=None, description="A run's id.")
    limit: Limit = 50


class PeriodQuery(_Place):
    start_date: Since = Field(default=Instant(0), description="A day, which begins in UTC, or a time.")
    end_date: Until | None = Field(default=None, description="A day, which belongs to the period, or a time.")


@router.get("", responses=_READING, openapi_extra=needs("credits:read"))
async def show(query: Annotated[HolderQuery, Query()], caller: CallerDep, services: ServicesDep) -> HoldingView:
    """What bounds your runs: what is left to you and to your organization, null where nothing bounds them."""
    return HoldingView.of(await services.balances.mine(caller, query.organization, query.user))


@router.put("", responses=_WRITING, openapi_extra=needs("credits:admin"))
async def set_balance(body: SetRequest, caller: CallerDep, services: ServicesDep) -> BalanceView:
    """Set what is left, beside what is set aside for runs under way."""
    organization = body.organization or caller.owner.organization
    return BalanceView.of(await services.balances.set(caller.owner, organization, body.user, body.balance, body.reason))


@router.post(
    "",
    status_code=201,
    responses={**_WRITING, **problems(Invalid, IdempotencyMismatch)},
    openapi_extra=needs("credits:admin"),
)
async def add_credits(
    body: AddRequest, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> EntryView:
    """Add to a balance, or make one; answers with the entry, whose `balance` is all that is there then."""
    organization = body.organization or caller.owner.organization
    claim = claim_of(request, request.scope["innkeeper.body"])
    entry, is_repeated = await services.balances.add(
        caller.owner, organization, body.user, body.credits, body.reason, claim
    )
    if is_repeated:
        response.headers[REPLAYED] = "true"
    return EntryView.of(entry)


@router.delete(
    "", status_code=204, responses={**_READING, **problems(BalanceNotFound)}, openapi_extra=needs("credits:admin")
)
async def remove(query: Annotated[RemovalQuery, Query()], caller: CallerDep, services: ServicesDep) -> None:
    """Take a balance away, so that nothing bounds that user or organization any more. Its entries stay."""
    if query.organization is None and query.user is None:
        raise Invalid("user: say whose: name a user, an organization, or both.", param="user")
    organization = query.organization or caller.owner.organization
    await services.balances.remove(caller.owner, organization, query.user)


@router.get("/balances", responses=_READING, openapi_extra=needs("credits:admin"))
async def list_balances(query: Annotated[BalancesQuery, Query()], services: ServicesDep) -> BalanceList:
    """Everybody's balances, in the order of organization and user."""
    after = None if query.after_organization is None else (query.after_organization, query.after_user)
    found, has_more = await services.balances.page(limit=query.limit, after=after)
    return BalanceList(balances=[BalanceView.of(one) for one in found], has_more=has_more)


@router.get("/entries", responses=_READING, openapi_extra=needs("credits:read"))
async def list_entries(query: Annotated[EntriesQuery, Query()], caller: CallerDep, services: ServicesDep) -> EntryList:
    """How a balance came about, newest first: your own; administrators name whose."""
    found, has_more = await services.balances.entries(
        caller, query.organization, query.user, limit=query.limit, after=query.after
    )
    return EntryList(entries=[EntryView.of(one) for one in found], has_more=has_more)


@router.get("/usage", responses=_READING, openapi_extra=needs("credits:read"))
async def list_usage(query: Annotated[UsageQuery, Query()], caller: CallerDep, services: ServicesDep) -> UsageList:
    """Tokens by run and model, newest run first, whole runs: your own; administrators see all, or name whose."""
    found, has_more = await services.balances.usage(
        caller, query.organization, query.user, limit=query.limit, after=query.after
    )
    return UsageList(usage=[UsageView.of(one) for one in found], has_more=has_more)


@router.get("/usage/models", responses=_READING, openapi_extra=needs("credits:read"))
async def list_models(query: Annotated[PeriodQuery, Query()], caller: CallerDep, services: ServicesDep) -> ModelList:
    """Tokens by model of the runs of a period; administrators may name an organization alone, too."""
    until = Instant(now() + 1) if query.end_date is None else query.end_date
    found = await services.balances.totals(caller, query.organization, query.user, since=query.start_date, until=until)
    return ModelList(models=[ModelView.of(one) for one in found])


@router.get("/records", responses=_READING, openapi_extra=needs("credits:read"))
async def list_records(query: Annotated[EntriesQuery, Query()], caller: CallerDep, services: ServicesDep) -> RecordList:
    """What runs were charged, and what their agents tracked, newest first; whose is as for `/credits/usage`."""
    found, has_more = await services.balances.records(
        caller, query.organization, query.user, limit=query.limit, after=query.after
    )
    return RecordList(records=[RecordView.of(one) for one in found], has_more=has_more)
