"""Screens: what a server says when it has started: where it listens, whom it serves, what it keeps, how to try it.

Plain text where nobody watches, so that a log stays readable; in a terminal the same with a little colour.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from innkeeper.core.agents import AgentDescription
from innkeeper.version import __version__

_MOST_AGENTS = 20
_DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = ("127.", "::1", "localhost")
_EVERY_ADDRESS = ("0.0.0.0", "::", "")  # noqa: S104 - shown, not bound


@dataclass(frozen=True, slots=True)
class ServedAs:
    """An agent as the screen shows it."""

    description: AgentDescription
    is_default: bool


@dataclass(frozen=True, slots=True)
class Screen:
    """What there is to say. `store` is `None` for an app that holds Innkeeper only somewhere inside."""

    host: str
    port: int
    agents: Sequence[ServedAs]
    store: str | None
    modes: Sequence[str]
    seconds: float
    is_auth_enabled: bool = True
    is_auth_forced: bool = False
    dynamic_agents: bool = False
    processes: int = 1
    serving: int = 1

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"

    @property
    def headline(self) -> str:
        everywhere = " on every address of this machine" if self.host in _EVERY_ADDRESS else ""
        return f"Innkeeper {__version__} listens at {self.url}{everywhere} (ready in {self.seconds:.1f} s)"

    def rows(self) -> list[tuple[str, str]]:
        """Labels and what they stand before; an empty label goes on with the one above."""
        rows = _labelled("Agents", self._agent_lines()) + _labelled("Store", [self.store] if self.store else [])
        rows += _labelled("Workers", self._worker_lines())
        rows += _labelled("Access", self._access_lines()) + _labelled("Try", self._try_lines())
        return [*rows, ("Stop", "Ctrl-C")]

    def _agent_lines(self) -> list[str]:
        if self.store is None:
            return ["those of the app"]
        names = [one.description.name + (" (default)" if one.is_default else "") for one in self.agents]
        width = max(map(len, names), default=0)
        lines = [
            f"{name:<{width}}  {one.description.model or 'Python'}".rstrip()
            for name, one in zip(names, self.agents, strict=True)
        ][:_MOST_AGENTS]
        if len(names) > _MOST_AGENTS:
            lines.append(f"and {len(names) - _MOST_AGENTS} more: {self.url}/agents")
        if not lines:
            lines = ["by resolver"] if self.dynamic_agents else ["none yet: requests to an agent answer 503"]
        return lines

    def _worker_lines(self) -> list[str]:
        if self.processes == 1:
            return []
        if self.serving < self.processes:
            return [f"{self.serving} of {self.processes} processes: the log says why, and the others are tried again"]
        return [f"{self.processes} processes"]

    def _access_lines(self) -> list[str]:
        if not self.is_auth_enabled:
            return ["WITHOUT credentials, for everyone who can reach it: AGENT_AUTH_ENABLED is false"]
        if self.is_auth_forced:
            return ["everyone needs a token, also on this machine: FORCE_AUTH is true"]
        if self.host.startswith(_LOOPBACK):
            return ["programs on this machine, without a token"]
        return [
            "programs on this machine, without a token; everyone else needs a token,",
            "and the name or address that they ask for must be in ALLOWED_HOSTS",
        ]

    def _try_lines(self) -> list[str]:
        if "chat" not in self.modes:
            return [f"curl {self.url}/live"]
        chat = "innkeeper chat" if self.url == _DEFAULT_URL else f"innkeeper chat --url {self.url}"
        body = """-H 'content-type: application/json' -d '{"input": "Hello!"}'"""
        return [chat, f"curl {self.url}/chat {body}", f"{self.url}/docs"]


def _labelled(label: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]


def show(screen: Screen, output: TextIO | None = None) -> None:
    """Print the screen to standard output."""
    output = output or sys.stdout
    if output.isatty():
        _show_in_terminal(screen, output)
        return
    lines = [screen.headline, "", *(f"  {label:<7} {text}" for label, text in screen.rows()), ""]
    print("\n".join(lines), file=output, flush=True)


def _show_in_terminal(screen: Screen, output: TextIO) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(file=output, highlight=False, soft_wrap=True)
    console.print(Text.assemble("\n", (screen.headline, "bold"), "\n"))
    for label, text in screen.rows():
        console.print(Text.assemble("  ", (f"{label:<7} ", "cyan"), text))
    console.print()
