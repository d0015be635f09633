"""What an identity provider signed, over HTTP and WebSockets: let in by `Authorization` and the subprotocol alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.core.errors import SetupError
from tests.support.inns import Inn, running_inn
from tests.support.issuers import AUDIENCE, LittleIssuer, little_issuer


@pytest.fixture(scope="module")
def issuer() -> Iterator[LittleIssuer]:
    with little_issuer() as served:
        yield served


@pytest.fixture(scope="module")
def inn(issuer: LittleIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inn]:
    settings: dict[str, Any] = {
        "force_auth": True,
        "oidc_issuer": issuer.url,
        "oidc_audience": AUDIENCE,
        "oidc_role_claim": "role",
    }
    with running_inn(tmp_path_factory.mktemp("data"), **settings) as served:
        yield served


def ask(inn: Inn, headers: dict[str, str], path: str = "/sessions") -> httpx2.Response:
    return httpx2.get(f"{inn.url}{path}", headers=headers, timeout=20, trust_env=False)


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def test_whom_the_issuer_vouches_for_is_let_in_with_its_role(inn: Inn, issuer: LittleIssuer) -> None:
    for role, statuses in {"read": (200, 403), "user": (200, 403), "admin": (200, 200)}.items():
        headers = bearer(issuer.token(role=role, org_id="acme"))
        assert (ask(inn, headers).status_code, ask(inn, headers, "/tokens").status_code) == statuses


def test_two_subjects_share_nothing(inn: Inn, issuer: LittleIssuer) -> None:
    headers = bearer(issuer.token(sub="bob", org_id="acme"))
    made = httpx2.post(f"{inn.url}/sessions", json={"id": "bobs"}, headers=headers, timeout=20)
    assert made.status_code == 201
    assert ask(inn, headers, "/sessions/bobs").status_code == 200
    others: list[dict[str, Any]] = [{"sub": "cat", "org_id": "acme"}, {"sub": "bob", "org_id": "inc"}, {"sub": "bob"}]
    for claims in others:
        assert ask(inn, bearer(issuer.token(**claims)), "/sessions/bobs").status_code == 404


@pytest.mark.parametrize("header", ["x-api-key", "api-token", "api_token", "x-session-token"])
def test_no_other_header_takes_it(inn: Inn, issuer: LittleIssuer, header: str) -> None:
    assert ask(inn, {header: issuer.token()}).status_code == 401


def test_what_has_expired_or_is_not_for_us_is_refused(inn: Inn, issuer: LittleIssuer) -> None:
    expired = ask(inn, bearer(issuer.token(exp=time.time() - 100)))
    assert (expired.status_code, expired.json()["error"]["message"]) == (401, "This token has expired.")
    for text in (issuer.token(aud="another"), issuer.token()[:-4], "eyJhbGciOiJub25lIn0.e30."):
        assert ask(inn, bearer(text)).status_code == 401


def test_a_signed_token_and_another_credential_are_two(inn: Inn, issuer: LittleIssuer) -> None:
    assert ask(inn, bearer(issuer.token()) | {"x-api-key": issuer.token()}).status_code == 401


def test_a_websocket_takes_it_as_a_subprotocol(inn: Inn, issuer: LittleIssuer) -> None:
    address = f"ws{inn.url.removeprefix('http')}/ws/chat"
    offered = [Subprotocol("innkeeper"), Subprotocol(f"innkeeper.token.{issuer.token()}")]
    with connect(address, subprotocols=offered) as socket:
        assert socket.subprotocol == "innkeeper"
    wrong = [Subprotocol("innkeeper"), Subprotocol(f"innkeeper.token.{issuer.token(aud='another')}")]
    with pytest.raises(InvalidStatus), connect(address, subprotocols=wrong):
        pass


def test_without_an_issuer_nothing_signed_opens_anything(tmp_path: Path, issuer: LittleIssuer) -> None:
    with running_inn(tmp_path, force_auth=True) as inn:
        assert ask(inn, bearer(issuer.token())).status_code == 401


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"oidc_issuer": "https://id.example"}, "OIDC_AUDIENCE"),
        ({"oidc_audience": "inn"}, "OIDC_ISSUER"),
        ({"oidc_jwks_url": "https://id.example/jwks"}, "OIDC_ISSUER"),
        ({"oidc_issuer": "http://id.example", "oidc_audience": "inn"}, "https://"),
        ({"oidc_issuer": "https://id.example", "oidc_audience": ""}, "oidc_audience"),
        ({"token_store": "redis"}, "REDIS_URL"),
    ],
)
def test_settings_that_could_let_anybody_in_are_refused_at_start(
    tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    with pytest.raises(SetupError) as refusal:
        asyncio.run(ServerBase(settings=load_settings({"data_dir": tmp_path, **settings})).kernel.start())
    assert told in refusal.value.message
