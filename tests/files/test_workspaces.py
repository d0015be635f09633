"""Workspaces over a real server: of sessions and of agents, by path and version, and who may do what there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.files.conftest import MAX_FILE, client_of
from tests.support.inns import Inn


def put(
    client: httpx2.Client, room: str, path: str = "a.txt", data: bytes = b"hello", **headers: str
) -> httpx2.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(f"/sessions/{room}/workspace/{path}", content=data, headers=named)


def listing(client: httpx2.Client, room: str) -> Any:
    return client.get(f"/sessions/{room}/workspace").json()


def done(client: httpx2.Client, room: str, *steps: Any, agent: str = "scribe") -> Any:
    answer = client.post("/chat", json={"agent_name": agent, "session_id": room, "input": json.dumps(steps)})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.json()["output"])


def test_a_workspace_begins_empty_and_lists_what_is_written(ann: httpx2.Client, room: str) -> None:
    assert listing(ann, room) == []
    first = put(ann, room, "notes/täglich.md", b"# a")
    assert (first.status_code, first.json()["version"]) == (201, 1)
    again = put(ann, room, "notes/täglich.md", b"# ab")
    assert (again.status_code, again.json()["version"]) == (200, 2)
    (told,) = listing(ann, room)
    assert told.pop("updated_at").endswith("Z")
    assert told == {
        "name": "täglich.md", "path": "notes/täglich.md", "size": 4, "media_type": "text/markdown", "version_count": 2,
    }  # fmt: skip


def test_an_older_version_is_read_by_its_number_as_long_as_it_is_kept(ann: httpx2.Client, room: str) -> None:
    for number in range(1, 5):
        put(ann, room, data=b"v%d" % number)
    where = f"/sessions/{room}/workspace/a.txt"
    assert ann.get(where).content == b"v4"
    assert ann.get(where, params={"version": 3}).content == b"v3"
    assert ann.get(where, params={"version": 1}).status_code == 404
    told = ann.get(where, params={"versions": "true"}).json()
    assert [(one["version"], one["is_current"]) for one in told["versions"]] == [(4, True), (3, False), (2, False)]


def test_zero_bytes_are_a_file_and_too_many_are_not(ann: httpx2.Client, room: str) -> None:
    assert put(ann, room, data=b"").status_code == 201
    empty = ann.get(f"/sessions/{room}/workspace/a.txt")
    assert (empty.status_code, empty.content) == (200, b"")
    assert put(ann, room, data=bytes(MAX_FILE)).status_code == 200
    assert put(ann, room, data=bytes(MAX_FILE + 1)).json()["error"]["code"] == "PAYLOAD_TOO_LARGE"

    def undeclared() -> Any:
        for _ in range(20):
            yield bytes(4096)

    answer = ann.put(f"/sessions/{room}/workspace/a.txt", content=undeclared())
    assert answer.status_code == 413
    assert listing(ann, room)[0]["size"] == MAX_FILE


def test_conditions_of_a_write_are_kept_by_one_of_many(ann: httpx2.Client, room: str) -> None:
    assert put(ann, room, if_match='"x"').status_code == 412
    tag = put(ann, room, if_none_match="*").headers["etag"]
    assert put(ann, room, if_none_match="*").status_code == 412
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: put(ann, room, data=b"%d" % number, if_match=tag), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    where = f"/sessions/{room}/workspace/a.txt"
    assert ann.delete(where, headers={"if-match": tag}).status_code == 412
    assert ann.delete(where, headers={"if-match": ann.head(where).headers["etag"]}).status_code == 204
    assert ann.delete(where).status_code == 404


def test_a_file_is_sent_in_part_and_told_by_its_head(ann: httpx2.Client, room: str) -> None:
    put(ann, room, data=b"0123456789")
    where = f"/sessions/{room}/workspace/a.txt"
    part = ann.get(where, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content, part.headers["x-file-version"]) == (206, b"234", "1")
    assert part.headers["content-disposition"].startswith("attachment;")
    head = ann.head(where)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    assert ann.get(where, headers={"if-none-match": head.headers["etag"]}).status_code == 304


def test_another_tenants_session_answers_as_one_that_never_was(
    ann: httpx2.Client, eve: httpx2.Client, room: str
) -> None:
    put(ann, room)
    for method, tail in (("GET", ""), ("GET", "/a.txt"), ("HEAD", "/a.txt"), ("PUT", "/a.txt"), ("DELETE", "/a.txt")):
        answers = [eve.request(method, f"/sessions/{one}/workspace{tail}") for one in (room, "s" * len(room))]
        assert [one.status_code for one in answers] == [404, 404], (method, tail)
        told = [one.json()["error"]["code"] if one.content else None for one in answers]
        assert told[0] == told[1]
    assert ann.get(f"/sessions/{room}/workspace/a.txt").content == b"hello"


def test_a_session_that_goes_gives_back_the_room_of_its_files(inn: Inn) -> None:
    with client_of(inn, "mover", "moving") as client:
        for _ in range(2):
            room = client.post("/sessions", json={}).json()["id"]
            for number in range(16):
                assert put(client, room, f"{number}", bytes(MAX_FILE)).status_code == 201
            assert put(client, room, "more", bytes(MAX_FILE)).json()["error"]["code"] == "QUOTA_EXCEEDED"
            assert client.delete(f"/sessions/{room}").status_code == 204


def test_an_agents_files_are_written_by_administrators_and_read_by_callers(
    ann: httpx2.Client, boss: httpx2.Client
) -> None:
    where = "/agents/scribe/workspace/rules.md"
    assert ann.put(where, content=b"mine").status_code == 403
    assert boss.put(where, content=b"be brief").status_code == 201
    assert ann.get(where).content == b"be brief"
    assert [one["path"] for one in ann.get("/agents/scribe/workspace").json()] == ["rules.md"]
    assert ann.delete(where).status_code == 403
    audit = boss.get("/api/v1/platform/audit").json()["entries"]
    assert (audit[0]["action"], audit[0]["resource_id"]) == ("workspace.write", "scribe") or any(
        entry["action"] == "workspace.write" for entry in audit
    )
    assert ann.get("/agents/nobody/workspace").status_code == 404
    assert ann.get("/agents/echo/workspace").json() == []


def test_an_agent_reads_and_writes_its_sessions_files_and_reads_its_own(
    ann: httpx2.Client, boss: httpx2.Client, room: str
) -> None:
    boss.put("/agents/scribe/workspace/own.txt", content=b"of the operator")
    put(ann, room, "in.txt", b"from outside")
    told = done(
        ann, room, ["list"], ["read", "in.txt"], ["write", "out.txt", "made"], ["write", "out.txt", "again"],
        ["read-agents", "own.txt"], ["delete", "in.txt"], ["list"],
    )  # fmt: skip
    assert told == [["in.txt"], "from outside", 1, 2, "of the operator", None, ["out.txt"]]
    versions = ann.get(f"/sessions/{room}/workspace/out.txt", params={"versions": "true"}).json()["versions"]
    assert all(one["author"].startswith("run_") for one in versions)


def test_what_is_done_in_a_checkout_is_in_the_workspace_afterwards(inn: Inn, ann: httpx2.Client, room: str) -> None:
    for name in ("same.txt", "changed.txt", "gone.txt"):
        put(ann, room, name, name.encode())
    changes = {"changed.txt": "new", "gone.txt": None, "made/here.txt": "made"}
    assert done(ann, room, ["checkout", changes]) == [False]
    told = {one["path"]: one["version_count"] for one in listing(ann, room)}
    assert told == {"same.txt": 1, "changed.txt": 2, "made/here.txt": 1}
    left = inn.app.kernel.settings.data_dir / "checkouts"
    assert [path for path in left.rglob("*") if path.is_file() and path.suffix != ".process"] == []


def test_sync_agents_and_agents_on_loops_of_their_own_have_the_same_files(ann: httpx2.Client, room: str) -> None:
    answer = ann.post("/chat", json={"agent_name": "sync-scribe", "session_id": room, "input": "go"})
    assert answer.json()["output"] == "more.txt=WRITTEN IN A THREAD, note.txt=written in a thread"
    answer = ann.post("/chat", json={"agent_name": "isolated-scribe", "session_id": room, "input": "go"})
    assert answer.json()["output"] == "from afar"


@pytest.mark.parametrize("endpoint", ["/chat/with-files", "/chat/stream/with-files"])
def test_files_of_a_turn_join_the_workspace_and_reach_the_agent(
    inn: Inn, ann: httpx2.Client, room: str, endpoint: str
) -> None:
    inn.seen.clear()
    picture = b"\x89PNG\r\n\x1a\n" + bytes(20)
    files = [
        ("files", ("../../x.png", picture, "text/html")),
        ("files", ("a.txt", b"some text", "image/png")),
        ("files[]", ("a.txt", b"other", "text/plain")),
        ("files", ("data.bin", b"\0\1\2", "text/plain")),
    ]
    form = {"message": "look", "session_id": room, "agent_name": "echo"}
    answer = ann.post(endpoint, files=files, data=form)
    assert answer.status_code == 200, answer.text
    assert sorted(one["path"] for one in listing(ann, room)) == ["a-2.txt", "a.txt", "data.bin", "x.png"]
    look, shown, text, other, named = inn.seen[-1][-1]["content"]
    assert look == {"type": "text", "text": "look"}
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"].endswith("\nsome text") and other["text"].endswith("\nother")
    assert named["text"] == "[file data.bin, application/octet-stream, 3 bytes, in the workspace]"


def test_a_turn_with_files_begins_a_session_where_none_is_named(ann: httpx2.Client) -> None:
    answer = ann.post(
        "/chat/with-files", files={"files": ("a.txt", b"x")}, data={"message": "hi", "agent_name": "echo"}
    )
    session_id = answer.json()["session_id"]
    assert [one["path"] for one in listing(ann, session_id)] == ["a.txt"]
    none = ann.post("/chat/with-files", data={"message": "hi", "agent_name": "echo"}, files={"note": (None, b"none")})
    assert none.status_code == 200


def test_a_turn_with_files_that_is_wrong_names_the_field_and_keeps_nothing(ann: httpx2.Client, room: str) -> None:
    file = {"files": ("a.txt", b"x")}
    for form, status in (
        ({"session_id": room}, 422),
        ({"session_id": room, "message": " "}, 422),
        ({"session_id": room, "message": "hi", "agent_name": "nobody"}, 404),
        ({"session_id": room, "message": "hi", "when_busy": "steer"}, 422),
        ({"session_id": "a/b", "message": "hi"}, 422),
    ):
        assert ann.post("/chat/with-files", files=file, data=form).status_code == status, form
    many = [("files", (f"{number}", b"x")) for number in range(11)]
    assert ann.post("/chat/with-files", files=many, data={"message": "hi", "session_id": room}).status_code == 422
    large = {"files": ("a.txt", bytes(MAX_FILE + 1))}
    assert ann.post("/chat/with-files", files=large, data={"message": "hi", "session_id": room}).status_code == 413
    assert listing(ann, room) == []


def test_the_same_turn_with_files_again_writes_nothing_again(ann: httpx2.Client, room: str) -> None:
    form, key = {"message": "hi", "session_id": room, "agent_name": "echo"}, {"Idempotency-Key": f"turn-{room}"}
    first, again = (
        ann.post("/chat/with-files", files={"files": ("a.txt", b"x")}, data=form, headers=key) for _ in range(2)
    )
    assert first.json()["run_id"] == again.json()["run_id"]
    assert [one["version_count"] for one in listing(ann, room)] == [1]


def test_a_download_that_goes_on_after_the_file_has_changed_is_refused(ann: httpx2.Client, room: str) -> None:
    where = f"/sessions/{room}/workspace/growing.txt"
    tag = ann.put(where, content=b"the first").headers["etag"]
    begun = ann.get(where, headers={"range": "bytes=0-3", "if-match": f'"other", {tag}'})
    assert (begun.status_code, begun.content) == (206, b"the ")
    ann.put(where, content=b"the second")
    for headers in ({"range": "bytes=4-", "if-match": tag}, {"if-match": tag}):
        refused = ann.get(where, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (412, "PRECONDITION_FAILED")


def test_a_write_over_one_of_several_versions_is_refused_and_says_what_to_send(ann: httpx2.Client, room: str) -> None:
    where = f"/sessions/{room}/workspace/chosen.txt"
    tag = ann.put(where, content=b"x").headers["etag"]
    for send in (ann.put, ann.delete):
        refused = send(where, headers={"if-match": f'"other", {tag}'})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "If-Match")
    assert ann.get(where).content == b"x"
