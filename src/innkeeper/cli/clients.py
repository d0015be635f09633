"""Clients: the few requests that commands make to a running server, over its native surface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx2

from innkeeper.core.errors import SetupError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_TIMES = httpx2.Timeout(10.0, read=None)


class RequestFailed(SetupError):
    """The server answered that it will not."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """A server at `url`, and what may be asked of it. Every method raises SetupError where nobody answers."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError(f"{url!r} is not the URL of a server; write for example http://127.0.0.1:8000.")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # A proxy that the environment names cannot reach this machine on our behalf.
        is_local = parts.hostname in _LOOPBACK
        self._client = httpx2.Client(base_url=self.url, headers=headers, timeout=_TIMES, trust_env=not is_local)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def agents(self) -> list[dict[str, Any]]:
        """The agents that it serves."""
        found = self._get("/agents")
        if not isinstance(found, list):
            raise SetupError(f"What answers at {self.url} is not an Innkeeper server.")
        return found

    def session(self, session_id: str) -> dict[str, Any] | None:
        """A session with its messages, or `None` if there is none of that id."""
        try:
            found: dict[str, Any] = self._get(f"/sessions/{quote(session_id, safe='')}")
        except RequestFailed as error:
            if error.status == 404:
                return None
            raise
        return found

    def cancel(self, run_id: str) -> None:
        """Ask a run to end."""
        with self._told():
            self._client.post(f"/runs/{quote(run_id, safe='')}/cancel")

    @contextmanager
    def turn(self, body: dict[str, Any]) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """A turn: its run's id, and its events as they come.

        Raises: RequestFailed.
        """
        with self._told(), self._client.stream("POST", "/chat/stream", json=body) as response:
            self._check(response)
            yield response.headers.get("x-run-id", ""), _events(response)

    def _get(self, path: str) -> Any:
        with self._told(), self._client.stream("GET", path) as response:
            self._check(response)
            try:
                return json.loads(response.read())
            except ValueError:
                raise SetupError(f"What answers at {self.url} is not an Innkeeper server.") from None

    def _check(self, response: httpx2.Response) -> None:
        if response.is_success:
            return
        try:
            message = str(json.loads(response.read())["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered with status {response.status_code}."
        raise RequestFailed(message, response.status_code)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise SetupError(
                f"No server answers at {self.url}. Start one with `innkeeper serve`, or name another with --url."
            ) from error
        except httpx2.HTTPError as error:
            raise SetupError(f"The connection to {self.url} broke: {str(error) or type(error).__name__}.") from error


def _events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        field, _, value = line.partition(":")
        if field == "data":
            if value.strip() == "[DONE]":
                return
            yield json.loads(value)
