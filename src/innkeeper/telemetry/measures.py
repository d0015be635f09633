"""Measures: what counts in one process, and what reads it, made together; nothing at all where metrics are off."""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.ports.meters import UNMETERED, FigureReader, Unmetered
from innkeeper.telemetry.books import Book, Shelf
from innkeeper.telemetry.figures import BookFigures
from innkeeper.telemetry.metrics import Agents, BookMeter


@dataclass(frozen=True, slots=True)
class Measures:
    """`figures` are those of all processes on the same shelf."""

    meter: BookMeter | Unmetered = UNMETERED
    figures: FigureReader | None = None


def open_measures(agents: Agents, shelf: Shelf | None = None, number: int = 1) -> Measures:
    """In memory, or, where several processes serve one port, in the book of this one's place on their shelf.

    Raises: OSError if the book cannot be opened.
    """
    book = Book() if shelf is None else shelf.open(number)
    return Measures(BookMeter(book, agents), BookFigures(book, shelf, number))
