"""A real browser: a session's events on the page that the control plane's clients know, and the documentation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from fastapi.responses import HTMLResponse

from innkeeper import ServerBase
from innkeeper.config import load_settings
from innkeeper.http.outlines import TAGS
from tests.support.browsers import opened_page
from tests.support.inns import Inn, serve_inn

SCRIPT = """
const ws = new WebSocket(`ws://localhost:8000/api/sessions/${sessionId}/events/stream`);
ws.onmessage = (event) => {
  const data = JSON.parse(event.data);
  console.log('Received event:', data);
};
"""


def watching(inn: Inn, session_id: str) -> str:
    """A page with that script, for the port of this server."""
    script = SCRIPT.replace("localhost:8000", f"localhost:{port_of(inn)}")
    return f"<!doctype html><title>Events</title><script>const sessionId = '{session_id}';{script}</script>"


def port_of(inn: Inn) -> int:
    return int(inn.url.rpartition(":")[2])


@contextmanager
def a_site() -> Iterator[tuple[str, list[str]]]:
    """Another server's origin, and the page that it shows."""
    pages: list[str] = []

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write("".join(pages).encode())

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}", pages
        server.shutdown()


@contextmanager
def an_inn(folder: Path, **settings: object) -> Iterator[tuple[Inn, httpx2.Client, str]]:
    """A server that also shows the page itself, at `/watch/{session_id}`, and a session."""
    app = ServerBase(settings=load_settings({"data_dir": folder, **settings}))
    with serve_inn(app) as inn, httpx2.Client(base_url=inn.url, timeout=20) as http:

        @app.get("/watch/{session_id}", response_class=HTMLResponse, include_in_schema=False)
        def watch(session_id: str) -> str:
            return watching(inn, session_id)

        yield inn, http, http.post("/api/sessions", json={}).json()["session_id"]


def publish(http: httpx2.Client, session_id: str, status: str) -> dict[str, object]:
    event = {"event_type": "DummyEngineStatusUpdate", "data": {"status": status}}
    answer = http.post(f"/api/sessions/{session_id}/events", json=event)
    told: dict[str, object] = answer.raise_for_status().json()
    return told


async def test_page_of_the_server_shows_what_was_and_what_comes(tmp_path: Path) -> None:
    with an_inn(tmp_path) as (inn, http, session_id):
        published = [publish(http, session_id, "before")]
        async with opened_page(f"http://localhost:{port_of(inn)}/watch/{session_id}") as page:
            await page.said(1)
            published += [publish(http, session_id, status) for status in ("processing", "finished")]
            assert await page.said(3) == [["Received event:", event] for event in published]


async def test_page_of_an_origin_that_is_allowed_is_served_and_no_other(tmp_path: Path) -> None:
    with (
        a_site() as (origin, pages),
        a_site() as (foreign, others),
        an_inn(tmp_path, cors_origins=origin) as (inn, http, session_id),
    ):
        event = publish(http, session_id, "processing")
        pages.append(watching(inn, session_id))
        others.append(watching(inn, session_id))
        async with opened_page(origin) as page:
            assert await page.said(1) == [["Received event:", event]]
        async with opened_page(foreign) as page:
            assert "Unexpected response code: 403" in await page.complained()


@pytest.mark.parametrize("kind", ["data", "file"])
async def test_page_without_an_origin_is_refused(tmp_path: Path, kind: str) -> None:
    with an_inn(tmp_path / "data") as (inn, http, session_id):
        publish(http, session_id, "processing")
        text = watching(inn, session_id)
        (tmp_path / "page.html").write_text(text)
        url = f"data:text/html,{quote(text)}" if kind == "data" else (tmp_path / "page.html").as_uri()
        async with opened_page(url) as page:
            assert "Unexpected response code: 403" in await page.complained()


OPERATION = ".opblock[id$=create_session_api_sessions_post]"
TRY_IT_OUT = f"""
(async () => {{
  const click = async (where) => {{
    while (!document.querySelector(where)) await new Promise((f) => setTimeout(f, 20));
    document.querySelector(where).click();
  }};
  await click('{OPERATION} .opblock-summary-control');
  await click('{OPERATION} .try-out__btn');
  await click('{OPERATION} .execute');
}})()
"""
SOURCES = "[...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).origin))]"
ANSWER = f"document.querySelector('{OPERATION} .live-responses-table tbody .response-col_status')"


async def test_page_of_documentation_needs_no_other_server_and_its_examples_can_be_tried(tmp_path: Path) -> None:
    with an_inn(tmp_path) as (inn, http, _):
        async with opened_page(f"http://localhost:{port_of(inn)}/docs") as page:
            await page.until("document.querySelectorAll('.opblock-tag').length > 10")
            groups = await page.evaluate("[...document.querySelectorAll('.opblock-tag')].map(e => e.dataset.tag)")
            assert groups == list(TAGS)
            await page.evaluate(TRY_IT_OUT)
            await page.until(ANSWER)
            assert await page.evaluate(f"{ANSWER}.textContent") == "201"
            assert await page.evaluate(SOURCES) == [f"http://localhost:{port_of(inn)}"]
            assert page.complaints == []
        assert "my session" in {session["name"] for session in http.get("/api/sessions").json()["sessions"]}


async def test_page_to_read_fetches_nothing_from_elsewhere(tmp_path: Path) -> None:
    with an_inn(tmp_path) as (inn, _, _):
        async with opened_page(f"http://localhost:{port_of(inn)}/redoc") as page:
            await page.until("document.querySelectorAll('[role=menuitem]').length > 10")
            assert "violates the following Content Security Policy" in await page.complained()
            asked, its_makers = await page.evaluate(SOURCES)
            assert (asked, its_makers in page.complaints[0]) == (f"http://localhost:{port_of(inn)}", True)
            assert len(page.complaints) == 1
