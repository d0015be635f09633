"""Origins: what each source says of the settings, and where exactly it says so.

A source is the command line, the environment, a `.env` file or a YAML file. This module reads them and knows no
setting: `config` hands it the names, lays the sources over each other and judges the values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dotenv.main import resolve_variables
from dotenv.parser import parse_stream

from innkeeper.core.errors import SetupError
from innkeeper.yaml_documents import document, entries, plain

Kind = Literal["argument", "flag", "environment", "env file", "YAML file", "default"]
Sections = Mapping[str, Mapping[str, str]]
"""What a configuration file may say, by section and key, and which setting it is."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from. `name` is what is written there: `--port`, `API_PORT`, `server.port`."""

    kind: Kind
    name: str = ""
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        if self.file:
            return f"{self.file}:{self.line} {self.name}"
        return {"argument": "code", "flag": self.name, "default": "default"}.get(self.kind, f"environment {self.name}")

    @property
    def subject(self) -> str:
        """The same as the beginning of a sentence about the value."""
        if self.file:
            return f"{self.file}:{self.line}: {self.name}"
        before = {"argument": "The setting ", "environment": "The environment variable "}
        return f"{before.get(self.kind, '')}{self.name}"


DEFAULT = Origin("default")
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")


@dataclass(frozen=True, slots=True)
class Given:
    """A value as a source words it, not yet judged."""

    value: Any
    origin: Origin


Source = Mapping[str, Given]
"""What one source says, by setting."""


@dataclass(frozen=True, slots=True)
class EnvFile:
    """The variables of a `.env` file, the line of each, and the lines that are no assignment."""

    path: Path
    values: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict)
    broken: Sequence[int] = ()


def of_variables(values: Mapping[str, str], variables: Mapping[str, str], file: EnvFile | None = None) -> Source:
    """What variables say: those of the environment, or of a file. One that is empty says nothing.

    Their names are compared without regard to case, and the one that is written as documented wins.
    """
    found: dict[str, Given] = {}
    for name, value in sorted(values.items(), key=lambda item: item[0].isupper()):
        setting = variables.get(name.upper())
        if setting is None or not value:
            continue
        origin = Origin("environment", name)
        if file is not None:
            origin = Origin("env file", name, str(file.path), file.lines[name])
        found[setting] = Given(value, origin)
    return found


def read_env_file(path: Path) -> EnvFile:
    """The variables of `path`; none if it does not exist. `${NAME}` is filled in from the environment and the file.

    Raises: SetupError if it cannot be read.
    """
    if not path.is_file():
        return EnvFile(path)
    pairs: list[tuple[str, str | None]] = []
    lines: dict[str, int] = {}
    broken: list[int] = []
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                text = binding.original.string
                line = binding.original.line + len(text) - len(text.lstrip("\r\n"))
                if binding.error:
                    broken.append(line)
                elif binding.key is not None:
                    pairs.append((binding.key, binding.value))
                    lines[binding.key] = line
    except OSError as error:
        raise SetupError(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise SetupError(f"The file {path} is not text in UTF-8.") from None
    values = resolve_variables(pairs, override=True)
    return EnvFile(path, {name: value for name, value in values.items() if value is not None}, lines, broken)


def read_yaml(path: Path, sections: Sections) -> Source:
    """What a configuration file says. A key without a value says nothing.

    Scalars are taken as they are written and judged as those of variables are, so that `off` and `12345` are text
    where text is wanted.

    Raises: SetupError that names the file, the line and the key.
    """
    found: dict[str, Given] = {}
    for section, at, keys in entries(path, document(path, "configuration file"), "server, database and logging"):
        if section not in sections:
            raise SetupError(f"{path}:{at}: unknown section {section!r}.{nearest(section, sections)}")
        known = sections[section]
        for key, line, value in entries(path, keys, f"{section}.{next(iter(known))}", at):
            if key not in known:
                raise SetupError(f"{path}:{line}: unknown key {section}.{key}.{nearest(key, known)}")
            try:
                told = plain(value)
            except RecursionError:
                raise SetupError(f"{path}:{line}: {section}.{key} contains itself.") from None
            if told not in (None, ""):
                found[known[key]] = Given(told, Origin("YAML file", f"{section}.{key}", str(path), line))
    return found


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is none of the known ones."""
    words = list(known)
    close = difflib.get_close_matches(word, words, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known are: {', '.join(words)}."


def doubts(
    environment: Mapping[str, str], file: EnvFile, variables: Mapping[str, str], *, others: Iterable[str], prefix: str
) -> list[str]:
    """What may be a mistake in the names of variables: ours by their prefix and unknown, or nearly known.

    In the environment only the prefix counts: what else is there may be anybody's. Kubernetes sets variables with our
    prefix for a service that is called as we are.
    """
    names = {*variables, *others}
    told = [
        _doubt(f"The environment variable {name}", name, variables, prefix)
        for name, value in sorted(environment.items())
        if name.upper() not in names
        and name.upper().startswith(prefix)
        and not _OF_KUBERNETES.search(name)
        and not value.startswith(("tcp://", "udp://"))
    ]
    told += [f"{file.path}:{line}: this line is not NAME=VALUE and is ignored." for line in file.broken]
    for name, line in file.lines.items():
        upper = name.upper()
        if upper not in names and (upper.startswith(prefix) or difflib.get_close_matches(upper, names, 1, 0.85)):
            told.append(_doubt(f"{file.path}:{line}: {name}", name, variables, prefix))
    return told


def _doubt(subject: str, name: str, variables: Mapping[str, str], prefix: str) -> str:
    called = {setting.upper(): variable for variable, setting in variables.items()}
    called |= {variable.removeprefix(prefix): variable for variable in variables}
    close = difflib.get_close_matches(name.upper().removeprefix(prefix), sorted(called), 1)
    meant = called[close[0]] if close else None
    return f"{subject} is no setting and is ignored.{f' Did you mean {meant}?' if meant else ''}"
