"""Targets: what a user may ask to serve, and where it lies. Nothing is loaded here; `apps.loading` does that.

A target is one of
- `NAME`: `agents/NAME.yaml` (a declared agent) or `agents/NAME.py`, else `NAME.py`, below the working folder;
- a path to a `.yaml` or `.py` file, or to a folder, which stands for every declared agent in it;
- `MODULE:ATTRIBUTE` or `PATH.py:ATTRIBUTE`: an app, an agent, a function, or a list or dict of agents.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from innkeeper.core.errors import SetupError, TargetNotFound

AGENTS_FOLDER = "agents"
DECLARED = (".yaml", ".yml")
_SUFFIXES = (*DECLARED, ".py")
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Source:
    """One file or module to load. `target` is what the user wrote; `attribute` is empty where it names none."""

    target: str
    path: Path | None = None
    module: str = ""
    attribute: str = ""

    @property
    def is_declared(self) -> bool:
        return self.path is not None and self.path.suffix in DECLARED


def locate(targets: Sequence[str], folder: Path) -> list[Source]:
    """Where each target lies, seen from `folder`; without targets, every agent that is declared there.

    Raises: TargetNotFound that says what was looked for and where, and names what is near.
    """
    if targets:
        return [source for target in targets for source in _locate(target, folder)]
    declared = _declared_in(folder / AGENTS_FOLDER)
    if not declared:
        raise TargetNotFound(
            f"There is nothing to serve: {folder} has no {AGENTS_FOLDER}/*.yaml, and no target was given."
            " Name a file with agents (innkeeper serve agents.py), an agent's declaration, or module:attribute."
        )
    return [Source(str(path.relative_to(folder)), path) for path in declared]


def _locate(target: str, folder: Path) -> list[Source]:
    place, colon, attribute = target.rpartition(":")
    if colon and not (folder / target).exists():
        return [_attribute_of(place, attribute, target, folder)]
    path = folder / Path(target).expanduser()
    if path.is_file():
        return [Source(target, _served(path, target))]
    is_name = "/" not in target and path.suffix not in _SUFFIXES
    for candidate in _candidates(target, folder) if path.suffix not in _SUFFIXES else ():
        if candidate.is_file():
            return [Source(target, candidate)]
    if path.is_dir():
        return _in_folder(target, path)
    if not path.suffix or is_name:
        raise _no_such_name(target, folder)
    raise _no_such_file(target, path, folder)


def _candidates(target: str, folder: Path) -> list[Path]:
    name = target.rstrip("/")
    if target != name:
        return []
    named = [] if "/" in name else [folder / AGENTS_FOLDER / f"{name}{suffix}" for suffix in _SUFFIXES]
    return [*named, *(folder / f"{name}{suffix}" for suffix in (".py", *DECLARED))]


def _served(path: Path, target: str) -> Path:
    if path.suffix not in _SUFFIXES:
        raise TargetNotFound(f"{target} is neither a Python file (.py) nor an agent's declaration (.yaml).")
    return path


def _in_folder(target: str, folder: Path) -> list[Source]:
    declared = _declared_in(folder)
    if not declared:
        raise TargetNotFound(f"The folder {folder} declares no agent: it has no *.yaml. Name a file in it.")
    return [Source(f"{target.rstrip('/')}/{path.name}", path) for path in declared]


def _declared_in(folder: Path) -> list[Path]:
    return sorted(path for suffix in DECLARED for path in folder.glob(f"*{suffix}") if path.is_file())


def _attribute_of(place: str, attribute: str, target: str, folder: Path) -> Source:
    if not _DOTTED.fullmatch(attribute):
        raise TargetNotFound(f"{target!r} does not name an attribute: write module:attribute or file.py:attribute.")
    if place.endswith(".py") or "/" in place:
        path = folder / Path(place).expanduser()
        if not path.is_file():
            raise _no_such_file(place, path, folder)
        return Source(target, path, attribute=attribute)
    if not _DOTTED.fullmatch(place):
        raise TargetNotFound(f"{place!r} in {target!r} is neither a module's name nor the path of a .py file.")
    return Source(target, None, place, attribute)


def _no_such_name(target: str, folder: Path) -> SetupError:
    looked_for = [str(path.relative_to(folder)) for path in _candidates(target, folder)] or [target]
    *others, last = looked_for
    places = f"{', '.join(others)} and {last}" if others else last
    return TargetNotFound(
        f"There is no agent {target!r}: looked for {places} in {folder}.{near(target, _names(folder))}"
    )


def _no_such_file(target: str, path: Path, folder: Path) -> SetupError:
    if not path.parent.is_dir():
        return TargetNotFound(f"There is no file {target}: there is not even a folder {path.parent}.")
    siblings = [str(Path(target).parent / one.name) for one in path.parent.iterdir() if one.suffix in _SUFFIXES]
    return TargetNotFound(f"There is no file {target}: looked for it in {folder}.{near(target, siblings)}")


def _names(folder: Path) -> list[str]:
    """What could have been meant by a name."""
    return [
        *(path.stem for path in (folder / AGENTS_FOLDER).glob("*") if path.suffix in _SUFFIXES),
        *(path.name for path in folder.glob("*.py")),
    ]


def near(word: str, known: Iterable[str]) -> str:
    """A sentence that names what `word` may have been meant to be; empty where nothing is known."""
    names = sorted({name for name in known if not name.startswith("_")})
    close = difflib.get_close_matches(word, names, 1)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" There are: {', '.join(names[:10])}." if names else ""
