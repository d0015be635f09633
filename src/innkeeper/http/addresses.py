"""Addresses: where a request comes from, as far as that can be believed.

Not who is asking, which `gates` decides. Headers that proxies add are read only where the TCP peer is a proxy that the
operator trusts; `trust` then writes into the scope what they say.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

ADDRESS = "innkeeper.address"
"""The key in a scope under which a trusted proxy's word on its client's address is kept."""

Network = IPv4Network | IPv6Network
_SECURE = {"http": "https", "ws": "wss"}
_MOST_HOPS = 20


def address_of(scope: Any) -> str:
    """The address of the client behind `scope`, or an empty string where none is known, as over Unix sockets."""
    told: str | None = scope.get(ADDRESS)
    if told is not None:
        return told
    client = scope.get("client")
    return client[0] if client else ""


def network_of(text: str) -> Network:
    """The network of `10.0.0.1` or `10.0.0.0/8`. Raises: ValueError."""
    return ip_network(text)


def trust(scope: Any, proxies: Iterable[Network]) -> None:
    """Believe what the peer says of its client, if it is one of `proxies`.

    The client is who the last of them was asked by: the rightmost address of `X-Forwarded-For` that is none of theirs,
    as what stands left of it was written by strangers.
    """
    client = scope.get("client")
    peer = _parsed(client[0]) if client else None
    if ADDRESS in scope or peer is None or not _is_among(peer, proxies):
        return
    hops: list[str] = []
    scheme = ""
    for name, value in scope["headers"]:
        if name == b"x-forwarded-for":
            hops += value.decode("latin-1").split(",")
        elif name == b"x-forwarded-proto":
            scheme = value.decode("latin-1").rpartition(",")[2].strip().lower()
    scope[ADDRESS] = str(_origin(peer, hops[-_MOST_HOPS:], proxies))
    if scheme in ("https", "wss"):
        scope["scheme"] = _SECURE.get(scope.get("scheme", "http"), scope.get("scheme"))


def _origin(peer: IPv4Address | IPv6Address, hops: list[str], proxies: Iterable[Network]) -> IPv4Address | IPv6Address:
    """The first address from the right that is not a proxy's; what is no address ends the search."""
    found = peer
    for hop in reversed(hops):
        address = _parsed(hop)
        if address is None:
            break
        found = address
        if not _is_among(address, proxies):
            break
    return found


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write them: with a port or without, IPv6 in brackets or without."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _is_among(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
