"""The configurations of docs/deploy.md: their own programs accept them, and what they name is there."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from innkeeper import ServerBase, load_settings
from innkeeper.config import Settings
from tests.support.documents import fences
from tests.support.inns import UNCOUNTED
from tests.support.servers import serve_app
from tests.support.services import free_port
from tests.support.tokens import a_token

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
OWN = {"DATABASE_URL", "OPENAI_API_KEY"}
TIMES = ("proxy_read_timeout", "proxy_send_timeout")


def snippet(language: str) -> str:
    (found,) = [fence.text for fence in fences(PAGE) if fence.language == language]
    return found


def test_every_variable_on_the_page_is_a_setting() -> None:
    named = set(re.findall(r"\b([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)=", PAGE.read_text(encoding="utf-8")))
    known = {str(field.validation_alias) for field in Settings.model_fields.values()} | {"INNKEEPER_DATA_DIR"}
    assert len(named) > 5
    assert named - known - OWN - {"POSTGRES_PASSWORD", "REDIS_PASSWORD"} == set()


def test_the_configuration_of_nginx_is_one_and_does_not_hold_streams_back(tmp_path: Path) -> None:
    import crossplane  # type: ignore[import-untyped]  # it has no types

    config = tmp_path / "nginx.conf"
    config.write_text(f"events {{}}\nhttp {{\n{snippet('nginx')}}}\n")
    parsed = crossplane.parse(str(config), strict=True)
    values = ('"default"', '"websocket"')  # of the map, which it takes for directives
    assert [error for error in parsed["errors"] if not any(value in error["error"] for value in values)] == []
    said = {line["directive"]: line["args"] for line in _lines(parsed["config"][0]["parsed"])}
    assert (said["proxy_buffering"], said["proxy_http_version"]) == (["off"], ["1.1"])
    assert _seconds(said["proxy_read_timeout"]) > Settings.model_fields["run_seconds"].default
    assert _seconds(said["keepalive_timeout"]) < Settings.model_fields["idle_seconds"].default
    assert int(said["client_max_body_size"][0].removesuffix("m")) * 2**20 > 10 * 2**20


def _lines(block: list[Any]) -> Iterator[Any]:
    for line in block:
        yield line
        yield from _lines(line.get("block", []))


def _seconds(args: list[str]) -> int:
    return int(args[0].removesuffix("s"))


def test_caddy_passes_streams_websockets_and_clients_addresses_on(tmp_path: Path) -> None:
    app = ServerBase(
        settings=load_settings(
            {"data_dir": tmp_path / "data", "force_auth": True, "trusted_proxies": "127.0.0.1", **UNCOUNTED}
        )
    )

    has_heard = threading.Event()

    @app.agent("slow")
    def slow(messages: Any) -> Iterator[str]:
        yield "first"
        if has_heard.wait(20):
            yield "last"

    token = a_token(app.kernel.settings).text
    with serve_app(app) as url, proxied(tmp_path, url) as proxy, httpx2.Client(trust_env=False, timeout=20) as http:
        assert http.post(f"{proxy}/chat", json={"input": "x"}).status_code == 401, (
            "who comes through it is no local user"
        )
        headers = {"authorization": f"Bearer {token}"}
        with http.stream("POST", f"{proxy}/chat/stream", json={"input": "x"}, headers=headers) as answer:
            said = ""
            for text in answer.iter_text():
                said += text
                if "first" in said:
                    has_heard.set()
        assert "last" in said, "the first event did not wait for the last"
        with connect(f"ws{proxy.removeprefix('http')}/ws/chat", additional_headers=headers, proxy=None) as ws:
            ws.send(json.dumps({"input": "x"}))
            told = [json.loads(ws.recv(timeout=10))["type"]]
            while told[-1] != "done":
                told.append(json.loads(ws.recv(timeout=10))["type"])
        assert "text" in told


@contextmanager
def proxied(folder: Path, url: str) -> Iterator[str]:
    """The page's Caddy in front of the server at `url`, on a port of its own and without a certificate."""
    port = free_port()
    text = snippet("caddy").replace("inn.example.com", f"http://127.0.0.1:{port}")
    config = folder / "Caddyfile"
    config.write_text(
        "{\n\tadmin off\n\tauto_https off\n}\n" + text.replace("127.0.0.1:8000", url.removeprefix("http://"))
    )
    caddy = shutil.which("caddy", path=str(Path(sys.executable).parent)) or "caddy"
    process = subprocess.Popen(
        [caddy, "run", "--config", str(config), "--adapter", "caddyfile"],
        env={"HOME": str(folder)},
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_its_unit(tmp_path: Path) -> None:
    unit = tmp_path / "innkeeper.service"
    text = (
        snippet("ini").replace("/srv/innkeeper/.venv/bin/innkeeper", "/bin/true").replace("User=innkeeper", "User=root")
    )
    unit.write_text(text.replace("Group=innkeeper", "Group=root"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "innkeeper.service" in line]
    assert (done.returncode, complaints) == (0, [])


def test_systemd_waits_longer_than_a_server_takes_to_end() -> None:
    from innkeeper.cli.endings import longest_end

    waits = re.search(r"TimeoutStopSec=(\d+)", snippet("ini"))
    assert waits is not None
    assert int(waits[1]) > longest_end(Settings.model_fields["drain_seconds"].default)
