"""A little identity provider: a real HTTP server with keys that change, and tokens that it signs, or might have."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tests.support.servers import serve_app

Key = RSAKey | ECKey | OKPKey

AUDIENCE = "innkeeper"
ALGORITHMS = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


@dataclass
class LittleIssuer:
    """`keys` are what it publishes, `first` the one that it begins with.

    `answers` are given in the place of its own at these paths: a status, headers and a body.
    """

    first: Key
    url: str = ""
    keys: dict[str, Key] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)

    def publish(self, kid: str, kind: str = "EC") -> Key:
        """Make a key, and publish it."""
        self.keys[kid] = made_key(kind)
        return self.keys[kid]

    def token(self, kid: str = "one", header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """One that is in order, but for what is said otherwise; a claim of `None` is left out."""
        key = self.keys[kid] if key is None else key
        said = {"iss": self.url, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 300, **claims}
        return signed({"alg": ALGORITHMS[key.key_type], "kid": kid, **(header or {})}, said, key)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        self.asked.append(path)
        status, headers, body = self.answers.get(path) or (200, {}, json.dumps(self._document(path)).encode())
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": body})

    def _document(self, path: str) -> dict[str, Any]:
        if path == "/jwks":
            return {"keys": [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]}
        return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}


def made_key(kind: str) -> Key:
    if kind == "RSA":
        return RSAKey.generate_key(2048)
    return ECKey.generate_key("P-256") if kind == "EC" else OKPKey.generate_key("Ed25519")


def signed(header: dict[str, Any], said: Any, key: Any) -> str:
    """As whoever has this key signs it, whatever it says."""
    payload = json.dumps({name: value for name, value in said.items() if value is not None})
    registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    if header["alg"] == "EdDSA":
        registry = _Silent(algorithms=["EdDSA"], strict_check_header=False)
    return jws.serialize_compact(header, payload, key, registry=registry)


class _Silent(jws.JWSRegistry):
    """Says nothing of the name of an algorithm."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


@contextmanager
def little_issuer() -> Iterator[LittleIssuer]:
    first = made_key("EC")
    issuer = LittleIssuer(first, keys={"one": first})
    with serve_app(issuer, lifespan="off") as issuer.url:
        yield issuer
