"""Statements: SQLAlchemy Core constructs, compiled once a dialect, executed by the raw drivers.

Programs (see `storage.programs`) yield a `Query` and are sent its rows, so that one description of a change
serves the synchronous SQLite driver and the asynchronous PostgreSQL one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement, ColumnElement, Select, literal_column

Row = Sequence[Any]
Rows = Sequence[Row]


class Compiled:
    """SQL with positional placeholders; `constants` are literals that the construct itself carried."""

    def __init__(self, sql: str, names: Sequence[str], constants: Mapping[str, Any]) -> None:
        self.sql = sql
        pick = itemgetter(*names) if len(names) > 1 else lambda values: tuple(values[name] for name in names)
        self.arguments: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            (lambda values: pick({**constants, **values})) if constants else pick
        )


class Statement:
    """One statement; `returns` says whether its rows are wanted, `writes` whether it may change any."""

    def __init__(self, element: ClauseElement, *, returns: bool = False) -> None:
        self.element = element
        self.returns = returns
        self.writes = not isinstance(element, Select)

    @cached_property
    def sqlite(self) -> Compiled:
        return _compile(self.element, sqlite.dialect(paramstyle="qmark"))

    @cached_property
    def postgres(self) -> Compiled:
        from sqlalchemy.dialects.postgresql import asyncpg

        dialect: Any = asyncpg.dialect
        return _compile(self.element, dialect())


def unindexed(column: ColumnElement[str]) -> ColumnElement[str]:
    """The same value, joined to nothing so that no index of it is taken: for few rows, which another index finds."""
    return column.concat(literal_column("''"))


def _compile(element: ClauseElement, dialect: Any) -> Compiled:
    compiled: Any = element.compile(dialect=dialect)
    constants = {name: value for name, value in compiled.params.items() if value is not None}
    return Compiled(str(compiled), compiled.positiontup or (), constants)


class Query(NamedTuple):
    statement: Statement
    values: Mapping[str, Any]


Program = Generator[Query, Rows, Any]
