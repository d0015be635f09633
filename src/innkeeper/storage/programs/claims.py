"""Claims as programs: the idempotency key is written with what its request makes."""

from __future__ import annotations

from sqlalchemy import bindparam, delete, insert, select

from innkeeper.core.changes import Fence, ForgetClaims, KeepClaim
from innkeeper.core.claims import LIFETIME, Claim, Claimed
from innkeeper.core.errors import IdempotencyMismatch
from innkeeper.core.identity import Owner
from innkeeper.core.outcomes import Done, Repeated
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.statements import Program, Query, Statement

_table = schema.idempotency_keys
_same = (
    (_table.c.organization == bindparam("by_organization"))
    & (_table.c.owner == bindparam("by_owner"))
    & (_table.c.key == bindparam("by_key"))
)
_FIND = Statement(
    select(_table.c.fingerprint, _table.c.subject, _table.c.answer, _table.c.created_at).where(_same), returns=True
)
_DROP = Statement(delete(_table).where(_same))
_FORGET = Statement(delete(_table).where(_table.c.created_at <= bindparam("before")))
_INSERT = Statement(insert(_table))


def find(owner: Owner, claim: Claim, now: Instant) -> Program:
    """`Repeated` if the key has been used for the same request, else `None`; one that is too old is dropped.

    Raises: IdempotencyMismatch.
    """
    named = {"by_organization": owner.organization, "by_owner": owner.user, "by_key": claim.key}
    rows = yield Query(_FIND, named)
    if not rows:
        return None
    fingerprint, subject, answer, created_at = rows[0]
    if created_at + LIFETIME <= now:
        yield Query(_DROP, named)
        return None
    if fingerprint != claim.fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used with another request. Use a new key for a new request.",
            param="Idempotency-Key",
        )
    return Repeated(Claimed(claim.key, fingerprint, subject, created_at, None if answer is None else bytes(answer)))


def write(owner: Owner, claim: Claim, subject: str, now: Instant, answer: bytes | None = None) -> Query:
    return Query(
        _INSERT,
        {
            "organization": owner.organization,
            "owner": owner.user,
            "key": claim.key,
            "fingerprint": claim.fingerprint,
            "subject": subject,
            "answer": answer,
            "created_at": now,
        },
    )


def keep(change: KeepClaim, fence: Fence | None) -> Program:
    known = yield from find(change.owner, change.claim, change.now)
    if known is not None:
        return known
    yield write(change.owner, change.claim, change.subject, change.now, change.answer)
    return Done()


def forget(change: ForgetClaims, fence: Fence | None) -> Program:
    yield Query(_FORGET, {"before": change.now - LIFETIME})
    return Done()
