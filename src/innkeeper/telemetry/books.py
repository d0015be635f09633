"""Books: rows of numbers that one process writes and any may read, in memory or in a file.

The client library's own way to count in several processes is chosen by a variable of the environment, for whatever
else in the process counts, and leaves a file for each process that has ever been. A book in a file belongs to a
place among the processes: whoever takes the place goes on in it, so totals survive their process and never go back.
Invariant: a number is written by one process at a time, and an entry's cells never move.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_logger = logging.getLogger(__name__)

CAPACITY = 64 * 1024
_DISCARDED = 1
_DISCARDED_WIDTH = 63
_FIRST = _DISCARDED + _DISCARDED_WIDTH
_CELL = 8

Key = tuple[str, tuple[str, ...]]


class Entry(NamedTuple):
    """The cells of one metric with one set of label values."""

    name: str
    labels: tuple[str, ...]
    cells: tuple[float, ...]


class Book:
    """A process's own book: `cells[n]` may be written where `place` says. The first cell is the process's id."""

    def __init__(self, file: Path | None = None) -> None:
        self._offsets: dict[Key, tuple[int, int]] = {}
        self._end = _FIRST
        self._index: int | None = None
        if file is None:
            self.cells: list[float] | memoryview[float] = [0.0] * _FIRST
        else:
            self.cells = _mapped(file)
            self._recall(_index_of(file))
        self.cells[0] = float(os.getpid())

    def place(self, name: str, labels: tuple[str, ...], width: int) -> int:
        """The first of `width` cells of their own, from now on; a full book takes no more, and says so once."""
        known = self._offsets.get((name, labels))
        if known is not None:
            return known[0]
        assert width <= _DISCARDED_WIDTH, "what is discarded has room"
        offset = self._end
        if offset + width > CAPACITY:
            if self._end < CAPACITY:
                _logger.warning("There are too many metrics: %s%r and other new ones are not counted.", name, labels)
                self._end = CAPACITY
            return _DISCARDED
        if self._index is not None and not _noted(self._index, [name, labels, width]):
            return _DISCARDED
        self._add((name, labels), width)
        return offset

    def _add(self, key: Key, width: int) -> None:
        self._offsets[key] = self._end, width
        self._end += width
        if isinstance(self.cells, list):
            self.cells += [0.0] * width

    def _recall(self, index: Path) -> None:
        """Go on where the process before has left off; the line that its end may have cut is not there."""
        self._index = os.open(index, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.ftruncate(self._index, index.read_bytes().rfind(b"\n") + 1)
        for name, labels, width in _read_index(index):
            self._add((name, labels), width)

    @property
    def process(self) -> int:
        return int(self.cells[0])

    def entries(self) -> Iterator[Entry]:
        """A copy of everything that is in it, whichever thread asks."""
        for (name, labels), (offset, width) in list(self._offsets.items()):
            yield Entry(name, labels, tuple(self.cells[offset : offset + width]))


class ForeignBook:
    """Another process's book, as it is now; empty until that process has begun one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cells: memoryview[float] = memoryview(bytes(_CELL)).cast("d")
        try:
            self._cells = memoryview(file.read_bytes()).cast("d")
            self._lines = list(_read_index(_index_of(file)))
        except OSError:
            self._lines = []

    @property
    def process(self) -> int:
        """The process that writes it; 0 for none."""
        return int(self._cells[0])

    def entries(self) -> Iterator[Entry]:
        end = _FIRST
        for name, labels, width in self._lines:
            yield Entry(name, labels, tuple(self._cells[end : end + width]))
            end += width


class Shelf:
    """The books of the processes that serve one port; each knows the folder and its own number, from 1 on."""

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [folder / f"book-{number}" for number in range(1, count + 1)]

    def open(self, number: int) -> Book:
        """The book of this process, which takes the place `number`."""
        return Book(self._files[number - 1])

    def others(self, number: int) -> Sequence[tuple[int, ForeignBook]]:
        """What the others have written, and their numbers."""
        return [(place, ForeignBook(file)) for place, file in enumerate(self._files, 1) if place != number]

    def vacate(self, number: int) -> None:
        """The process of that place has ended: what it had under way is not."""
        try:
            with self._files[number - 1].open("r+b") as file:
                file.write(bytes(_CELL))
        except OSError:  # it had not come as far as writing
            return


def _mapped(file: Path) -> memoryview[float]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Not a hole in the file: on a disk that is full, writing into one would kill the process.
        if os.fstat(descriptor).st_size < CAPACITY * _CELL:
            os.pwrite(descriptor, bytes(CAPACITY * _CELL), 0)
        return memoryview(mmap.mmap(descriptor, CAPACITY * _CELL)).cast("d")
    finally:
        os.close(descriptor)


def _index_of(file: Path) -> Path:
    return file.with_suffix(".index")


def _read_index(index: Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    for line in index.read_bytes().split(b"\n")[:-1]:
        name, labels, width = json.loads(line)
        yield name, tuple(labels), width


def _noted(index: int, line: object) -> bool:
    data = json.dumps(line).encode() + b"\n"
    try:
        written = os.write(index, data)
        if written < len(data):  # a disk that is full takes a part, and the next line would be added to it
            os.ftruncate(index, os.fstat(index).st_size - written)
    except OSError:
        return False
    return written == len(data)
