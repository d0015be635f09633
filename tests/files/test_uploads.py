"""`/v1/files` over a real server: what is uploaded, listed, read in parts and removed, and what is refused."""

from __future__ import annotations

import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic_ai.messages import BinaryContent

from innkeeper.core.messages import Message
from innkeeper.runtimes.pydantic_ai_messages import converse
from tests.files.conftest import MAX_FILE, client_of
from tests.support.inns import Inn

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def upload(client: httpx2.Client, data: bytes = b"hello", name: str = "a.txt", /, **fields: Any) -> httpx2.Response:
    headers = fields.pop("headers", None)
    form = {"purpose": "user_data", **fields}
    return client.post("/v1/files", files={"file": (name, data, "text/html")}, data=form, headers=headers)


def uploaded(client: httpx2.Client, data: bytes = b"hello", name: str = "a.txt", /, **fields: Any) -> dict[str, Any]:
    answer = upload(client, data, name, **fields)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def content(client: httpx2.Client, file_id: str, **headers: str) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/v1/files/{file_id}/content", headers=named)


def test_a_file_is_told_listed_read_and_removed_as_openai_has_it(ann: httpx2.Client) -> None:
    told = uploaded(ann, b"hello", "notes.txt")
    assert told["object"] == "file" and told["bytes"] == 5 and told["filename"] == "notes.txt"
    assert told["id"].startswith("file-") and told["status"] == "processed" and told["expires_at"] is None
    assert ann.get(f"/v1/files/{told['id']}").json() == told
    listed = ann.get("/v1/files", params={"limit": 1}).json()
    assert (listed["object"], listed["data"], listed["first_id"]) == ("list", [told], told["id"])
    assert content(ann, told["id"]).content == b"hello"
    gone = ann.delete(f"/v1/files/{told['id']}").json()
    assert gone == {"id": told["id"], "object": "file", "deleted": True}
    for answer in (ann.get(f"/v1/files/{told['id']}"), content(ann, told["id"])):
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "FILE_NOT_FOUND"


def test_pages_lead_from_the_newest_to_the_oldest_and_back(inn: Inn) -> None:
    with client_of(inn, "pages", "acme") as client:
        ids = [uploaded(client, b"x", f"{number}")["id"] for number in range(3)]
        first = client.get("/v1/files", params={"limit": 2}).json()
        assert ([one["id"] for one in first["data"]], first["has_more"]) == (ids[:0:-1], True)
        last = client.get("/v1/files", params={"limit": 2, "after": first["last_id"]}).json()
        assert ([one["id"] for one in last["data"]], last["has_more"]) == (ids[:1], False)
        assert client.get("/v1/files", params={"order": "asc"}).json()["first_id"] == ids[0]
        assert client.get("/v1/files", params={"purpose": "vision"}).json()["data"] == []


def test_another_tenants_file_answers_as_one_that_never_was(ann: httpx2.Client, eve: httpx2.Client) -> None:
    there, nowhere = uploaded(ann)["id"], "file-0197f0c0a1b27c3d8e4f5a6b7c8d9eaf"
    for method, tail in (("GET", ""), ("GET", "/content"), ("HEAD", "/content"), ("DELETE", "")):
        answers = [eve.request(method, f"/v1/files/{one}{tail}") for one in (there, nowhere)]
        assert [one.status_code for one in answers] == [404, 404]
        errors = [one.json()["error"] if one.content else None for one in answers]
        assert errors[0] == errors[1]
    part = {"type": "input_file", "file_id": there}
    for one in (there, nowhere):
        answer = eve.post("/chat", json={"agent_name": "echo", "input": [{**part, "file_id": one}]})
        assert answer.status_code == 422 and answer.json()["error"]["param"] == "file_id"
    assert all(one["id"] != there for one in eve.get("/v1/files").json()["data"])


def test_contents_are_never_a_page_of_this_server(ann: httpx2.Client) -> None:
    lies = {
        "x.html": b"<script>alert(1)</script>",
        "x.svg": b"<svg onload='alert(1)'/>",
        "x.png": b"<script>alert(1)</script>",
        "x.jpg": b"%PDF-1.4",
    }
    kinds = {}
    for name, data in lies.items():
        answer = content(ann, uploaded(ann, data, name)["id"])
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        kinds[name] = answer.headers["content-type"].partition(";")[0]
    assert kinds["x.png"] == "application/octet-stream"
    assert kinds["x.jpg"] == "application/pdf"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../canary", "canary"),
        ("..\\..\\canary", "canary"),
        ("/etc/passwd", "passwd"),
        ("C:\\boot.ini", "boot.ini"),
        ("..", "file"),
        ("a\rb.txt", "a_b.txt"),
        ("NUL.txt", "_NUL.txt"),
        ("täglich.txt", "täglich.txt"),
        ("x. . .", "x"),
    ],
)
def test_a_files_name_is_one_harmless_segment(ann: httpx2.Client, name: str, kept: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n--b\r\n'
    body += b'Content-Disposition: form-data; name="file"; filename="' + name.encode().replace(b"\\", b"\\\\") + b'"'
    body += b"\r\n\r\nx\r\n--b--\r\n"
    told = ann.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    if "\r" in name:
        assert told.status_code == 400
        return
    assert told.status_code == 200, told.text
    assert told.json()["filename"] == kept
    head = content(ann, told.json()["id"]).headers["content-disposition"]
    assert "\r" not in head and "\n" not in head


def test_a_part_of_the_contents_is_sent_where_one_is_asked_for(ann: httpx2.Client) -> None:
    data = bytes(range(256)) * 20
    file_id = uploaded(ann, data)["id"]
    for wanted, first, last in (
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=5000-", 5000, 5119),
        ("bytes=-20", 5100, 5119),
        ("bytes=-99999", 0, 5119),
        ("bytes=5000-99999999", 5000, 5119),
    ):
        answer = content(ann, file_id, range=wanted)
        assert answer.status_code == 206, wanted
        assert answer.headers["content-range"] == f"bytes {first}-{last}/5120"
        assert answer.content == data[first : last + 1]
    for beyond in ("bytes=5120-", "bytes=9999-10000", "bytes=-0"):
        answer = content(ann, file_id, range=beyond)
        assert answer.status_code == 416, beyond
        assert answer.headers["content-range"] == "bytes */5120"


def test_several_parts_and_nonsense_are_answered_with_the_whole_once(ann: httpx2.Client) -> None:
    data = bytes(5120)
    file_id = uploaded(ann, data)["id"]
    for wanted in (
        "bytes=" + ",".join(["0-"] * 1300),
        "bytes=0-1,2-3",
        "bytes=9-3",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=" + "9" * 40 + "-",
    ):
        answer = content(ann, file_id, range=wanted)
        assert (answer.status_code, len(answer.content)) == (200, 5120), wanted


def test_a_tag_spares_what_the_client_has_and_decides_about_parts(ann: httpx2.Client) -> None:
    file_id = uploaded(ann, b"hello")["id"]
    tag = content(ann, file_id).headers["etag"]
    assert tag == f'"{hashlib.sha256(b"hello").hexdigest()}"'
    for known in (tag, f'"x", W/{tag}', "*"):
        answer = content(ann, file_id, if_none_match=known)
        assert (answer.status_code, answer.content) == (304, b"")
    assert content(ann, file_id, if_none_match='"x"').status_code == 200
    assert content(ann, file_id, range="bytes=0-1", if_range=tag).status_code == 206
    assert content(ann, file_id, range="bytes=0-1", if_range='"x"').status_code == 200
    head = ann.head(f"/v1/files/{file_id}/content", headers={"range": "bytes=0-1"})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "5", b"")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "mischief"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"expires_after[seconds]": "10"}, "expires_after[seconds]"),
        ({"expires_after[seconds]": "1e5"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "last_active_at"}, "expires_after[anchor]"),
    ],
)
def test_a_form_that_is_wrong_is_refused_by_its_field(ann: httpx2.Client, fields: dict[str, str], param: str) -> None:
    answer = upload(ann, b"x", "x", **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_file_with_an_end_tells_when_that_is(ann: httpx2.Client) -> None:
    told = uploaded(ann, b"x", "x", **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert told["expires_at"] == told["created_at"] + 3600


def test_without_a_file_with_two_or_with_none_in_it_nothing_is_made(ann: httpx2.Client) -> None:
    before = ann.get("/v1/files").json()["first_id"]
    two = [("file", ("a", b"a")), ("file", ("b", b"b"))]
    answers = [
        ann.post("/v1/files", files={"other": ("a", b"a")}, data={"purpose": "batch"}),
        ann.post("/v1/files", files=two, data={"purpose": "batch"}),
        ann.post("/v1/files", files={"file": ("a", b"a")}),
        upload(ann, b""),
    ]
    assert [answer.status_code for answer in answers] == [400] * 4
    assert ann.post("/v1/files", json={}).status_code == 415
    assert ann.get("/v1/files").json()["first_id"] == before


def test_what_is_too_large_is_refused_with_and_without_a_length(ann: httpx2.Client) -> None:
    assert uploaded(ann, bytes(MAX_FILE))["bytes"] == MAX_FILE
    answer = upload(ann, bytes(MAX_FILE + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")

    def endless() -> Any:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(40):
            yield bytes(4096)

    answer = ann.post("/v1/files", content=endless(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    declared = raw_exchange(ann, b"Content-Length: 99999999999\r\n")
    assert b" 413 " in declared.split(b"\r\n")[0]


@pytest.mark.parametrize("cut", [0, 20, 90, 130, 20_000])
def test_an_upload_that_is_cut_makes_no_file(ann: httpx2.Client, cut: int) -> None:
    before = ann.get("/v1/files").json()["first_id"]
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + bytes(30_000)
    raw_exchange(ann, f"Content-Length: {len(form) + 8}\r\n".encode(), form[:cut], waits=False)
    ended = ann.post("/v1/files", content=form[: cut + 1], headers={"content-type": "multipart/form-data; boundary=b"})
    assert (ended.status_code, ended.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert ann.get("/v1/files").json()["first_id"] == before


def raw_exchange(client: httpx2.Client, headers: bytes, body: bytes = b"", *, waits: bool = True) -> bytes:
    """What a server answers to a request that no client library would send."""
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        token = client.headers["authorization"].encode()
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: " + token + b"\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n" + headers + b"\r\n" + body
        )
        return connection.recv(4096) if waits else b""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--c\r\n\r\n",
        b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: attachment; name="file"\r\n\r\nz\r\n--b--\r\n',
        b"--b\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(50)) + b"\r\nz\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="' + b"n" * 9000 + b'"\r\n\r\nz\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + b"n" * 2000 + b'"\r\n\r\nz\r\n--b--\r\n',
    ],
)
def test_a_body_that_is_no_form_is_refused(ann: httpx2.Client, body: bytes) -> None:
    answer = ann.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400, answer.text


def test_fields_are_bounded_in_number_and_size(ann: httpx2.Client) -> None:
    field = b'--b\r\nContent-Disposition: form-data; name="x%d"\r\n\r\ny\r\n'
    many = b"".join(field % number for number in range(60)) + b"--b--\r\n"
    large = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + bytes(1024 * 1024 + 1) + b"\r\n--b--\r\n"
    for body in (many, large):
        answer = ann.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
        assert answer.status_code in (400, 413)


def test_the_same_request_again_makes_no_second_file(ann: httpx2.Client) -> None:
    key = {"Idempotency-Key": "files-1"}
    first, again = (upload(ann, b"once", headers=key) for _ in range(2))
    assert first.json() == again.json() and again.headers["idempotent-replayed"] == "true"
    assert upload(ann, b"other", headers=key).json()["error"]["code"] == "IDEMPOTENCY_MISMATCH"


def test_twenty_uploads_at_once_never_exceed_the_quota(inn: Inn) -> None:
    with client_of(inn, "crowd", "small") as client:
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: upload(client, bytes(60_000)), range(20)))
        kept = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(kept) <= 17
        assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(413, "QUOTA_EXCEEDED")}
        for one in kept:
            client.delete(f"/v1/files/{one.json()['id']}")
        assert upload(client, bytes(60_000)).status_code == 200


def test_who_may_only_read_uploads_and_removes_nothing(inn: Inn, ann: httpx2.Client) -> None:
    with client_of(inn, "reader", "acme", "read") as reader:
        assert upload(reader).status_code == 403
        assert reader.get("/v1/files").status_code == 200
        assert reader.delete("/v1/files/file-x").status_code == 403


def test_an_agent_is_handed_what_a_message_names_by_its_id(inn: Inn, ann: httpx2.Client) -> None:
    picture, text = uploaded(ann, PNG, "p.png"), uploaded(ann, b"hello", "a.txt")
    inn.seen.clear()
    said = [
        {"type": "text", "text": "look"},
        {"type": "input_file", "file_id": picture["id"]},
        {"type": "file", "file": {"file_id": text["id"]}},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/secret.png"}},
        {"type": "input_image", "file_id": picture["id"]},
    ]
    answer = ann.post("/chat", json={"agent_name": "echo", "input": said, "session_id": "with-ids"})
    assert answer.status_code == 200, answer.text
    look, shown, file, link, same = inn.seen[-1][-1]["content"]
    assert look == said[0] and link == said[3] and same == shown
    assert shown["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert file == {"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8="}}
    ann.delete(f"/v1/files/{picture['id']}")
    ann.post("/chat", json={"agent_name": "echo", "input": "again", "session_id": "with-ids"})
    assert "deleted" in inn.seen[-1][-3]["content"][1]["text"]


def test_a_model_of_pydantic_ai_is_handed_the_contents() -> None:
    part = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ="}}
    prompt = converse([Message("user", (part,))]).prompt
    assert prompt is not None
    (content_of_file,) = prompt
    assert isinstance(content_of_file, BinaryContent)
    assert (content_of_file.data, content_of_file.media_type) == (b"%PDF-1.4", "application/pdf")
