"""An issuer's public keys, fetched when they are needed and remembered.

They are fetched again when they are old, and when a token names one that is not among them, at most once in a while,
so that whoever makes tokens up cannot have the issuer asked all the time. Keys that are known go on working
while the issuer is away.
Invariant: what is fetched comes from the configured address, or from the one that the issuer's own document names;
a redirect is followed nowhere, and nothing that a token says is an address.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from innkeeper.core.errors import StorageUnavailable

_logger = logging.getLogger(__name__)

LIFETIME = 600.0
PAUSE = 10.0
PATIENCE = 4.0
MAX_BYTES = 256 * 1024
MAX_KEYS = 200
_LEAST_RSA_BITS = 2048

Key = RSAKey | ECKey | OKPKey


class IssuerKeys:
    """Belongs to one event loop. `url` is where the keys are, or `None` where the issuer's own document says it."""

    def __init__(self, issuer: str, url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._url = url
        self._clock = clock
        self._keys: dict[str, list[Key]] | None = None
        self._fetched_at = self._asked_at = float("-inf")
        self._has_failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, kind: str) -> Key | None:
        """The key of this id and type (`RSA`, `EC`, `OKP`); without an id the only one of its type.

        Raises: StorageUnavailable where it is not known and the issuer could not be asked.
        """
        if self._clock() - self._fetched_at >= LIFETIME:
            self._fetch()
        found = self._among(kid, kind)
        if found is None and (fetching := self._fetch()) is not None:
            await asyncio.shield(fetching)
            found = self._among(kid, kind)
        if found is None and self._has_failed:
            raise StorageUnavailable("The identity provider does not answer, so that this token cannot be checked.")
        return found

    def _among(self, kid: str | None, kind: str) -> Key | None:
        if self._keys is None:
            return None
        if kid is not None:
            return next((key for key in self._keys.get(kid, ()) if key.key_type == kind), None)
        fitting = [key for keys in self._keys.values() for key in keys if key.key_type == kind]
        return fitting[0] if len(fitting) == 1 else None

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or a new one, unless the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if self._clock() - self._asked_at < PAUSE:
            return None
        self._asked_at = self._clock()
        self._fetching = asyncio.get_running_loop().create_task(self._renew())
        return self._fetching

    async def _renew(self) -> None:
        try:
            async with (
                asyncio.timeout(PATIENCE),
                httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=PATIENCE) as client,
            ):
                url = self._url if self._url is not None else await self._named(client)
                self._keys = _keys_of(await _json_at(client, url))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError, ValueError) as error:
            self._has_failed = True
            _logger.warning("the keys of the issuer %s could not be fetched: %s", self._issuer, _told(error))
        else:
            self._has_failed = False
            self._fetched_at = self._clock()

    async def _named(self, client: httpx2.AsyncClient) -> str:
        """Where the issuer says that its keys are."""
        told = await _json_at(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        url = told.get("jwks_uri")
        if told.get("issuer") != self._issuer:
            raise ValueError("its document names another issuer")
        if not isinstance(url, str) or not is_safe(url):
            raise ValueError("its document names no address of keys that begins with https://")
        return url

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})


def is_safe(url: str) -> bool:
    """Whether nobody on the way can exchange what is there: https, or this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.username is not None or parts.scheme not in ("http", "https"):
        return False
    return parts.scheme == "https" or _is_this_machine(host)


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _json_at(client: httpx2.AsyncClient, url: str) -> Mapping[str, Any]:
    """The JSON object at an address, if it is no larger than it may be.

    Raises: ValueError.
    """
    data = bytearray()
    async with client.stream("GET", url, headers={"accept": "application/json"}) as answer:
        if answer.status_code != 200:
            raise ValueError(f"it answered {answer.status_code}")
        async for chunk in answer.aiter_bytes():
            data += chunk
            if len(data) > MAX_BYTES:
                raise ValueError(f"its answer is larger than {MAX_BYTES} bytes")
    try:
        told = json.loads(data)
    except RecursionError:
        raise ValueError("its answer is nested too deeply") from None
    if not isinstance(told, dict):
        raise ValueError("its answer is no JSON object")
    return told


def _keys_of(told: Mapping[str, Any]) -> dict[str, list[Key]]:
    """The public keys in a JWKS by their id; those that cannot sign, or that we cannot read, are passed over."""
    rows = told.get("keys")
    if not isinstance(rows, list):
        raise ValueError("its answer has no keys")
    found: dict[str, list[Key]] = {}
    for row in rows[:MAX_KEYS]:
        if not isinstance(row, dict) or row.get("kty") not in ("RSA", "EC", "OKP") or row.get("use") == "enc":
            continue
        kid = row.get("kid")
        try:
            key = JWKRegistry.import_key({name: value for name, value in row.items() if name != "d"})
            key.public_key  # noqa: B018 - reads it, which fails for one that is none
        except Exception:  # noqa: BLE001, S112 - it is not ours, and one bad key is no reason to forget the others
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < _LEAST_RSA_BITS:
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey):
            found.setdefault(kid if isinstance(kid, str) else "", []).append(key)
    return found


def _told(error: Exception) -> str:
    return str(error) if type(error) is ValueError else type(error).__name__
