"""Hostile requests: what unpacks without an end, places beyond any, and what belongs to another end user."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import httpx2
import pytest

from tests.support.inns import Inn


def compaction(content: Any) -> dict[str, Any]:
    packed = base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()
    return {"type": "compaction", "encrypted_content": f"ik1.{packed}"}


def respond(plain: httpx2.Client, **body: Any) -> httpx2.Response:
    return plain.post("/v1/responses", json={"model": "echo", **body})


def test_compactions_of_one_request_have_one_bound_together(plain: httpx2.Client) -> None:
    large = compaction([{"role": "user", "content": "a" * 6_000_000}])
    many = compaction([{"role": "user", "content": ""}] * 6_000)
    for item, bound in ((large, "10485760 bytes in all"), (many, "10000 messages in all")):
        refused = respond(plain, input=[item, item])
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "input[1].encrypted_content"
        assert bound in refused.json()["error"]["message"]
    assert respond(plain, input=[compaction([{"role": "user", "content": "Hi"}])] * 3).status_code == 200


@pytest.mark.parametrize("position", [2**53 + 1, 2**63, 10**22])
def test_place_beyond_any_is_that_of_no_item(plain: httpx2.Client, position: int) -> None:
    talk = plain.post("/v1/conversations", json={"items": [{"role": "user", "content": "Hi"}]}).json()
    path = f"/v1/conversations/{talk['id']}/items"
    mark = plain.get(path).json()["first_id"].rpartition("_")[0]
    beyond = f"{mark}_{position}p0"
    assert plain.get(f"{path}/{beyond}").status_code == 404
    for order in ("asc", "desc"):
        refused = plain.get(path, params={"after": beyond, "order": order})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "after")


@pytest.mark.parametrize("store", [True, False])
def test_response_of_another_end_user_is_as_one_that_never_was(inn: Inn, plain: httpx2.Client, store: bool) -> None:
    of_bob = respond(plain, input="What Bob says.", user="bob").json()
    item = {"type": "item_reference", "id": of_bob["output"][0]["id"]}
    inn.seen.clear()
    followed = respond(plain, input="And?", user="alice", previous_response_id=of_bob["id"], store=store)
    assert followed.json()["error"]["code"] == "previous_response_not_found"
    referred = respond(plain, input=[item, {"role": "user", "content": "And?"}], user="alice", store=store)
    assert (referred.status_code, referred.json()["error"]["param"]) == (400, "input[0].id")
    assert inn.seen == []
    for fields in ({"user": "bob"}, {}):
        assert respond(plain, input=[item, {"role": "user", "content": "And?"}], **fields).status_code == 200
        told = respond(plain, input="And?", previous_response_id=of_bob["id"], store=store, **fields)
        assert told.status_code == 200
        assert inn.seen[-1][0]["content"] == "What Bob says."
