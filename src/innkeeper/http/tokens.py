"""Tokens over HTTP, for administrators: make, list, look at and revoke. A token is told once, when it is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

from innkeeper.core.errors import (
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    StorageUnavailable,
    TokenNotFound,
    Unauthorized,
)
from innkeeper.core.times import isoformat
from innkeeper.core.tokens import ID, Token
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import CallerDep, Limit, ServicesDep
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.services.tokens import MAX_SECONDS

router = surface(prefix="/tokens", tags=["Tokens"])

_NEEDS = needs("tokens:admin")
_PROBLEMS = problems(Unauthorized, Forbidden, StorageUnavailable)
_Name = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Scope = Literal["code", "observability", "impersonate"]
TokenId = Annotated[str, Path(description="The id of a token, not the token itself.", max_length=200)]


class TokenRequest(BaseModel):
    """A token to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user": "ann", "role": "user", "scopes": ["observability"], "ttl": 86400}]},
    )

    user: _Name | None = Field(default=None, description="Whose it is; a user of its own if omitted.")
    organization: _Name | None = Field(default=None, description="`default` if omitted.")
    role: Literal["admin", "user", "read"] = "user"
    scopes: list[Scope] = Field(default_factory=list, max_length=16)
    ttl: float | None = Field(
        default=None,
        gt=0,
        le=MAX_SECONDS,
        strict=True,
        allow_inf_nan=False,
        description="Seconds for which it holds; for good if omitted.",
    )
    name: StrictStr = Field(default="", max_length=200, description="What it is for.")


class TokenView(BaseModel):
    """A token as far as it is kept: never itself, nor a digest of it."""

    id: str
    user: str
    organization: str
    role: str
    scopes: list[str]
    name: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None

    @classmethod
    def of(cls, token: Token) -> TokenView:
        return cls(**_told(token))


class MadeToken(TokenView):
    """The token itself is told this one time; null in an answer that repeats an earlier one."""

    token: str | None


class TokenList(BaseModel):
    """Newest first."""

    tokens: list[TokenView]
    has_more: bool


class TokenQuery(BaseModel):
    """Which tokens."""

    model_config = ConfigDict(extra="ignore")

    user: _Name | None = Field(default=None, description="Of this user only.")
    organization: _Name | None = Field(default=None, description="Of this organization only.")
    limit: Limit = 100
    after: Annotated[str, Field(pattern=ID.pattern + "$")] | None = Field(
        default=None, description="Older than the token with this id."
    )


@router.post(
    "", status_code=201, responses={**_PROBLEMS, **problems(Invalid, IdempotencyMismatch)}, openapi_extra=_NEEDS
)
async def create_token(
    body: TokenRequest, request: Request, response: Response, caller: CallerDep, services: ServicesDep
) -> MadeToken:
    """Make a token and tell it, this one time. With an `Idempotency-Key`, once: a repetition has `token: null`."""
    claim = claim_of(request, request.scope["innkeeper.body"])
    made = services.tokens.mint(
        body.user, body.role, organization=body.organization, scopes=body.scopes, ttl=body.ttl, name=body.name
    )
    claimed = None if claim is None else (caller.owner, claim)
    text, token = await services.tokens.keep(made, actor=caller.owner, claim=claimed)
    response.headers["cache-control"] = "no-store"
    if text is None:
        response.headers[REPLAYED] = "true"
    return MadeToken(token=text, **_told(token))


@router.get("", responses={**_PROBLEMS, **problems(Invalid)}, openapi_extra=_NEEDS)
async def list_tokens(query: Annotated[TokenQuery, Query()], services: ServicesDep) -> TokenList:
    """All tokens, or those of a user and an organization: revoked and expired ones too."""
    found, has_more = await services.tokens.list(
        limit=query.limit, after=query.after, user=query.user, organization=query.organization
    )
    return TokenList(tokens=[TokenView.of(token) for token in found], has_more=has_more)


@router.get("/{token_id}", responses={**_PROBLEMS, **problems(TokenNotFound, Invalid)}, openapi_extra=_NEEDS)
async def get_token(token_id: TokenId, services: ServicesDep) -> TokenView:
    """One token."""
    return TokenView.of(await services.tokens.get(token_id))


@router.delete(
    "/{token_id}",
    status_code=204,
    responses={**_PROBLEMS, **problems(TokenNotFound, Invalid)},
    openapi_extra=_NEEDS,
)
async def revoke_token(token_id: TokenId, caller: CallerDep, services: ServicesDep) -> None:
    """Let a token open nothing any more; every process heeds it within a second. Once more changes nothing."""
    token = await services.tokens.get(token_id)
    await services.tokens.revoke(token.id, actor=caller.owner)


def _told(token: Token) -> dict[str, Any]:
    moments = {name: getattr(token, name) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return {
        "id": token.id,
        "user": token.owner.user,
        "organization": token.owner.organization,
        "role": token.role.value,
        "scopes": sorted(token.scopes),
        "name": token.name,
        **{name: None if moment is None else isoformat(moment) for name, moment in moments.items()},
    }
