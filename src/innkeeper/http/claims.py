"""Claims of requests: the `Idempotency-Key` header and the digest of what it stands for."""

from __future__ import annotations

import hashlib

from starlette.requests import HTTPConnection

from innkeeper.core.claims import MAX_KEY, Claim
from innkeeper.core.errors import Invalid

REPLAYED = "idempotent-replayed"
"""The header of an answer that repeats the first one."""

_HEADER = b"idempotency-key"


def claim_of(request: HTTPConnection, body: bytes) -> Claim | None:
    """The claim of a request that bears a key: for its method, its path with the query, and the bytes of its body.

    Raises: Invalid for a key that is empty, too long or not printable.
    """
    sent = [value for name, value in request.scope["headers"] if name == _HEADER]
    if not sent:
        return None
    key = sent[0].decode("latin-1").strip()
    if len(sent) > 1 or not 0 < len(key) <= MAX_KEY or not (key.isascii() and key.isprintable()):
        raise Invalid(
            f"Idempotency-Key must be one header of 1 to {MAX_KEY} printable characters.", param="Idempotency-Key"
        )
    digest = hashlib.sha256()
    scope = request.scope
    for part in (scope.get("method", "").encode(), scope["path"].encode(), scope.get("query_string", b""), body):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return Claim(key, digest.hexdigest())
