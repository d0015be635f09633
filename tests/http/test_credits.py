"""Credits over HTTP: who sees and sets which balance, what an amount may be, and what is told of what runs consumed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx2
import pytest

from innkeeper import ServerBase, get_context, pricing
from innkeeper.config import load_settings
from innkeeper.core.events import UsageReported
from innkeeper.core.usage import Usage
from tests.support.inns import Json
from tests.support.servers import serve_app
from tests.support.tokens import a_token

PRICES = """
models:
  "openai:gpt-4o": {input: 2.5, output: 10}
"""
_numbers = count(1)


def a_name() -> str:
    """Of a user that no other test knows."""
    return f"user-{next(_numbers)}."


@dataclass
class House:
    """A server, and clients of it by whose token they bear."""

    app: ServerBase
    url: str

    def client(self, user: str, role: str = "user", organization: str = "acme", **fields: Any) -> httpx2.Client:
        token = a_token(self.app.kernel.settings, user, role, organization=organization, **fields).text
        headers = {"authorization": f"Bearer {token}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=20, trust_env=False)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("data")
    prices = folder / "prices.yaml"
    prices.write_text(PRICES)
    app = ServerBase(settings=load_settings({"data_dir": folder, "model_prices": prices, "force_auth": True}))

    @app.agent("priced")
    @pricing(credits_per_request=1)
    async def priced(messages: list[Json]) -> AsyncIterator[Any]:
        """Costs a credit, and what it tracks."""
        yield "Done."
        yield UsageReported(Usage(1000, 100, "openai:gpt-4o"))
        yield UsageReported(Usage(7, 3, "homemade"))
        context = get_context()
        assert context is not None
        context.track_usage(0.5, "a tool", {"pages": 2})

    with serve_app(app) as url:
        yield House(app, url)


@pytest.fixture(scope="module")
def admin(house: House) -> Iterator[httpx2.Client]:
    with house.client("root", "admin") as client:
        yield client


@pytest.fixture
def name() -> str:
    return a_name()


@pytest.fixture
def http(house: House, name: str) -> Iterator[httpx2.Client]:
    """A client of the user `name`."""
    with house.client(name) as client:
        yield client


def ok(answer: httpx2.Response, status: int = 200) -> Json:
    assert answer.status_code == status, answer.text
    told: Json = answer.json()
    return told


def refused(answer: httpx2.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of an error that names this field."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    message: str = error["message"]
    return message


def audited(admin: httpx2.Client, action: str) -> list[Json]:
    entries: list[Json] = ok(admin.get("/api/v1/platform/audit", params={"limit": 200}))["entries"]
    return [entry for entry in entries if entry["action"] == action]


def test_who_has_no_balance_is_told_that_nothing_bounds_it(http: httpx2.Client) -> None:
    assert ok(http.get("/credits"))["user"] is None


def test_what_an_administrator_sets_is_what_the_user_sees(admin: httpx2.Client, http: httpx2.Client, name: str) -> None:
    told = ok(admin.put("/credits", json={"user": name, "balance": 12.5, "reason": "a gift"}))
    assert told.pop("updated_at").endswith("Z")
    assert told == {"organization": "acme", "user": name, "balance": 12.5, "available": 12.5, "reserved": 0}
    seen = ok(http.get("/credits"))["user"]
    assert (seen["balance"], seen["user"]) == (12.5, name)
    (entry,) = ok(http.get("/credits/entries"))["entries"]
    assert entry["created_at"] == seen["updated_at"]
    assert (entry["kind"], entry["credits"], entry["balance"], entry["actor"], entry["reason"], entry["run_id"]) == (
        "set", 12.5, 12.5, "root", "a gift", None,
    )  # fmt: skip


def test_without_a_user_it_is_the_organizations_which_all_of_its_users_see(house: House, admin: httpx2.Client) -> None:
    with house.client("ann", organization="guild") as ann, house.client("bob", organization="other") as bob:
        ok(admin.put("/credits", json={"organization": "guild", "balance": 7}))
        assert ok(ann.get("/credits"))["organization"]["user"] is None
        assert ok(ann.get("/credits"))["organization"]["balance"] == 7
        assert ok(bob.get("/credits")) == {"user": None, "organization": None}
        assert ok(admin.get("/credits", params={"organization": "guild"}))["organization"]["balance"] == 7
        assert refused(ann.get("/credits/entries", params={"user": "bob"}), 403, "FORBIDDEN", "user")
        assert ok(ann.get("/credits/entries"))["entries"] == [], "those are the organization's, not its users'"
        (entry,) = ok(admin.get("/credits/entries", params={"organization": "guild"}))["entries"]
        assert (entry["user"], entry["balance"]) == (None, 7)


def test_credits_are_added_and_answered_with_their_entry(admin: httpx2.Client, http: httpx2.Client, name: str) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": "0.000000001"}))
    told = ok(admin.post("/credits", json={"user": name, "credits": "2", "reason": "invoice 17"}), 201)
    newest, oldest = ok(http.get("/credits/entries"))["entries"]
    assert told == newest
    assert (told["kind"], told["credits"], told["balance"], told["reason"]) == ("add", 2, 2.000000001, "invoice 17")
    page = ok(http.get("/credits/entries", params={"limit": 1}))
    assert page == {"entries": [newest], "has_more": True}
    rest = ok(http.get("/credits/entries", params={"limit": 1, "after": newest["id"]}))
    assert rest == {"entries": [oldest], "has_more": False}


def test_the_same_request_with_a_key_adds_once(admin: httpx2.Client, http: httpx2.Client, name: str) -> None:
    key = {"idempotency-key": f"key-{name}"}
    body = {"user": name, "credits": 3}
    first = admin.post("/credits", json=body, headers=key)
    ok(admin.post("/credits", json={"user": name, "credits": 1}), 201)
    again = admin.post("/credits", json=body, headers=key)
    assert ok(again, 201) == ok(first, 201)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert ok(http.get("/credits"))["user"]["balance"] == 4
    other = admin.post("/credits", json={"user": name, "credits": 4}, headers=key)
    refused(other, 422, "IDEMPOTENCY_MISMATCH", "Idempotency-Key")
    whose = [entry["metadata"]["user"] for entry in audited(admin, "credits.add")]
    assert whose.count(name) == 2, "what was not done again is not told again"


def test_a_balance_that_is_removed_bounds_nothing_any_more(
    admin: httpx2.Client, http: httpx2.Client, name: str
) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 1}))
    assert admin.delete("/credits", params={"user": name}).status_code == 204
    assert ok(http.get("/credits"))["user"] is None
    assert [one["kind"] for one in ok(http.get("/credits/entries"))["entries"]] == ["remove", "set"]
    refused(admin.delete("/credits", params={"user": name}), 404, "BALANCE_NOT_FOUND")


def test_nobodys_bound_is_lifted_by_a_request_that_names_nobody(admin: httpx2.Client) -> None:
    refused(admin.delete("/credits"), 422, "VALIDATION_ERROR", "user")
    refused(admin.delete("/credits", params={"usr": "ann"}), 422, "VALIDATION_ERROR", "usr")


def test_each_change_is_in_the_audit_log(admin: httpx2.Client, name: str) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 5, "reason": "start"}))
    ok(admin.post("/credits", json={"user": name, "credits": "0.1"}), 201)
    admin.delete("/credits", params={"user": name})
    told = [
        (entry["action"], entry["user_id"], entry["resource"], entry["metadata"])
        for entry in ok(admin.get("/api/v1/platform/audit"))["entries"]
        if entry["resource_id"] == f"acme/{name}"
    ]
    whose = {"organization": "acme", "user": name}
    assert told == [
        ("credits.remove", "root", "balance", {**whose, "reason": ""}),
        ("credits.add", "root", "balance", {**whose, "reason": "", "credits": "0.1"}),
        ("credits.set", "root", "balance", {**whose, "reason": "start", "credits": "5"}),
    ]


def test_all_balances_are_listed_in_pages_to_administrators(house: House, admin: httpx2.Client) -> None:
    for user in ("", "a", "b"):
        ok(admin.put("/credits", json={"organization": "0-listed", "balance": 1} | ({"user": user} if user else {})))
    first = ok(admin.get("/credits/balances", params={"limit": 2}))
    assert [(one["organization"], one["user"]) for one in first["balances"]] == [("0-listed", None), ("0-listed", "a")]
    assert first["has_more"] is True
    for after, expected in (({}, "a"), ({"after_user": "a"}, "b")):
        params: Json = {"limit": 1, "after_organization": "0-listed", **after}
        (one,) = ok(admin.get("/credits/balances", params=params))["balances"]
        assert one["user"] == expected


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/credits", {"balance": 1_000}),
        ("POST", "/credits", {"credits": 1_000}),
        ("DELETE", "/credits?user=ann", None),
        ("GET", "/credits/balances", None),
    ],
)
def test_only_administrators_change_balances_and_see_them_all(
    house: House, http: httpx2.Client, method: str, path: str, body: Json | None
) -> None:
    refused(http.request(method, path, json=body), 403, "FORBIDDEN")
    with house.client("reader", "read", scopes=("impersonate",)) as reader:
        refused(reader.request(method, path, json=body), 403, "FORBIDDEN")
    refused(httpx2.request(method, f"{house.url}{path}", json=body, trust_env=False), 401, "UNAUTHORIZED")


@pytest.mark.parametrize("path", ["", "/entries", "/usage", "/usage/models", "/records"])
def test_whom_somebody_may_not_name_is_refused_whether_there_is_such_a_one_or_not(
    house: House, admin: httpx2.Client, http: httpx2.Client, path: str
) -> None:
    ok(admin.put("/credits", json={"user": "ann", "balance": 1}))
    for user in ("ann", "nobody-at-all"):
        refused(http.get(f"/credits{path}", params={"user": user}), 403, "FORBIDDEN", "user")
    for organization in ("guild", "nothing-at-all"):
        refused(http.get(f"/credits{path}", params={"organization": organization}), 403, "FORBIDDEN", "organization")


def test_a_service_that_speaks_for_users_sees_their_balances_in_its_organization(
    house: House, admin: httpx2.Client, name: str
) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 2}))
    with house.client("service", scopes=("impersonate",)) as service:
        assert ok(service.get("/credits", params={"user": name}))["user"]["balance"] == 2
        refused(
            service.get("/credits", params={"user": name, "organization": "guild"}), 403, "FORBIDDEN", "organization"
        )


BAD = [
    "-1", "-0.000000001", '"-1"', "1e-10", '"1e5"', '"0.1234567890"', "1000000001", "1e300", '"1000000000.1"',
    "1" * 40, '"' + "1" * 5000 + '"', "true", "null", "[1]", '{"credits": 1}', '""', '" 1"', '"+1"', '"1,5"',
    '"\N{FULLWIDTH DIGIT ONE}"', '"NaN"', '"Infinity"', '"0x10"',
]  # fmt: skip


@pytest.mark.parametrize("amount", BAD)
def test_what_is_no_amount_is_refused_and_changes_nothing(admin: httpx2.Client, name: str, amount: str) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 1}))
    text = f'{{"user": "{name}", "balance": {amount}}}'.encode()
    answer = admin.put("/credits", content=text, headers={"content-type": "application/json"})
    assert refused(answer, 422, "VALIDATION_ERROR", "balance").startswith("balance: ")
    assert ok(admin.get("/credits", params={"organization": "acme", "user": name}))["user"]["balance"] == 1


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "01", "1."])
def test_what_is_no_json_number_is_refused_as_such(admin: httpx2.Client, name: str, amount: str) -> None:
    text = f'{{"user": "{name}", "balance": {amount}}}'.encode()
    answer = admin.put("/credits", content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
    assert ok(admin.get("/credits", params={"organization": "acme", "user": name}))["user"] is None


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", 0), ("-0.0", 0), ("1e5", 100_000), ("1e-9", 1e-09), ("0.1", 0.1), ('"0.000000001"', 1e-09),
        ("1000000000", 1_000_000_000), ('"999999.999999999"', 999999.999999999), ('"007.50"', 7.5),
    ],
)  # fmt: skip
def test_an_amount_is_kept_as_it_was_said(admin: httpx2.Client, name: str, amount: str, shown: float) -> None:
    text = f'{{"user": "{name}", "balance": {amount}}}'.encode()
    told = ok(admin.put("/credits", content=text, headers={"content-type": "application/json"}))
    assert told["balance"] == shown


def test_nothing_is_added_where_nothing_or_too_much_is_said(admin: httpx2.Client, name: str) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 999_999_999}))
    for credits, told in ((0, "must be more than 0"), (2, "a balance may be 1000000000 at most")):
        answer = admin.post("/credits", json={"user": name, "credits": credits})
        assert told in refused(answer, 422, "VALIDATION_ERROR", "credits")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"balance": 1, "user": ""}, "user"),
        ({"balance": 1, "user": "a\x00b"}, "user"),
        ({"balance": 1, "organization": "x" * 257}, "organization"),
        ({"balance": 1, "reason": "a\nb"}, "reason"),
        ({"balance": 1, "credits": 1}, "credits"),
        ({"balance": 1, "reserved": 5}, "reserved"),
        ({}, "balance"),
    ],
)
def test_a_body_says_whose_and_how_much_and_nothing_else(admin: httpx2.Client, body: Json, param: str) -> None:
    refused(admin.put("/credits", json=body), 422, "VALIDATION_ERROR", param)


# what runs consumed


def said(client: httpx2.Client) -> str:
    """The id of a run of the agent that costs something."""
    answer = client.post("/chat", json={"input": "Hi", "agent_name": "priced"})
    run_id: str = ok(answer)["run_id"]
    return run_id


def test_a_run_is_shown_with_its_tokens_their_cost_and_what_it_was_charged(
    admin: httpx2.Client, http: httpx2.Client, name: str
) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 10}))
    run_id = said(http)
    usage = ok(http.get("/credits/usage"))
    assert usage["has_more"] is False
    assert {(one["model"], one["input_tokens"], one["output_tokens"], one["cost"]) for one in usage["usage"]} == {
        ("openai:gpt-4o", 1000, 100, 0.0035),
        ("homemade", 7, 3, None),
    }
    assert {(one["run_id"], one["agent_name"], one["user"], one["user_id"]) for one in usage["usage"]} == {
        (run_id, "priced", name, name)
    }
    records = ok(http.get("/credits/records"))["records"]
    assert {(one["credits"], one["reason"], one["run_id"]) for one in records} == {
        (1, "pricing", run_id),
        (0.5, "a tool", run_id),
    }
    balance = ok(http.get("/credits"))["user"]
    assert (balance["balance"], balance["available"], balance["reserved"]) == (8.5, 8.5, 0)
    charged = ok(http.get("/credits/entries"))["entries"]
    assert ("charge", -1.5, 8.5, run_id, None) in [
        (one["kind"], one["credits"], one["balance"], one["run_id"], one["actor"]) for one in charged
    ]


def test_entries_are_in_the_order_in_which_they_came_about(
    admin: httpx2.Client, http: httpx2.Client, name: str
) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 10}))
    for _ in range(2):
        said(http)
        ok(admin.post("/credits", json={"user": name, "credits": 5}), 201)
    entries = ok(http.get("/credits/entries"))["entries"]
    assert [one["kind"] for one in entries] == ["add", "charge", "add", "charge", "set"]
    assert [one["balance"] for one in entries] == [17, 12, 13.5, 8.5, 10]
    paged: list[Json] = []
    while len(paged) < 5:
        after = {"after": paged[-1]["id"]} if paged else {}
        paged += ok(http.get("/credits/entries", params={"limit": 2, **after}))["entries"]
    assert paged == entries


def test_a_session_of_an_end_user_is_charged_to_that_user_however_it_is_named(
    house: House, admin: httpx2.Client, name: str
) -> None:
    ok(admin.put("/credits", json={"user": name, "balance": 2}))
    asked = {"input": "Hi", "agent_name": "priced", "session_id": name}
    with house.client(a_name(), scopes=["impersonate"]) as service:
        ok(service.post("/chat", json={**asked, "user_id": name}))
        refused(service.post("/chat", json=asked), 402, "INSUFFICIENT_CREDITS")
        ok(service.post("/chat", json={**asked, "session_id": a_name()}))
        entries = ok(service.get("/credits/entries", params={"user": name}))["entries"]
    assert [(one["kind"], one["credits"]) for one in entries] == [("charge", -1.5), ("set", 2)]


def test_a_balance_that_was_just_made_holds_for_the_next_run(
    admin: httpx2.Client, http: httpx2.Client, name: str
) -> None:
    said(http)
    ok(admin.put("/credits", json={"user": name, "balance": "0.99"}))
    answer = http.post("/chat", json={"input": "Hi", "agent_name": "priced"})
    assert "you have 0.99 left" in refused(answer, 402, "INSUFFICIENT_CREDITS")
    admin.delete("/credits", params={"user": name})
    said(http)


def test_what_models_consumed_in_a_period_is_summed_up(admin: httpx2.Client, http: httpx2.Client, name: str) -> None:
    for _ in range(3):
        said(http)
    today = datetime.now(UTC).date().isoformat()
    expected = [
        {"model": "homemade", "runs": 3, "input_tokens": 21, "output_tokens": 9, "cost": None},
        {"model": "openai:gpt-4o", "runs": 3, "input_tokens": 3000, "output_tokens": 300, "cost": 0.0105},
    ]
    for period in ({}, {"start_date": today}, {"start_date": "2020-01-01T00:00:00", "end_date": "9999-12-31"}):
        assert ok(http.get("/credits/usage/models", params=period))["models"] == expected
    assert ok(http.get("/credits/usage/models", params={"end_date": "2020-01-01"}))["models"] == []
    whose = {"organization": "acme", "user": name}
    assert ok(admin.get("/credits/usage/models", params=whose))["models"] == expected
    everybodys = ok(admin.get("/credits/usage/models"))["models"]
    assert [one["model"] for one in everybodys] == ["homemade", "openai:gpt-4o"]
    assert ok(admin.get("/credits/usage/models", params={"organization": "nothing-at-all"}))["models"] == []


@pytest.mark.parametrize(
    ("path", "params", "param"),
    [
        ("/usage/models", {"start_date": "yesterday"}, "start_date"),
        ("/usage/models", {"end_date": "2026-01-31T25:00:00"}, "end_date"),
        ("/usage/models", {"end_date": "2026-02-30"}, "end_date"),
        ("/usage", {"after": "run_x"}, "after"),
        ("/usage", {"limit": 201}, "limit"),
        ("/entries", {"after": "' OR 1=1"}, "after"),
        ("/records", {"limit": 0}, "limit"),
    ],
)
def test_a_query_that_cannot_be_is_refused(http: httpx2.Client, path: str, params: Json, param: str) -> None:
    refused(http.get(f"/credits{path}", params=params), 422, "VALIDATION_ERROR", param)


def test_administrators_see_everybodys_usage_or_that_of_one(
    admin: httpx2.Client, http: httpx2.Client, name: str
) -> None:
    run_id = said(http)
    assert run_id in [one["run_id"] for one in ok(admin.get("/credits/usage"))["usage"]]
    for place in ({"user": name}, {"organization": "acme", "user": name}):
        assert {one["run_id"] for one in ok(admin.get("/credits/usage", params=place))["usage"]} == {run_id}
        assert {one["run_id"] for one in ok(admin.get("/credits/records", params=place))["records"]} == {run_id}
    refused(admin.get("/credits/usage", params={"organization": "acme"}), 422, "VALIDATION_ERROR", "user")
