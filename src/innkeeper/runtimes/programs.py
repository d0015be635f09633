"""Programs: an agent that is a command-line program, run for each turn or kept for a session.

`Program` is data, and importing it starts nothing; `programs_runtime` hosts it. **A program has the rights of the
server's user**, whoever asks: docs/programs.md says what that means. Arguments never pass through a shell.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from innkeeper.core.agents import checked_name
from innkeeper.core.errors import Invalid
from innkeeper.runtimes.programs_presets import FORMATS, PRESETS
from innkeeper.runtimes.programs_terminals import Size

Prompting = Literal["stdin", "argument", "file"]
History = Literal["transcript", "last", "resume"]
Output = Literal["text", "jsonl", "claude", "codex", "gemini"]

MAX_PRINTED = 64 * 1024 * 1024


class Program:
    """An agent that is a program: `Program(["my-agent", "--json"], output="jsonl")`, `Program.preset("claude")`.

    `command` is what is started, without a shell; the word `{prompt}` or `{file}` in it is where the prompt, or the
    name of a file with it, goes. `output` is how its answers are read: as `text`, as `jsonl` (docs/programs.md), or as
    the lines of `claude`, `codex` or `gemini`. `prompt` is how it is asked: on `stdin`, as an `argument` or in a
    `file`. `history` is what it is told: the `transcript`, the `last` message, or the last message with the words of
    `resume`, in which `{session}` is its own name of the conversation; `tail` are its last words. A program that
    `roams` finds its conversations again from any folder.

    `kept=True` keeps one process for each session, ended after `idle_seconds` without a turn; what prints `text` then
    needs `end`, what it prints after each answer, and `greets=True` if it prints that at its start, too.
    `terminal=True` gives it a terminal of `columns` and `rows`. `cwd` is the folder that it works in, else that of the
    session's workspace. `env_names` are variables of the server that it is given, `env` further ones. A turn may take
    `timeout` seconds and print `max_output` bytes; at most `most` processes live at a time.

    Raises: Invalid, which names the argument that is wrong.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str | None = None,
        description: str = "",
        provider: str = "program",
        model: str | None = None,
        output: Output = "text",
        prompt: Prompting = "stdin",
        history: History | None = None,
        resume: Sequence[str] = (),
        tail: Sequence[str] = (),
        roams: bool = False,
        kept: bool = False,
        end: str | None = None,
        greets: bool = False,
        terminal: bool = False,
        columns: int = 120,
        rows: int = 40,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        env_names: Sequence[str] = (),
        timeout: float | None = None,
        idle_seconds: float = 600.0,
        most: int = 8,
        max_output: int = MAX_PRINTED,
        remedy: str = "",
    ) -> None:
        self.command = _words("command", command)
        if not self.command:
            raise Invalid(
                'command names the program and its arguments: Program(["my-agent", "--json"]).', param="command"
            )
        if name is not None:
            self.name = checked_name(name)
        self.description, self.provider = _text("description", description), _text("provider", provider)
        self.model, self.remedy = None if model is None else _text("model", model), _text("remedy", remedy)
        self.output: Output = _one_of("output", output, FORMATS)
        self.prompt: Prompting = _one_of("prompt", prompt, get_args(Prompting))
        self.resume, self.tail = _words("resume", resume), _words("tail", tail)
        self.history: History = _one_of("history", history or ("resume" if resume else "transcript"), get_args(History))
        self.roams, self.kept, self.greets = bool(roams), bool(kept), bool(greets)
        self.end = None if end is None else _text("end", end)
        self.terminal = _size(columns, rows) if terminal else None
        self.folder = None if cwd is None else Path(cwd).expanduser().absolute()
        self.env, self.env_names = _variables(env or {}), _words("env_names", env_names)
        self.timeout = None if timeout is None else _seconds("timeout", timeout)
        self.idle_seconds = _seconds("idle_seconds", idle_seconds)
        self.most, self.max_output = _whole("most", most), _whole("max_output", max_output)
        self._check()

    @classmethod
    def preset(cls, preset: str, *arguments: str, **options: Any) -> Program:
        """A program that is known: `Program.preset("claude", "--permission-mode", "acceptEdits", cwd="site")`.

        `arguments` are further ones of the program's own, `options` those of `Program`, which replace the preset's;
        `env_names` are added to them. Raises: Invalid.
        """
        known = PRESETS.get(preset)
        if known is None:
            raise Invalid(f"There is no preset {preset!r}. There are: {', '.join(PRESETS)}.", param="preset")
        kept = bool(options.get("kept"))
        if kept and not known.kept:
            raise Invalid(f"{preset} ends after each turn, so it cannot be kept.", param="kept")
        is_typed = bool(options.get("terminal") and known.typed and "prompt" not in options)
        if is_typed and kept:
            raise Invalid(f"{preset} reads no prompts from a terminal, so it is kept without one.", param="terminal")
        names = (*known.environment, *options.pop("env_names", ()))
        settings = {
            "provider": preset,
            "output": known.output,
            "resume": () if kept else known.resume,
            "tail": () if kept else known.tail,
            "roams": known.roams,
            "remedy": known.remedy,
            **({"prompt": "argument", "tail": known.typed} if is_typed else {}),
            **options,
        }
        command = (*known.command, *(known.kept if kept else ()), *arguments)
        return cls(command, env_names=names, **settings)

    def __repr__(self) -> str:
        return f"Program({self.command[0]!r}, …)"  # arguments may be secrets

    def _check(self) -> None:
        places = sum(word.count("{prompt}") + word.count("{file}") for word in self.command)
        if self.prompt == "file" and not any("{file}" in word for word in self.command):
            raise Invalid(
                "With prompt='file', a word of command says {file}, as in '--message-file={file}'.", param="command"
            )
        if self.kept and (self.prompt != "stdin" or places):
            raise Invalid("A program that is kept reads its prompts from stdin.", param="prompt")
        if self.history == "resume" and not self.kept and not any("{session}" in word for word in self.resume):
            raise Invalid("With history='resume', resume says how: resume=['--resume={session}'].", param="resume")
        if self.kept and self.output == "text" and not self.end:
            raise Invalid("A kept program that prints text needs end: what it prints after each answer.", param="end")
        if self.kept and self.output in ("codex", "gemini"):
            raise Invalid(f"{self.output} ends after each turn, so it cannot be kept.", param="kept")
        if self.terminal is not None and os.name != "posix":
            raise Invalid("This system has no pseudo-terminals.", param="terminal")


def _words(param: str, words: object) -> tuple[str, ...]:
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise Invalid(f"{param} is a list of words, such as ['claude', '-p']; no shell splits it.", param=param)
    for word in words:
        if not isinstance(word, str) or "\0" in word:
            raise Invalid(f"{param} has {word!r}, which is not text without NUL.", param=param)
    return tuple(words)


def _text(param: str, value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{param} is text, not {value!r}.", param=param)
    return value


def _one_of(param: str, value: Any, known: Sequence[str]) -> Any:
    if value not in known:
        raise Invalid(f"{param} is one of {', '.join(known)}, not {value!r}.", param=param)
    return value


def _seconds(param: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise Invalid(f"{param} is a number of seconds above 0.", param=param)
    return float(value)


def _whole(param: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Invalid(f"{param} is a whole number of at least 1.", param=param)
    return value


def _size(columns: int, rows: int) -> Size:
    if max(_whole("columns", columns), _whole("rows", rows)) > 10_000:
        raise Invalid("A terminal has at most 10000 columns and rows.", param="columns")
    return Size(columns, rows)


def _variables(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise Invalid("env is a mapping of names to values.", param="env")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise Invalid(f"env has {name!r}, which cannot be a variable of text without NUL.", param="env")
    return dict(given)
