"""Forms that are not what they should be, and messages that name what they should not."""

from __future__ import annotations

import time

import httpx2
import pytest

from tests.support.sizes import within

BOUNDARY = "--edge\r\n"
DISPOSITION = 'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n'
PURPOSE = 'Content-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'


def posted(client: httpx2.Client, body: str) -> httpx2.Response:
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    return client.post("/v1/files", content=body.encode(), headers=headers)


@pytest.mark.parametrize("encoding", ["base64", "Quoted-Printable"])
def test_a_part_that_is_encoded_is_refused_and_not_kept_as_it_came(ann: httpx2.Client, encoding: str) -> None:
    part = f"{BOUNDARY}{DISPOSITION}Content-Transfer-Encoding: {encoding}\r\n\r\naGVsbG8=\r\n"
    answer = posted(ann, f"{part}{BOUNDARY}{PURPOSE}--edge--\r\n")
    assert answer.status_code == 400, answer.text
    assert "Content-Transfer-Encoding" in answer.text


def test_a_boundary_that_is_almost_one_is_a_part_of_the_contents(ann: httpx2.Client) -> None:
    inside = "one\r\n--edg\r\n--edgE--\r\ntwo"
    answer = posted(ann, f"{BOUNDARY}{DISPOSITION}\r\n{inside}\r\n{BOUNDARY}{PURPOSE}--edge--\r\nwhat follows the end")
    assert answer.status_code == 200, answer.text
    assert ann.get(f"/v1/files/{answer.json()['id']}/content").text == inside


def test_fields_that_follow_the_file_count(ann: httpx2.Client) -> None:
    answer = posted(ann, f"{BOUNDARY}{DISPOSITION}\r\nhello\r\n{BOUNDARY}{PURPOSE}--edge--")
    assert (answer.status_code, answer.json()["purpose"]) == (200, "user_data")


def test_a_browsers_form_in_which_no_file_was_chosen_is_a_plain_turn(ann: httpx2.Client, room: str) -> None:
    fields = {"message": "[]", "session_id": room, "agent_name": "scribe"}
    parts = "".join(f'{BOUNDARY}Content-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items())
    empty = f'{BOUNDARY}Content-Disposition: form-data; name="files"; filename=""\r\n\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    answer = ann.post("/chat/with-files", content=f"{parts}{empty}--edge--".encode(), headers=headers)
    assert answer.status_code == 200, answer.text
    assert ann.get(f"/sessions/{room}/workspace").json() == []


def test_a_path_in_a_message_keeps_nobody_waiting_however_long_it_is(ann: httpx2.Client, room: str) -> None:
    part = {"type": "input_file", "workspace_file": {"path": "a" + "\u0301\u0327" * 40_000}}
    begun = time.monotonic()
    answer = ann.post("/chat", json={"agent_name": "echo", "input": [part], "session_id": room})
    assert answer.status_code in (200, 422), answer.text
    assert time.monotonic() - begun < within(4, 20)


def test_a_turn_with_files_may_be_in_the_background(ann: httpx2.Client, room: str) -> None:
    fields = {"message": "read", "session_id": room, "agent_name": "echo", "background": "true"}
    accepted = ann.post("/chat/with-files", data=fields, files=[("files", ("notes.txt", b"hello"))])
    assert accepted.status_code == 202, accepted.text
    run = ann.get(f"/runs/{accepted.json()['run_id']}", params={"wait": 10}).json()
    assert (run["status"], run["background"]) == ("completed", True)
    assert "notes.txt" in run["output"]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/chat/with-files", "background", "yes"),
        ("/chat/stream/with-files", "background", "true"),
        ("/chat/with-files", "on_disconnect", "perish"),
    ],
)
def test_a_wish_that_a_form_cannot_have_is_refused_by_its_name(
    ann: httpx2.Client, room: str, path: str, field: str, value: str
) -> None:
    fields = {"message": "read", "session_id": room, "agent_name": "echo", field: value}
    refused = ann.post(path, data=fields, files=[("files", ("notes.txt", b"hello"))])
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, field), refused.text
    assert ann.get(f"/sessions/{room}/workspace").json() == []
