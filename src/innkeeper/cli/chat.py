"""`innkeeper chat`: a conversation in the terminal. The server keeps it; this only shows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from innkeeper.cli.clients import Connection
from innkeeper.cli.commands import DEFAULT_URL
from innkeeper.cli.terminals import BOLD, DIM, PLAIN, clean
from innkeeper.core.errors import InnkeeperError

_HELP = "/new begins a new session, /history shows this one, /exit leaves. Ctrl-C stops an answer, Ctrl-D leaves."
_LONGEST_ARGUMENTS = 100


@dataclass(slots=True)
class Conversation:
    """Who talks to whom, and in which session; a new session's id is known after its first turn."""

    connection: Connection
    agent: str | None
    session: str | None
    user: str | None

    def request(self, text: str) -> dict[str, Any]:
        """The body of a turn."""
        said = {"input": text, "agent_name": self.agent, "session_id": self.session, "user_id": self.user}
        return {name: value for name, value in said.items() if value is not None}

    @property
    def command(self) -> str:
        """How to go on with it later."""
        words = ["innkeeper chat", self.agent, f"--session {self.session}", self.user and f"--user {self.user}"]
        if self.connection.url != DEFAULT_URL:
            words.append(f"--url {self.connection.url}")
        return " ".join(word for word in words if word)


def ask(conversation: Conversation, message: str) -> int:
    """Say one thing and print the answer, nothing else; returns the exit code.

    Raises: SetupError.
    """
    turn = _Turn(conversation, _Output(shows_only_text=True))
    try:
        return 0 if turn.take(message) else 1
    except KeyboardInterrupt:
        turn.cancel()
        raise


def talk(conversation: Conversation) -> int:
    """Talk until the user leaves; where nobody types, what is piped in is one message. Returns the exit code.

    Raises: SetupError.
    """
    if not sys.stdin.isatty():
        return ask(conversation, sys.stdin.read())
    _greet(conversation)
    while (line := _read_line()) is not None and line != "/exit":
        _answer(conversation, line)
    if conversation.session is not None:
        print(f"\nThe server keeps this conversation. Go on with:\n  {conversation.command}")
    return 0


def _read_line() -> str | None:
    """What the user typed; `None` at the end."""
    import readline  # noqa: F401 - importing it gives `input` editing and the lines before

    try:
        return input("> ").strip()
    except EOFError:
        print()
        return None
    except KeyboardInterrupt:
        print()
        return ""


def _greet(conversation: Conversation) -> None:
    names = [str(agent["name"]) for agent in conversation.connection.agents()]
    default = next((agent["name"] for agent in conversation.connection.agents() if agent["is_default"]), None)
    whom = conversation.agent or default or f"one of {', '.join(names)}"
    print(f"Talking to {clean(str(whom))} at {conversation.connection.url}.\n{DIM}{_HELP}{PLAIN}\n")
    if conversation.session is not None:
        _show_history(conversation)


def _answer(conversation: Conversation, line: str) -> None:
    if line == "/new":
        conversation.session = None
        print(f"{DIM}A new session begins with what you say next.{PLAIN}")
    elif line == "/history":
        _show_history(conversation)
    elif line.startswith("/") and " " not in line:
        print(f"{DIM}{_HELP}{PLAIN}")
    elif line:
        turn = _Turn(conversation, _Output())
        try:
            turn.take(line)
        except KeyboardInterrupt:
            turn.cancel()
            print(f"\n{DIM}(cancelled){PLAIN}\n")
        except InnkeeperError as error:
            print(f"Error: {error.message}\n", file=sys.stderr)


def _show_history(conversation: Conversation) -> None:
    session = conversation.connection.session(conversation.session) if conversation.session else None
    messages = session["messages"] if session else []
    if not messages:
        print(f"{DIM}Nothing has been said in this session yet.{PLAIN}\n")
    for message in messages:
        _show_message(message)


def _show_message(message: Mapping[str, Any]) -> None:
    text = clean(_text_of(message["content"]))
    if message["role"] == "user":
        print(f"{BOLD}> {text}{PLAIN}")
    elif message["role"] == "assistant" and text:
        print(f"{text}\n")


def _text_of(content: str | Iterable[Mapping[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part.get("text", f"[{part.get('type')}]")) for part in content)


class _Turn:
    """One question and its answer."""

    def __init__(self, conversation: Conversation, output: _Output) -> None:
        self._conversation = conversation
        self._output = output
        self._run_id = ""

    def take(self, text: str) -> bool:
        """Whether the answer is complete.

        Raises: SetupError; KeyboardInterrupt.
        """
        conversation, is_complete = self._conversation, False
        with conversation.connection.turn(conversation.request(text)) as (self._run_id, events):
            for event in events:
                if event["type"] == "done":
                    conversation.session = event["session_id"]
                    is_complete = event.get("status", "completed") == "completed"
                self._output.show(event)
        self._output.end()
        return is_complete

    def cancel(self) -> None:
        """End the run, too."""
        if self._run_id:
            self._conversation.connection.cancel(self._run_id)


class _Output:
    """Shows events as they come; tools and thoughts dimly, or not at all."""

    def __init__(self, *, shows_only_text: bool = False) -> None:
        self._shows_only_text = shows_only_text
        self._is_at_line_start = True

    def show(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "text":
            self._write(clean(event["content"]))
        elif kind == "error":
            self.end()
            print(f"Error: {clean(str(event['error'].get('message')))}", file=sys.stderr, flush=True)
        elif self._shows_only_text:
            return
        elif kind == "tool_call":
            self._aside(f"{clean(event['tool_name'])} {_worded(event.get('arguments'))}")
        elif kind == "tool_result" and event.get("error"):
            self._aside(f"it failed: {clean(str(event['error']))[:_LONGEST_ARGUMENTS]}")

    def end(self) -> None:
        if not self._is_at_line_start:
            self._write("\n")

    def _aside(self, text: str) -> None:
        self.end()
        print(f"{DIM}· {text}{PLAIN}", flush=True)

    def _write(self, text: str) -> None:
        print(text, end="", flush=True)
        if text:
            self._is_at_line_start = text.endswith("\n")


def _worded(arguments: object) -> str:
    """The beginning of a call's arguments, as its model wrote them."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return clean(text)[:_LONGEST_ARGUMENTS]
