"""Addresses: a proxy's word on its client's address is believed only where the operator trusts the proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from innkeeper.config import load_settings
from innkeeper.core.errors import SetupError
from innkeeper.http.addresses import address_of, network_of, trust

PROXIES = tuple(map(network_of, ("10.0.0.0/8", "127.0.0.1", "2001:db8::/32")))


def scope(peer: str | None, *forwarded: str, proto: str | None = None) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    if proto is not None:
        headers.append((b"x-forwarded-proto", proto.encode()))
    return {"type": "http", "scheme": "http", "client": peer and (peer, 1), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.9", ["198.51.100.1"], "192.0.2.9"),
        ("10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.1.2.3", ["198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["203.0.113.5, 198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["203.0.113.5", "198.51.100.1"], "198.51.100.1"),
        ("10.1.2.3", ["203.0.113.5, 198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.1.2.3", ["127.0.0.1, 198.51.100.1:4711"], "198.51.100.1"),
        ("10.1.2.3", ['"[2001:470::1]:443"'], "2001:470::1"),
        ("2001:db8::1", ["2001:470::1"], "2001:470::1"),
        ("10.1.2.3", ["10.4.5.6"], "10.4.5.6"),
        ("10.1.2.3", ["198.51.100.1, unknown"], "10.1.2.3"),
        ("10.1.2.3", ["198.51.100.1, unknown, 10.4.5.6"], "10.4.5.6"),
        ("10.1.2.3", [""], "10.1.2.3"),
        ("10.1.2.3", [], "10.1.2.3"),
        (None, ["198.51.100.1"], ""),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_proxys(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    asked = scope(peer, *forwarded)
    trust(asked, PROXIES)
    assert address_of(asked) == address


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert address_of(scope("127.0.0.1", "198.51.100.1", proto="https")) == "127.0.0.1"


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("10.1.2.3", "https", "https"),
        ("10.1.2.3", "http, HTTPS", "https"),
        ("10.1.2.3", "https, http", "http"),
        ("10.1.2.3", "javascript", "http"),
        ("192.0.2.9", "https", "http"),
    ],
)
def test_the_scheme_is_what_a_trusted_proxy_was_asked_by(peer: str, proto: str, scheme: str) -> None:
    asked = scope(peer, proto=proto)
    trust(asked, PROXIES)
    assert asked["scheme"] == scheme


def test_what_is_no_network_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nginx is no address and no network"):
        load_settings({"data_dir": tmp_path, "trusted_proxies": "10.0.0.1 nginx"})
