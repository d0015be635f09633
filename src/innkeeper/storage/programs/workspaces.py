"""Workspaces as programs: new versions of files, and files that go, all of one call or none.

A session's workspace is changed by whoever holds the session; an agent's, by whoever holds the account of the room that
it takes. Everything is checked before the first write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, bindparam, case, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from innkeeper.core.changes import Fence
from innkeeper.core.errors import Invalid, PreconditionFailed
from innkeeper.core.file_changes import ChangeWorkspace, Removal, WorkspaceChanged, Write
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.outcomes import Missing
from innkeeper.storage import schema
from innkeeper.storage.programs import files, sessions
from innkeeper.storage.statements import Program, Query, Statement

_table, _used = schema.workspace_files, schema.storage_used
_here = (_table.c.kind == bindparam("by_kind")) & (_table.c.place == bindparam("by_place"))
_at = _here & (_table.c.path == bindparam("by_path"))
_is_current = _table.c.is_current == literal_column("1")
_HOLD_ACCOUNT = Statement(
    upsert(_used)
    .values(organization=bindparam("organization"), bytes=literal_column("0"))
    .on_conflict_do_update(index_elements=[_used.c.organization], set_={"bytes": _used.c.bytes})
)
_VERSIONS = Statement(
    select(_table.c.version, _table.c.size, _table.c.digest, _table.c.blob).where(_at).order_by(_table.c.version),
    returns=True,
)
_PATHS = Statement(select(_table.c.path).where(_here, _is_current), returns=True)
_is_below = func.substr(_table.c.path, literal_column("1"), bindparam("length", type_=Integer)) == bindparam("below")
_AROUND = Statement(
    select(func.count(), func.max(case((_is_below, literal_column("1")), else_=literal_column("0")))).where(
        _here, _is_current
    ),
    returns=True,
)
"""How many files there are, and whether one is in a folder; not as a range, which would be the collation's."""
_IS_FILE = Statement(select(_table.c.path).where(_at, _is_current), returns=True)
_FEW = 16
"""As many questions are asked of a workspace rather than all of its paths read."""
_INSERT = Statement(insert(_table))
_SUPERSEDE = Statement(update(_table).where(_at, _is_current).values(is_current=literal_column("0")))
_THROW_AWAY = Statement(insert(schema.rubbish))
_DROP_VERSION = Statement(delete(_table).where(_at, _table.c.version == bindparam("by_version")))
FIND = Statement(
    select(_table.c.version).where(
        _at, _table.c.version == bindparam("by_version"), _table.c.blob == bindparam("by_blob")
    ),
    returns=True,
)


class _Version(NamedTuple):
    number: int
    size: int
    digest: str
    blob: str


Versions = Sequence[_Version]


def change(change: ChangeWorkspace, fence: Fence | None) -> Program:
    place = change.place
    if place.kind == "session":
        if not (yield Query(sessions.LOCK, {"by_key": place.key})):
            return Missing()
    else:
        yield Query(_HOLD_ACCOUNT, {"organization": place.organization})
    for write in change.writes:
        if not (yield Query(files.RESERVED, {"by_blob": write.blob.id, "by_due_at": write.blob.due_at})):
            return Missing()
    known: dict[str, Versions] = {}
    paths = {write.path for write in change.writes} | {removal.path for removal in change.removals}
    for path in sorted(paths):
        rows = yield Query(_VERSIONS, _where(place, path))
        known[path] = [_Version(*row) for row in rows]
    removals = [one for one in change.removals if _is_to_go(one, known[one.path])]
    if change.removals and not change.writes and not removals and not any(one.may_fail for one in change.removals):
        return Missing()
    for write in change.writes:
        _check(write, known[write.path])
    new = [write.path for write in change.writes if not known[write.path]]
    if len(new) == 1 and len(change.writes) == 1 and not removals and new[0].count("/") < _FEW:
        yield from _check_path(new[0], change)
    elif new:
        rows = yield Query(_PATHS, {"by_kind": place.kind, "by_place": place.key})
        _check_paths({path for (path,) in rows}, change, {one.path for one in removals})
    return (yield from _apply(change, known, removals))


def _apply(change: ChangeWorkspace, known: dict[str, Versions], removals: Sequence[Removal]) -> Program:
    going = [(one.path, version) for one in removals for version in known[one.path]]
    going += [
        (write.path, version)
        for write in change.writes
        for version in _too_many(known[write.path], change.kept_versions)
    ]
    delta = sum(write.blob.size for write in change.writes) - sum(version.size for _, version in going)
    yield from files.take_room(change.place.organization, delta, change.quota)
    for path, version in going:
        yield Query(_THROW_AWAY, {"blob": version.blob, "due_at": change.now})
        yield Query(_DROP_VERSION, {**_where(change.place, path), "by_version": version.number})
    written = []
    for write in change.writes:
        versions = known[write.path]
        if versions:
            yield Query(_SUPERSEDE, _where(change.place, write.path))
        yield Query(files.KEEP, {"by_blob": write.blob.id, "by_due_at": write.blob.due_at})
        file = _made(change, write, versions)
        yield Query(_INSERT, _cells(change.place, file))
        written.append(file)
    return WorkspaceChanged(tuple(written), tuple(one.path for one in removals))


def _where(place: Place, path: str) -> dict[str, Any]:
    return {"by_kind": place.kind, "by_place": place.key, "by_path": path}


def _is_to_go(removal: Removal, versions: Versions) -> bool:
    """Raises: PreconditionFailed where it must match, and does not."""
    if not versions:
        if removal.match is not None and not removal.may_fail:
            raise _changed(removal.path)
        return False
    if removal.match not in (None, "*", versions[-1].digest):
        if removal.may_fail:
            return False
        raise _changed(removal.path)
    return True


def _check(write: Write, versions: Versions) -> None:
    if write.is_new and versions:
        raise PreconditionFailed(f"There is a file {write.path!r} already.", param="If-None-Match")
    if write.match is not None and not (versions and write.match in ("*", versions[-1].digest)):
        raise _changed(write.path)


def _changed(path: str) -> PreconditionFailed:
    return PreconditionFailed(f"The file {path!r} is not what it was. Read it again.", param="If-Match")


def _check_path(path: str, change: ChangeWorkspace) -> Program:
    """The same as `_check_paths`, for one new path: what is there already has been checked."""
    place, below = change.place, f"{path}/"
    values = {"by_kind": place.kind, "by_place": place.key, "below": below, "length": len(below)}
    ((count, has_below),) = yield Query(_AROUND, values)
    _check_count(count + 1, count, change.max_files)
    for folder in _folders(path):
        if (yield Query(_IS_FILE, _where(place, folder))):
            raise _both(folder)
    if has_below:
        raise _both(path)


def _check_paths(paths: set[str], change: ChangeWorkspace, going: set[str]) -> None:
    """See that there are not too many files, and that nothing is a file and a folder at once."""
    after = (paths - going) | {write.path for write in change.writes}
    _check_count(len(after), len(paths), change.max_files)
    folders = {folder for path in after for folder in _folders(path)}
    if both := after & folders:
        raise _both(min(both))


def _check_count(after: int, before: int, most: int) -> None:
    if after > most and after > before:
        raise Invalid(f"path: a workspace may have {most} files; delete some.", param="path")


def _both(path: str) -> Invalid:
    return Invalid(f"path: {path!r} would be a file and a folder.", param="path")


def _folders(path: str) -> Iterator[str]:
    """The folders that a file is in."""
    end = path.find("/")
    while end >= 0:
        yield path[:end]
        end = path.find("/", end + 1)


def _too_many(versions: Versions, kept: int) -> Versions:
    """The oldest versions, but for as many as are kept beside a new one."""
    return versions[: max(0, len(versions) - kept)]


def _made(change: ChangeWorkspace, write: Write, versions: Versions) -> WorkspaceFile:
    kept = min(len(versions), change.kept_versions)
    return WorkspaceFile(
        path=write.path,
        version=versions[-1].number + 1 if versions else 1,
        media_type=write.media_type,
        size=write.blob.size,
        digest=write.blob.digest,
        blob=write.blob.id,
        author=change.author,
        created_at=change.now,
        version_count=kept + 1,
    )


def _cells(place: Place, file: WorkspaceFile) -> dict[str, Any]:
    return {
        "kind": place.kind,
        "place": place.key,
        "path": file.path,
        "version": file.version,
        "organization": place.organization,
        "is_current": 1,
        "media_type": file.media_type,
        "size": file.size,
        "digest": file.digest,
        "blob": file.blob,
        "author": file.author,
        "created_at": file.created_at,
    }
