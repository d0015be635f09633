"""The audit log's chain, walked from its first entry to its head: is it as it was written, and if not, since where?

What is found: entries that were changed, taken out, put in or cut off at the end. What nobody can see from the log
alone: that all of it, with its head, was written anew; for that, compare with a head that was noted elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.audit import AuditEntry, audit_digest
from innkeeper.ports.accounts import AuditReader

BATCH = 1_000
_BEFORE_ALL = -(2**63)


@dataclass(frozen=True, slots=True)
class Break:
    """The first link that does not hold: the number and, where it is there, the id of its entry, and what is wrong."""

    number: int
    entry_id: str | None
    told: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`count` entries hold, of which the last has the digest `head`. `has_noted` says whether the noted head is one."""

    count: int
    head: str
    broken: Break | None = None
    has_noted: bool = True


async def verified(audit: AuditReader, noted: str | None = None, *, batch: int = BATCH) -> Verdict:
    """The verdict on a log that may grow meanwhile. `noted` is a head's digest of earlier.

    Raises: StorageUnavailable.
    """
    last: AuditEntry | None = None
    has_noted = noted is None or noted == ""
    while True:
        found = await audit.chain(_BEFORE_ALL if last is None else last.number, batch)
        for entry, metadata in found:
            if (broken := _break_at(entry, metadata, last)) is not None:
                return _verdict(last, broken, has_noted=has_noted)
            last = entry
            has_noted = has_noted or entry.digest == noted
        if found:
            continue
        number, digest = await audit.head()  # read after the entries, so that it is never behind them
        if _is_number(number) and number > _number(last) and await audit.chain(_number(last), 1):
            continue
        return _verdict(last, _break_at_head(number, digest, last), has_noted=has_noted)


def _verdict(last: AuditEntry | None, broken: Break | None, *, has_noted: bool) -> Verdict:
    return Verdict(_number(last), "" if last is None else last.digest, broken, has_noted)


def _break_at(entry: AuditEntry, metadata: str, last: AuditEntry | None) -> Break | None:
    expected, previous = _number(last) + 1, "" if last is None else last.digest
    if not _is_number(entry.number):
        return Break(expected, entry.id, f"entry {expected} is missing, and one has {entry.number!r} as its number")
    if entry.number < expected:
        return Break(entry.number, entry.id, f"{_named(entry)} was put in")
    if entry.number != expected:
        return Break(expected, None, f"{_entries(expected, entry.number - 1)} missing")
    if not _is_as_written(entry, metadata):
        return Break(entry.number, entry.id, f"{_named(entry)} was changed")
    if entry.previous != previous:
        before = "nothing" if last is None else _named(last)
        return Break(entry.number, entry.id, f"{_named(entry)} does not follow on {before}: one of them was replaced")
    return None


def _is_as_written(entry: AuditEntry, metadata: str) -> bool:
    try:
        return audit_digest(entry, entry.number, entry.previous, metadata) == entry.digest
    except TypeError:  # SQLite lets any value stand in any column
        return False


def _is_number(found: object) -> bool:
    """Whether it is what the log is numbered with: SQLite lets any value stand in any column."""
    return isinstance(found, int)


def _break_at_head(number: int, digest: str, last: AuditEntry | None) -> Break | None:
    reached = _number(last)
    if not _is_number(number):
        return Break(reached + 1, None, f"the head says {number!r}, which is no number")
    if number > reached:
        missing = _entries(reached + 1, number)
        told = f"the head says {number}, but the last entry is {reached}: {missing} missing"
        return Break(reached + 1, None, told)
    if last is not None and number < reached:
        return Break(last.number, last.id, f"the head says {number}, but there is an {_named(last)}")
    if last is not None and digest != last.digest:
        return Break(last.number, last.id, f"{_named(last)} is not the one that the head tells of: it was replaced")
    if last is None and digest != "":
        return Break(0, None, "the head has a digest, but there is no entry")
    return None


def _entries(first: int, last: int) -> str:
    return f"entry {first} is" if first >= last else f"entries {first}–{last} are"


def _named(entry: AuditEntry) -> str:
    return f"entry {entry.number} ({entry.id})"


def _number(last: AuditEntry | None) -> int:
    return 0 if last is None else last.number
