"""Origins: where webhooks may go, as the operator lists it, and whether a URL leads there.

An entry is `[http://|https://]host[:port]`, its host a name, an address, or `*.` and a name for all names below it.
It means that port, or the default one, of that scheme; without a scheme https, and http too for this machine itself.
What a name resolves to is the operator's business. Nothing here asks the network.
Invariant: a URL that is accepted means the same host to every parser, because what they disagree on is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, cast

from innkeeper.core.errors import SetupError

Scheme = Literal["http", "https"]

MAX_URL = 2048
"""Characters of a URL."""

_PORTS: dict[Scheme, int] = {"http": 80, "https": 443}
_HOST = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]"
_PORT = r"(?::(?P<port>[0-9]{1,5}))?"
_REST = r"(?:[/?](?:[a-z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-f]{2})*)?"
_URL = re.compile(rf"(?P<scheme>https?)://(?P<host>{_HOST}){_PORT}{_REST}", re.ASCII | re.IGNORECASE)
_ENTRY = re.compile(rf"(?:(?P<scheme>https?)://)?(?P<below>\*\.)?(?P<host>{_HOST}){_PORT}", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, a host in lower case or an address in its one spelling, and a port."""

    scheme: Scheme
    host: str
    port: int


def origin_of(url: str) -> Origin | None:
    """Where a URL leads, or `None` if it is not the plainest kind of absolute http or https URL."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        return None
    scheme = cast("Scheme", found["scheme"].lower())
    try:
        return Origin(scheme, _canonical(found["host"]), _port(found["port"], scheme))
    except ValueError:
        return None


class AllowedOrigins:
    """The operator's list."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises: SetupError that names the entry that cannot be."""
        self._exact: set[Origin] = set()
        self._parents: set[Origin] = set()
        for entry in entries:
            is_parent, origins = _read(entry)
            (self._parents if is_parent else self._exact).update(origins)

    def __bool__(self) -> bool:
        return bool(self._exact or self._parents)

    def __contains__(self, origin: Origin) -> bool:
        return origin in self._exact or any(
            Origin(origin.scheme, parent, origin.port) in self._parents for parent in _parents(origin.host)
        )


def _read(entry: str) -> tuple[bool, list[Origin]]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise _unreadable(entry)
    try:
        host = _canonical(found["host"])
        is_address = _is_address(host)
        if is_address and found["below"]:
            raise _unreadable(entry)
        schemes = _schemes(found["scheme"], host, is_address)
        origins = [Origin(scheme, host, _port(found["port"], scheme)) for scheme in schemes]
    except ValueError:
        raise _unreadable(entry) from None
    return found["below"] is not None, origins


def _schemes(named: str | None, host: str, is_address: bool) -> tuple[Scheme, ...]:
    if named is not None:
        return (cast("Scheme", named.lower()),)
    is_here = host == "localhost" or (is_address and ip_address(host.strip("[]")).is_loopback)
    return ("https", "http") if is_here else ("https",)


def _unreadable(entry: str) -> SetupError:
    return SetupError(
        f"webhook_allowed_hosts: {entry!r} is not a host. Write example.com, *.example.com, example.com:8443, "
        "http://10.0.0.5:8080 or [::1]:8080, and a name with other letters in its xn-- form."
    )


def _canonical(host: str) -> str:
    """Raises: ValueError for an address that is not spelled in full, and for names that are too long."""
    if host.startswith("["):
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    labels = host.lower().split(".")
    if _NUMBER.fullmatch(labels[-1]):  # some resolvers take 127.1, 0x7f.1 or 2130706433 for an address
        return str(IPv4Address(host))
    if len(host) > 253 or max(map(len, labels)) > 63:
        raise ValueError(host)
    return ".".join(labels)


def _is_address(host: str) -> bool:
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _port(port: str | None, scheme: Scheme) -> int:
    number = _PORTS[scheme] if port is None else int(port)
    if not 0 < number < 65536:
        raise ValueError(port)
    return number


def _parents(host: str) -> list[str]:
    """The names above a name, the nearest first; an address has none."""
    labels = [] if _is_address(host) else host.split(".")
    return [".".join(labels[first:]) for first in range(1, len(labels))]
