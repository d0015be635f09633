"""Program declarations: a `Program` as a YAML file, beside those of `declarations`.

    program: claude                     # a preset, or the words of a command: [my-agent, --json]
    arguments: [--permission-mode, acceptEdits]
    cwd: site                           # seen from the folder that the file lies in

Whatever else `Program` takes may be said, too. Invariant: a file with the key `program` declares nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innkeeper.apps.targets import near
from innkeeper.core.errors import Invalid, SetupError
from innkeeper.runtimes.programs import Program

OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(Program).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)
KEYS = ("program", "arguments", *OPTIONS)


def read_program(path: Path, said: Mapping[str, Any]) -> Program:
    """The program that the file at `path` declares. Raises: SetupError that names the file and the key."""
    for key in said:
        if key not in KEYS:
            raise SetupError(f"{path}: unknown key {key!r}.{near(str(key), KEYS)}")
    options = {"name": path.stem, **{key: value for key, value in said.items() if key in OPTIONS}}
    program, arguments = said["program"], said.get("arguments", [])
    try:
        if isinstance(options.get("cwd"), str):
            options["cwd"] = path.parent.absolute() / Path(options["cwd"]).expanduser()
        if not isinstance(arguments, list):
            raise Invalid("arguments is a list of words.", param="arguments")
        if isinstance(program, str):
            return Program.preset(program, *arguments, **options)
        return Program([*program, *arguments] if isinstance(program, list) else program, **options)
    except Invalid as error:
        raise SetupError(f"{path}: {error.message}", param=error.param) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise SetupError(f"{path}: a key has a value of the wrong type: {error}.") from error
