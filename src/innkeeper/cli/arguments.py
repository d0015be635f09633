"""Arguments: what a parser of options cannot see for itself.

`--allowed-modes chat health` takes every mode that follows it, as the operator's document shows, and yet a target
may follow too: words that name no mode end the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_OPTION = "--allowed-modes"


def gather_modes(words: Sequence[str], modes: Iterable[str]) -> list[str]:
    """The same words with all that belongs to `--allowed-modes` in one value: `--allowed-modes chat,health`."""
    known, rest = frozenset(modes), list(words)
    gathered: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*gathered, word, *rest]
        option, equals, value = word.partition("=")
        if option != _OPTION or not (equals or rest):
            gathered.append(word)
            continue
        values = [value if equals else rest.pop(0)]
        while rest and set(_names(rest[0])) <= known and _names(rest[0]):
            values.append(rest.pop(0))
        gathered += [_OPTION, ",".join(values)]
    return gathered


def _names(word: str) -> list[str]:
    return word.replace(",", " ").split()
