"""Environments: what code of a request reads as its environment variables, apart from every other request's.

A view: first what this request has of its own, then the process's variables, then those of `.env`. What a request has
of its own lives in its `RunContext`, so that it goes wherever that goes: into threads, other event loops and tools.
Invariant: what is written here reaches neither the process's environment nor another request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Belongings:
    """What one request has of its own: `changes` by name, `None` where it has deleted; `given` is what `.env` says."""

    given: Mapping[str, str] = field(default_factory=dict)
    changes: dict[str, str | None] = field(default_factory=dict)

    def over(self, process: Mapping[str, str]) -> dict[str, str]:
        """All of it over the process's variables."""
        merged: dict[str, str | None] = {**self.given, **process, **self.changes}
        return {name: value for name, value in merged.items() if value is not None}

    def __repr__(self) -> str:
        return f"Belongings({', '.join(self.changes)})"  # values may be secrets


class Environment(MutableMapping[str, str]):
    """The view of whichever request asks. Outside of one it shows the process's variables, and takes no others.

    Writes and deletes hold for the rest of the request, in all of its threads and tools. `copy()` is what a child
    process may be given. Raises: KeyError for a name that is not set; RuntimeError where nothing can be written.
    """

    def __init__(self, process: Mapping[str, str], find: Callable[[], Belongings | None]) -> None:
        self._process = process
        self._find = find

    def __getitem__(self, name: str) -> str:
        own = self._find()
        if own is not None and name in own.changes:
            value = own.changes[name]
            if value is None:
                raise KeyError(name)
            return value
        if own is None or name in self._process:
            return self._process[name]
        return own.given[name]

    def __setitem__(self, name: str, value: str) -> None:
        if not all(isinstance(text, str) for text in (name, value)):
            raise TypeError("Names and values of an environment are text.")
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{name!r} is no name of a variable, or its value has a NUL in it.")
        self._own().changes[name] = value

    def __delitem__(self, name: str) -> None:
        own = self._own()
        self[name]  # a name that is not set is a KeyError, as in any mapping
        own.changes[name] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __len__(self) -> int:
        return len(self.copy())

    def copy(self) -> dict[str, str]:
        """All variables as they are now, for `subprocess.run(…, env=environ.copy())`."""
        own = self._find()
        return dict(self._process) if own is None else own.over(self._process)

    def __repr__(self) -> str:
        return f"environ({len(self)} variables)"  # values may be secrets

    def _own(self) -> Belongings:
        own = self._find()
        if own is None:
            raise RuntimeError("There is no request here whose environment could be changed.")
        return own
