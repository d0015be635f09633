"""What an identity provider signed: accepted when all of it is in order, and never otherwise."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from innkeeper.core.errors import StorageUnavailable
from innkeeper.core.identity import Caller, Owner, Role
from innkeeper.core.tokens import Refusal
from innkeeper.issuers.keys import LIFETIME, MAX_BYTES, PAUSE, IssuerKeys
from innkeeper.issuers.oidc import LEEWAY, Claims, OidcIssuer
from innkeeper.ports.issuers import Vouched
from tests.support.issuers import AUDIENCE, LittleIssuer, little_issuer, made_key, signed
from tests.support.servers import serve_app
from tests.support.sizes import within

SECOND = 1_000_000
CLAIMS = Claims()


class Desk:
    """Whoever asks the issuer, and hands on its clock."""

    def __init__(self, issuer: LittleIssuer, url: str | None = None, claims: Claims = CLAIMS) -> None:
        self.seconds = 0.0
        keys = IssuerKeys(issuer.url, url, clock=lambda: self.seconds)
        now = time.time_ns() // 1000
        self.oidc = OidcIssuer(issuer.url, AUDIENCE, keys, now=lambda: now, claims=claims)
        self.now = now // SECOND

    async def caller(self, text: str) -> Caller | Refusal:
        vouched = await self.oidc.vouch(text)
        return vouched.caller if isinstance(vouched, Vouched) else vouched


@pytest.fixture(scope="module")
def served() -> Iterator[LittleIssuer]:
    with little_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(served: LittleIssuer) -> LittleIssuer:
    """With one key, as at its start."""
    served.keys = {"one": served.first}
    served.asked, served.answers = [], {}
    return served


@pytest.fixture
async def desk(issuer: LittleIssuer) -> AsyncIterator[Desk]:
    opened = Desk(issuer)
    yield opened
    await opened.oidc.close()


ANN = Caller(Owner("default", "ann"))


async def test_a_token_in_order_says_who_somebody_is_until_when(desk: Desk, issuer: LittleIssuer) -> None:
    text = issuer.token(org_id="acme", role="read", scope="openid code impersonate", exp=desk.now + 100, email="A@x.io")
    vouched = await desk.oidc.vouch(text)
    caller = Caller(Owner("acme", "ann"), Role.READ, frozenset({"code", "impersonate"}))
    assert vouched == Vouched(caller, "ann", (desk.now + 100 + LEEWAY) * SECOND, None)  # type: ignore[arg-type]
    verified = await desk.oidc.vouch(issuer.token(email="A@x.io", email_verified=True))
    assert isinstance(verified, Vouched)
    assert verified.email == "a@x.io"


@pytest.mark.parametrize("email", ["\u212aim@x.io", "a@x.io\0", "\ud800@x.io", 7, ["kim@x.io"]], ids=ascii)
async def test_an_address_that_becomes_another_one_in_lower_case_is_none(
    desk: Desk, issuer: LittleIssuer, email: object
) -> None:
    vouched = await desk.oidc.vouch(issuer.token(email=email, email_verified=True))
    assert isinstance(vouched, Vouched)
    assert vouched.email is None


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [("RSA", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]), ("EC", ["ES256"]), ("OKP", ["EdDSA"])],
)
async def test_every_algorithm_with_a_public_key_is_accepted(
    desk: Desk, issuer: LittleIssuer, kind: str, algorithms: list[str]
) -> None:
    issuer.publish("two", kind)
    for algorithm in algorithms:
        assert await desk.caller(issuer.token("two", {"alg": algorithm})) == ANN, algorithm


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": ["another"]},
        {"aud": {AUDIENCE: 1}},
        {"aud": f"{AUDIENCE} another"},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": 1e300},
        {"exp": 10**400},
        {"nbf": -(10**400)},
        {"exp": -1},
        {"nbf": 9_999_999_999},
        {"nbf": "soon"},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": ["ann"]},
        {"sub": "a\nb"},
        {"sub": "x" * 201},
        {"org_id": ""},
        {"org_id": 3},
        {"org_id": "local"},
        {"org_id": "a\0b"},
        {"sub": "ik0000000000000000"},
    ],
    ids=str,
)
async def test_what_is_not_for_us_or_says_nobody_is_unknown(
    desk: Desk, issuer: LittleIssuer, claims: dict[str, Any]
) -> None:
    assert await desk.caller(issuer.token(**claims)) is Refusal.UNKNOWN


async def test_one_of_several_audiences_is_enough(desk: Desk, issuer: LittleIssuer) -> None:
    assert await desk.caller(issuer.token(aud=["another", AUDIENCE])) == ANN


async def test_times_hold_within_a_minute(desk: Desk, issuer: LittleIssuer) -> None:
    assert await desk.caller(issuer.token(exp=desk.now - LEEWAY + 2)) == ANN
    assert await desk.caller(issuer.token(exp=desk.now - LEEWAY - 2)) is Refusal.EXPIRED
    assert await desk.caller(issuer.token(nbf=desk.now + LEEWAY - 2)) == ANN
    assert await desk.caller(issuer.token(nbf=desk.now + LEEWAY + 2)) is Refusal.UNKNOWN


def altered(text: str) -> Iterator[str]:
    """Texts that are nearly this token."""
    header, payload, signature = text.split(".")
    said = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    other = part({**said, "sub": "zoe"})
    for algorithm in ("none", "None", "HS256", "", None, 7, ["ES256"], "ES256K"):
        fake = part({"alg": algorithm, "kid": "one"})
        yield from (f"{fake}.{payload}.{signature}", f"{fake}.{other}.", f"{fake}.{other}.AA")
    criticals: list[dict[str, Any]] = [{"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}]
    for critical in criticals:
        yield f"{part({'alg': 'ES256', 'kid': 'one', **critical})}.{payload}.{signature}"
    yield from (f"{header}.{other}.{signature}", f"{header}.{payload}.", f"{header}.{payload}", f"{text}.{signature}")
    yield from (f"{header}..{signature}", f".{payload}.{signature}", f" {text}", f"{text}\n", f"{text}=", text[:-4])
    yield from ("eyJ.eyJ.eyJ", part([1]) + ".e.e", part({"alg": "ES256"}) + "." + "A" * 20_000 + ".AA", "eyJ" * 5000)


def part(said: object) -> str:
    return urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")


async def test_nothing_but_the_whole_token_vouches_for_anybody(desk: Desk, issuer: LittleIssuer) -> None:
    text = issuer.token()
    assert await desk.caller(text) == ANN
    for other in altered(text):
        assert await desk.caller(other) is Refusal.UNKNOWN, other[:200]


@pytest.mark.parametrize(
    ("added", "is_accepted"),
    [
        ({}, True),
        ({"typ": "at+jwt", "x": 1}, True),
        ({"crit": ["https://x.io"], "https://x.io": 1}, False),
        ({"crit": ["b64"], "b64": True}, False),
        ({"crit": []}, False),
        ({"b64": False}, False),
    ],
    ids=str,
)
async def test_what_a_header_declares_critical_is_not_passed_over(
    desk: Desk, issuer: LittleIssuer, added: dict[str, Any], is_accepted: bool
) -> None:
    key: Any = issuer.publish("two", "OKP")
    said = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": desk.now + 60}
    text = f"{part({'alg': 'EdDSA', 'kid': 'two', **added})}.{part(said)}"
    seal = urlsafe_b64encode(key.private_key.sign(text.encode())).decode().rstrip("=")
    assert await desk.caller(f"{text}.{seal}") == (ANN if is_accepted else Refusal.UNKNOWN)


async def test_a_header_nested_without_end_is_unknown(desk: Desk) -> None:
    deep = urlsafe_b64encode(b'{"alg":' + b"[" * 6000).decode().rstrip("=")
    assert await desk.caller(f"{deep}.e30.AA") is Refusal.UNKNOWN


async def test_a_public_key_signs_nothing(desk: Desk, issuer: LittleIssuer) -> None:
    """The oldest trick: what everybody may know, taken for a shared secret."""
    public = issuer.publish("two", "RSA")
    for secret in (public.as_pem(private=False), public.as_der(private=False), b""):
        said = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 60}
        for header in ({"alg": "HS256", "kid": "two"}, {"alg": "HS256"}, {"alg": "RS256", "kid": "two"}):
            text = f"{part(header)}.{part(said)}"
            seal = urlsafe_b64encode(hmac.digest(secret, text.encode(), "sha256")).decode().rstrip("=")
            assert await desk.caller(f"{text}.{seal}") is Refusal.UNKNOWN


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "two"},
        {"kid": ""},
        {"kid": "../../../../dev/null"},
        {"kid": "one' OR '1'='1"},
        {"kid": "k" * 300},
        {"jku": "URL/stolen"},
        {"x5u": "URL/stolen"},
    ],
    ids=str,
)
async def test_what_a_token_says_of_its_key_leads_nowhere_else(
    desk: Desk, issuer: LittleIssuer, header: dict[str, Any]
) -> None:
    stranger = made_key("EC")
    told = {name: value.replace("URL", issuer.url) for name, value in header.items()}
    text = issuer.token(header={**told, "jwk": stranger.as_dict(private=False)}, key=stranger)
    assert await desk.caller(text) is Refusal.UNKNOWN
    assert "/stolen" not in issuer.asked


@pytest.mark.parametrize("kid", [7, ["one"], {"one": 1}, True])
async def test_the_id_of_a_key_is_a_text(desk: Desk, issuer: LittleIssuer, kid: object) -> None:
    _, payload, signature = issuer.token().split(".")
    assert await desk.caller(f"{part({'alg': 'ES256', 'kid': kid})}.{payload}.{signature}") is Refusal.UNKNOWN


async def test_a_key_serves_its_own_algorithm_only(desk: Desk, issuer: LittleIssuer) -> None:
    key = issuer.publish("two", "RSA")
    row = {**key.as_dict(private=False), "kid": "two", "alg": "RS256"}
    issuer.answers["/jwks"] = (200, {}, json.dumps({"keys": [row]}).encode())
    assert await desk.caller(issuer.token("two", {"alg": "PS256"})) is Refusal.UNKNOWN
    assert await desk.caller(issuer.token("two", {"alg": "ES256"}, key=issuer.keys["one"])) is Refusal.UNKNOWN
    assert await desk.caller(issuer.token("two")) == ANN


async def test_keys_that_may_not_sign_or_cannot_be_read_are_passed_over(desk: Desk, issuer: LittleIssuer) -> None:
    good = {**issuer.keys["one"].as_dict(private=False), "kid": "one"}
    rows: list[Any] = [7, None, {}, {"kty": "RSA"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "oct", "k": "AA"}]
    rows += [
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "one"},
        {**good, "use": "enc", "kid": "two"},
        good,
    ]
    issuer.answers["/jwks"] = (200, {}, json.dumps({"keys": rows}).encode())
    assert await desk.caller(issuer.token()) == ANN
    assert await desk.caller(issuer.token(header={"kid": "two"}, key=issuer.keys["one"])) is Refusal.UNKNOWN


async def test_a_token_without_the_id_of_a_key_means_the_only_one(desk: Desk, issuer: LittleIssuer) -> None:
    said = {"iss": issuer.url, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 60}
    assert await desk.caller(signed({"alg": "ES256"}, said, issuer.keys["one"])) == ANN
    issuer.publish("two")
    desk.seconds += LIFETIME
    await desk.caller(issuer.token("two"))
    assert await desk.caller(signed({"alg": "ES256"}, said, issuer.keys["one"])) is Refusal.UNKNOWN


# roles


@pytest.mark.parametrize(
    ("named", "said", "role"),
    [
        (False, {}, Role.USER),
        (False, {"role": "read"}, Role.READ),
        (False, {"role": "admin"}, Role.USER),
        (False, {"role": "owner"}, Role.USER),
        (True, {"role": "admin"}, Role.ADMIN),
        (True, {"role": ["read", "admin"]}, Role.ADMIN),
        (True, {"role": "administrator"}, Role.USER),
        (True, {"role": {"admin": True}}, Role.USER),
    ],
)
async def test_a_role_of_admin_counts_where_the_operator_named_the_claim(
    issuer: LittleIssuer, named: bool, said: dict[str, Any], role: Role
) -> None:
    desk = Desk(issuer, claims=Claims(makes_admins=named))
    caller = await desk.caller(issuer.token(**said))
    assert isinstance(caller, Caller)
    assert caller.role is role


async def test_claims_have_the_names_that_the_operator_says(issuer: LittleIssuer) -> None:
    claims = Claims("email", "https://x.io/org", "realm_access.roles", "permissions", makes_admins=True)
    said: dict[str, Any] = {
        "email": "ann@x.io",
        "https://x.io/org": "acme",
        "realm_access": {"roles": ["admin"]},
        "permissions": ["code"],
    }
    caller = await Desk(issuer, claims=claims).caller(issuer.token(**said))
    assert caller == Caller(Owner("acme", "ann@x.io"), Role.ADMIN, frozenset({"code"}))


# keys


async def test_keys_are_fetched_once_and_again_when_they_are_old(desk: Desk, issuer: LittleIssuer) -> None:
    await asyncio.gather(*(desk.caller(issuer.token()) for _ in range(10)))
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]
    desk.seconds += LIFETIME
    assert await desk.caller(issuer.token()) == ANN
    await desk.oidc._keys._fetching  # type: ignore[misc]
    assert len(issuer.asked) == 4


async def test_a_new_key_is_found_and_one_that_was_withdrawn_is_forgotten(desk: Desk, issuer: LittleIssuer) -> None:
    old = issuer.token()
    assert await desk.caller(old) == ANN
    issuer.keys = {}
    issuer.publish("two")
    desk.seconds += PAUSE
    assert await desk.caller(issuer.token("two")) == ANN
    assert await desk.caller(old) is Refusal.UNKNOWN


async def test_whoever_makes_keys_up_has_the_issuer_asked_once_in_a_while(desk: Desk, issuer: LittleIssuer) -> None:
    assert await desk.caller(issuer.token()) == ANN
    for number in range(20):
        text = issuer.token(header={"kid": f"made-up-{number}"}, key=issuer.keys["one"])
        assert await desk.caller(text) is Refusal.UNKNOWN
    assert issuer.asked.count("/jwks") == 1
    desk.seconds += PAUSE
    await desk.caller(issuer.token(header={"kid": "more"}, key=issuer.keys["one"]))
    assert issuer.asked.count("/jwks") == 2


REDIRECT = (302, {"location": "/elsewhere"}, b"")
WRONG: dict[str, dict[str, tuple[int, dict[str, str], bytes]]] = {
    "it fails": {"/jwks": (500, {}, b"")},
    "it sends us elsewhere for its keys": {"/jwks": REDIRECT},
    "it sends us elsewhere for its document": {"/.well-known/openid-configuration": REDIRECT},
    "its keys are too many": {"/jwks": (200, {}, b'{"keys": [' + b" " * MAX_BYTES + b"]}")},
    "its keys are nested without end": {"/jwks": (200, {}, b"[" * 100_000)},
    "its keys are no JSON": {"/jwks": (200, {}, b"<html>")},
    "its keys are none": {"/jwks": (200, {}, b'{"keys": 7}')},
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_issuer_that_is_ill_lets_nobody_in_but_by_the_keys_that_are_known(
    desk: Desk, issuer: LittleIssuer, wrong: str
) -> None:
    issuer.answers = dict(WRONG[wrong])
    with pytest.raises(StorageUnavailable):
        await desk.caller(issuer.token())
    issuer.answers, desk.seconds = {}, PAUSE
    assert await desk.caller(issuer.token()) == ANN
    issuer.answers, desk.seconds = dict(WRONG[wrong]), PAUSE + LIFETIME
    stranger = issuer.token(header={"kid": "two"}, key=issuer.keys["one"])
    for _ in range(3):
        assert await desk.caller(issuer.token()) == ANN
        with pytest.raises(StorageUnavailable):
            await desk.caller(stranger)
    assert "/elsewhere" not in issuer.asked


@pytest.mark.parametrize(
    "address", ["http://keys.example/jwks", "ftp://127.0.0.1/jwks", "https://u:p@keys.example/", 7]
)
async def test_keys_are_fetched_from_no_address_that_could_be_forged(
    desk: Desk, issuer: LittleIssuer, address: object, caplog: pytest.LogCaptureFixture
) -> None:
    document = {"issuer": issuer.url, "jwks_uri": address}
    issuer.answers["/.well-known/openid-configuration"] = (200, {}, json.dumps(document).encode())
    with pytest.raises(StorageUnavailable):
        await desk.caller(issuer.token())
    assert "its document names no address of keys" in caplog.text


async def test_a_document_that_names_another_issuer_is_not_believed(desk: Desk, issuer: LittleIssuer) -> None:
    document = {"issuer": f"{issuer.url}/", "jwks_uri": f"{issuer.url}/jwks"}
    issuer.answers["/.well-known/openid-configuration"] = (200, {}, json.dumps(document).encode())
    with pytest.raises(StorageUnavailable):
        await desk.caller(issuer.token())
    assert "/jwks" not in issuer.asked


async def test_an_address_of_keys_that_is_configured_is_the_only_one_that_is_asked(issuer: LittleIssuer) -> None:
    assert await Desk(issuer, f"{issuer.url}/jwks").caller(issuer.token()) == ANN
    assert issuer.asked == ["/jwks"]


async def test_an_issuer_that_says_nothing_is_waited_for_no_longer_than_a_while(
    monkeypatch: pytest.MonkeyPatch, issuer: LittleIssuer
) -> None:
    monkeypatch.setattr("innkeeper.issuers.keys.PATIENCE", 0.2)

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with serve_app(silent, lifespan="off") as url:
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await Desk(issuer, f"{url}/jwks").caller(issuer.token())
    assert time.monotonic() - began < within(3, 20)
