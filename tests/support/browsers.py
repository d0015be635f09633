"""Browsers: a real Chromium without a window, driven by the DevTools protocol.

`TEST_CHROMIUM` names the program; else it is looked for on the PATH. One that cannot be had skips its tests on your
machine and fails them where `CI` is set. On Debian: apt-get install --no-install-recommends chromium-headless-shell
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.support import wardens

Json = dict[str, Any]
_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_SECONDS = 30
_OPTIONS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-features=LocalNetworkAccessChecks",
    "--window-size=1280,1600",
)


class Page:
    """One page. What it writes to its console is in `said`, what the browser complains of in `complaints`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._session = ""
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Json]] = {}
        self._calls: list[list[Json]] = []
        self._news = asyncio.Condition()
        self.complaints: list[str] = []

    async def open(self, url: str) -> None:
        target = await self._ask("Target.createTarget", {"url": "about:blank"})
        attached = await self._ask("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            await self._ask(f"{domain}.enable")
        await self._ask("Page.navigate", {"url": url})

    async def said(self, count: int) -> list[list[Any]]:
        """The arguments of the first `count` calls of `console.log`, once there are so many."""
        async with asyncio.timeout(_SECONDS), self._news:
            await self._news.wait_for(lambda: len(self._calls) >= count)
        return [[await self._value(argument) for argument in call] for call in self._calls[:count]]

    async def complained(self) -> str:
        """The browser's first complaint, once there is one."""
        async with asyncio.timeout(_SECONDS), self._news:
            await self._news.wait_for(lambda: self.complaints)
        return self.complaints[0]

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, awaited if it is a promise."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        told = await self._ask("Runtime.evaluate", asked)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Return once the expression is true, which the page looks at by itself."""
        wait = f"new Promise(f => {{ const t = () => ({expression}) ? f(1) : setTimeout(t, 20); t(); }})"
        async with asyncio.timeout(_SECONDS):
            await self.evaluate(wait)

    async def listen(self) -> None:
        """Take what the browser tells, until it is gone."""
        async for text in self._connection:
            told = json.loads(text)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
                continue
            async with self._news:
                if told["method"] == "Runtime.consoleAPICalled":
                    self._calls.append(told["params"]["args"])
                elif told["method"] == "Log.entryAdded":
                    self.complaints.append(told["params"]["entry"]["text"])
                elif told["method"] == "Runtime.exceptionThrown":
                    self.complaints.append(json.dumps(told["params"]["exceptionDetails"]))
                self._news.notify_all()

    async def _value(self, argument: Json) -> Any:
        if "objectId" not in argument:
            return argument.get("value")
        shown = {"objectId": argument["objectId"], "functionDeclaration": "function() { return JSON.stringify(this); }"}
        told = await self._ask("Runtime.callFunctionOn", shown)
        return json.loads(told["result"]["value"])

    async def _ask(self, method: str, params: Json | None = None) -> Json:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: Json = {"id": number, "method": method, "params": params or {}}
        if self._session:
            message["sessionId"] = self._session
        await self._connection.send(json.dumps(message))
        async with asyncio.timeout(_SECONDS):
            told = await answer
        assert "error" not in told, f"{method}: {told['error']}"
        result: Json = told["result"]
        return result


@asynccontextmanager
async def opened_page(url: str) -> AsyncIterator[Page]:
    """A page in a browser of its own."""
    folder = Path(tempfile.mkdtemp(prefix="innkeeper-browser-"))
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [_program(), *_OPTIONS, *root, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wardens.entrust(process, ending=signal.SIGKILL, folder=folder)
    try:
        address = await _address(folder / "DevToolsActivePort", process)
        async with connect(address, proxy=None, max_size=None) as connection:
            page = Page(connection)
            listening = asyncio.create_task(page.listen())
            await page.open(url)
            yield page
            listening.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.wait, 10)
        wardens.dismiss(process)
        shutil.rmtree(folder, ignore_errors=True)


def _program() -> str:
    chosen = os.environ.get("TEST_CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if chosen is None:
        missing = "There is no Chromium: install Debian's chromium-headless-shell, or name one with TEST_CHROMIUM."
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return chosen


async def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the browser listens, which it writes into a file once it does."""
    async with asyncio.timeout(_SECONDS):
        while True:
            lines = file.read_text().splitlines() if file.exists() else []
            if len(lines) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            assert process.poll() is None, f"the browser ended with {process.returncode}"
            await asyncio.sleep(0.02)
