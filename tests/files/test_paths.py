"""Hundreds of spellings of paths, over raw sockets: no byte from outside a workspace, and nothing written outside."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from innkeeper.core.errors import Invalid
from innkeeper.core.paths import MAX_CHARACTERS, checked, safe_name
from tests.support.inns import Inn

CANARY = "canary-outside-of-every-workspace"
_DOTS = (
    "..",
    "%2e%2e",
    "%2E%2e",
    ".%2e",
    "%252e%252e",
    "..%00",
    "..%0a",
    "%c0%ae%c0%ae",
    "%e0%80%ae.",
    "．．",
    "..;",
    "....",
)
_SLASHES = ("/", "%2f", "%5c", "\\", "//", "%252f", "%c0%af", "∕", "/./")
_TARGETS = ("canary.txt", "blobs/canary.txt", "innkeeper.db")


def spellings(data_dir: Path) -> Iterator[str]:
    for dots, slash, depth in itertools.product(_DOTS, _SLASHES, (1, 3)):
        yield (dots + slash) * depth + "canary.txt"
    for target in _TARGETS:
        yield from (f"{data_dir}/{target}", f"/{data_dir}/{target}", f"%2f{str(data_dir)[1:]}/{target}")
        yield from (f"file://{data_dir}/{target}", f"a/../../../{target}", f"C:\\{target}", f"\\\\host\\{target}")
    yield from ("link", "link/canary.txt", "fifo", "~/canary.txt", "$HOME", "%00", "a%00.txt", "a%0d%0ab", "%", "%zz")
    yield from (
        ".",
        "..",
        "./a.txt",
        "a/./b",
        "a//b",
        "a/",
        " ",
        "a%20",
        "a.",
        "a%2e",
        "a%20/b",
        "CON",
        "con.txt",
        "aux.a.b",
    )
    yield from ("a:b", "a.txt::$DATA", "a*", "a?b".replace("?", "%3f"), "a|b", "<a>", '"a"'.replace('"', "%22"))
    yield from ("%ed%a0%80", "%ff", "%e2%80%ae", "%ef%bb%bfa", "x" * 600, "x" * 256, "/".join(["y" * 100] * 6), "\x7f")
    yield from ("COM1", "LPT9.txt", "NUL%20.txt", "COM%c2%b9")


@pytest.fixture(scope="module")
def spelled(inn: Inn) -> list[str]:
    """With what must not be reached in its place: beside the files, and behind a link among them."""
    data_dir = inn.app.kernel.settings.data_dir
    for folder in (data_dir, data_dir.parent, data_dir / "blobs"):
        (folder / "canary.txt").write_text(CANARY)
    (data_dir / "blobs" / "link").symlink_to(data_dir)
    found = list(dict.fromkeys(spellings(data_dir)))
    assert len(found) >= 250
    return found


def asked(client: httpx2.Client, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    """What is answered to a target that is sent exactly as it is spelled."""
    address = urlsplit(str(client.base_url))
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.putrequest(method, "/", skip_accept_encoding=True)
        line = f"{method} {target} HTTP/1.1".encode()
        connection._buffer[0] = line  # type: ignore[attr-defined]  # the library would refuse to send some of them
        connection.putheader("Authorization", client.headers["authorization"])
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_no_spelling_reads_anything_outside(ann: httpx2.Client, room: str, spelled: list[str]) -> None:
    base = f"/sessions/{room}/workspace/"
    assert asked(ann, "PUT", f"{base}%68ere/a..b.txt", b"within")[0] == 201
    assert asked(ann, "GET", f"{base}here%2Fa..b.txt") == (200, b"within")
    for path in spelled:
        status, told = asked(ann, "GET", base + path)
        assert CANARY.encode() not in told, path
        assert b"SQLite format" not in told, path
        assert status in (400, 404), (path, status)
    for path in spelled[::5]:
        status, told = asked(ann, "GET", f"/agents/echo/workspace/{path}")
        assert status in (400, 404) and CANARY.encode() not in told, path


def test_no_spelling_writes_or_removes_anything_outside(
    inn: Inn, ann: httpx2.Client, room: str, spelled: list[str]
) -> None:
    data_dir = inn.app.kernel.settings.data_dir
    before = outside(data_dir)
    for path in spelled[::2]:
        status, _ = asked(ann, "PUT", f"/sessions/{room}/workspace/{path}", b"overwritten")
        assert status in (201, 200, 400, 404, 405, 422), (path, status)
        assert asked(ann, "DELETE", f"/sessions/{room}/workspace/{path}")[0] in (204, 400, 404, 405), path
    assert outside(data_dir) == before


def outside(data_dir: Path) -> dict[Path, bytes]:
    """What lies where no workspace's file may."""
    return {path: path.read_bytes() for path in data_dir.parent.rglob("canary.txt")}


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b.txt",
        ".env",
        "täglich/über.md",
        "日本語.txt",
        "a b.txt",
        "…/x",
        "a" * 255,
        "COM10",
        "console",
        "aux2/b",
    ],
)
def test_plain_paths_are_taken_and_are_the_same_when_taken_again(path: str) -> None:
    assert checked(checked(path)) == checked(path)


def test_two_spellings_of_one_letter_are_one_path(ann: httpx2.Client, room: str) -> None:
    ann.put(f"/sessions/{room}/workspace/{quote('é.txt')}", content=b"one")
    ann.put(f"/sessions/{room}/workspace/{quote('é.txt')}", content=b"two")
    assert [one["version_count"] for one in ann.get(f"/sessions/{room}/workspace").json()] == [2]


@pytest.mark.parametrize(
    "path",
    [
        "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\\b", "a\0", "a\n", "a\x7f", "a\u0085",
        "a\u202eb", "a\u2028b", "\ufeffa", "a.", "a ", "a. /b", "CON", "con.txt", "NUL", "aux", "COM1.tar.gz", "lpt9",
        "PRN .txt", "a:b", "a<b", "a>b", 'a"b', "a|b", "a?b", "a*b", "a" * 256, "é" * 128, "\ud800",
        "/".join(["a" * 100] * 6), "x" * (MAX_CHARACTERS + 1),
    ],
)  # fmt: skip
def test_paths_that_mean_something_else_anywhere_are_refused(path: str) -> None:
    with pytest.raises(Invalid) as refused:
        checked(path)
    assert refused.value.param == "path"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "...",
        " ",
        "/",
        "\\",
        "a/b",
        "a\\b",
        "\0",
        "CON",
        "nul.txt",
        "x" * 400 + ".txt",
        "é" * 300,
        "a:b*",
    ],
)
def test_any_name_is_made_one_that_is_taken(name: str) -> None:
    made = safe_name(name)
    assert checked(made) == made and "/" not in made
    again = safe_name(name, [made])
    assert again != made and checked(again) == again


def test_names_that_are_no_utf_8_are_refused_and_do_not_become_one(ann: httpx2.Client, room: str) -> None:
    for name in ("%ff.txt", "%fe.txt", "a%c3/b", "%EF%BF%BD"):
        answer = ann.put(f"/sessions/{room}/workspace/{name}", content=b"x")
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "path"), name
    assert ann.get(f"/sessions/{room}/workspace").json() == []
    assert safe_name("caf\ufffd.txt") == "caf_.txt"
