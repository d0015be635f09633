"""Environments of programs: a few variables of the server, those that the operator names, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from innkeeper.core.context import RunContext
from innkeeper.runtimes.programs import Program

NAMES = frozenset({"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER"})
"""What every program is given of the server's variables, with those that begin with `LC_`."""

_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def environment(program: Program, server: Mapping[str, str], context: RunContext | None = None) -> dict[str, str]:
    """A request's own variables count where the operator has named them, and never before `env`."""
    given = {name: value for name, value in server.items() if name in NAMES or name.startswith("LC_")}
    given.setdefault("PATH", _DEFAULT_PATH)
    given["TERM"] = "dumb" if program.terminal is None else "xterm-256color"
    given |= {name: server[name] for name in program.env_names if name in server}
    if context is not None:
        for name, value in context.environment.changes.items():
            if name in program.env_names:
                given.pop(name, None)
                given |= {} if value is None else {name: value}
        given |= _names_of(context)
    return given | program.env


def _names_of(context: RunContext) -> dict[str, str]:
    told = {"INNKEEPER_SESSION_ID": context.session_id, "INNKEEPER_AGENT": context.agent_name}
    return {name: value for name, value in told.items() if value is not None and "\0" not in value}


def found(program: Program, variables: Mapping[str, str]) -> str | None:
    """The file that the command names. The session's folder is never looked into."""
    name = program.command[0]
    if "/" in name:
        name = str(Path(name).expanduser().absolute())
    path = shutil.which(name, path=variables["PATH"])
    return None if path is None else str(Path(path).absolute())
