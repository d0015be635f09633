"""The servers that tests stand on are themselves real: they start, die and come back."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.support.servers import ServerFactory, serve_app

SOURCE = """
import os, sys
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def live(request):
    return JSONResponse({"pid": os.getpid(), "data": os.environ["INNKEEPER_DATA_DIR"]})

print("hello from the app", file=sys.stderr)
app = Starlette(routes=[Route("/live", live)])
"""


def test_a_killed_server_comes_back_on_the_same_port_and_data(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tiny.py", SOURCE)
    server = innkeeper_server.uvicorn("tiny:app")
    first = httpx2.get(f"{server.url}/live").json()
    url = server.url

    server.kill()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/live")
    server.restart()

    second = httpx2.get(f"{server.url}/live").json()
    assert server.url == url
    assert second["data"] == first["data"] == str(innkeeper_server.folder / "data")
    assert second["pid"] != first["pid"]
    assert server.log.count("hello from the app") == 2


def test_a_terminated_server_tells_its_exit_code(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("tiny.py", SOURCE)
    server = innkeeper_server.uvicorn("tiny:app")
    assert server.terminate() in (0, -signal.SIGTERM)
    assert not server.is_alive


def test_a_server_that_does_not_start_is_reported_with_its_log(innkeeper_server: ServerFactory) -> None:
    innkeeper_server.write("broken.py", "raise RuntimeError('no such luck')")
    with pytest.raises(RuntimeError, match="no such luck"):
        innkeeper_server.uvicorn("broken:app")


def test_an_app_is_served_from_a_thread_until_the_block_ends() -> None:
    async def echo(request: Request) -> JSONResponse:
        return JSONResponse({"path": request.url.path})

    with serve_app(Starlette(routes=[Route("/{rest:path}", echo)])) as url:
        assert httpx2.get(f"{url}/somewhere").json() == {"path": "/somewhere"}
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/somewhere")


ABANDONING = """
import os, signal, sys
from pathlib import Path
from tests.support.servers import ServerFactory

factory = ServerFactory(Path(sys.argv[1]))
server = factory.uvicorn("tiny:app")
print(server.url, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_no_server_outlives_tests_that_were_killed(innkeeper_server: ServerFactory, tmp_path: Path) -> None:
    innkeeper_server.write("tiny.py", SOURCE)
    # The warden holds the pipe to its end, so that this returns when it has done its work.
    killed = subprocess.run(
        [sys.executable, "-c", ABANDONING, str(tmp_path)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(httpx2.ConnectError):
        while True:
            with suppress(httpx2.ReadError, httpx2.RemoteProtocolError):  # it is being killed
                httpx2.get(f"{killed.stdout.strip()}/live")
                pytest.fail("It lives on.")
