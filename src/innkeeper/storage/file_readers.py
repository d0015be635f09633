"""File readers: what clients uploaded, what workspaces hold, and how much room an organization takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sqlalchemy import BigInteger, bindparam, func, literal_column, select

from innkeeper.core.files import Place, StoredFile, WorkspaceFile
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.times import Instant
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch, owned, visible
from innkeeper.storage.statements import Row, Statement

_files, _workspaces, _used = schema.files, schema.workspace_files, schema.storage_used
_FILE_COLUMNS = (
    _files.c.id,
    _files.c.organization,
    _files.c.owner,
    _files.c.user_id,
    _files.c.name,
    _files.c.purpose,
    _files.c.media_type,
    _files.c.size,
    _files.c.digest,
    _files.c.blob,
    _files.c.created_at,
    _files.c.expires_at,
)
_NOT_OVER = _files.c.expires_at.is_(None) | (_files.c.expires_at > bindparam("now", type_=BigInteger))
_FIND = Statement(
    select(*_FILE_COLUMNS).where(_files.c.id == bindparam("by_id"), owned(_files), _NOT_OVER), returns=True
)
_ROOM = Statement(select(_used.c.bytes).where(_used.c.organization == bindparam("by_organization")), returns=True)


@cache
def _page(*, has_purpose: bool, is_ascending: bool) -> Statement:
    query = select(*_FILE_COLUMNS).where(owned(_files), _NOT_OVER)
    if has_purpose:
        query = query.where(_files.c.purpose == bindparam("by_purpose"))
    if is_ascending:
        query = query.where(_files.c.id > bindparam("after")).order_by(_files.c.id)
    else:
        query = query.where(_files.c.id < bindparam("after")).order_by(_files.c.id.desc())
    return Statement(query.limit(bindparam("limit")), returns=True)


PAGES = tuple(_page(has_purpose=one, is_ascending=other) for one in (True, False) for other in (True, False))
"""Those that are made as they are asked for, for whoever looks at plans."""

_VERSION_COLUMNS = (
    _workspaces.c.path,
    _workspaces.c.version,
    _workspaces.c.media_type,
    _workspaces.c.size,
    _workspaces.c.digest,
    _workspaces.c.blob,
    _workspaces.c.author,
    _workspaces.c.created_at,
    _workspaces.c.is_current,
)
_here = (_workspaces.c.kind == bindparam("by_kind")) & (_workspaces.c.place == bindparam("by_place"))
_at = _here & (_workspaces.c.path == bindparam("by_path"))
_is_current = _workspaces.c.is_current == literal_column("1")
_LIST = Statement(select(*_VERSION_COLUMNS).where(_here, _is_current), returns=True)
_COUNTS = Statement(select(_workspaces.c.path, func.count()).where(_here).group_by(_workspaces.c.path), returns=True)
_CURRENT = Statement(select(*_VERSION_COLUMNS).where(_at, _is_current), returns=True)
_VERSION = Statement(
    select(*_VERSION_COLUMNS).where(_at, _workspaces.c.version == bindparam("by_version")), returns=True
)
_VERSIONS = Statement(select(*_VERSION_COLUMNS).where(_at).order_by(_workspaces.c.version.desc()), returns=True)


class StoredFiles:
    """Implements `ports.files.FileReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def find(self, caller: Caller, file_id: str, now: Instant) -> StoredFile | None:
        rows = await self._fetch(_FIND, {**visible(caller), "by_id": file_id, "now": now}, is_quick=True)
        return _file_of(rows[0]) if rows else None

    async def page(
        self,
        caller: Caller,
        now: Instant,
        *,
        limit: int,
        after: str | None = None,
        purpose: str | None = None,
        is_ascending: bool = False,
    ) -> tuple[Sequence[StoredFile], bool]:
        values = {**visible(caller), "now": now, "by_purpose": purpose, "limit": limit + 1}
        values["after"] = after or ("" if is_ascending else "g")  # ids begin with file-
        rows = await self._fetch(_page(has_purpose=purpose is not None, is_ascending=is_ascending), values)
        return [_file_of(row) for row in rows[:limit]], len(rows) > limit

    async def room_of(self, organization: str) -> int:
        rows = await self._fetch(_ROOM, {"by_organization": organization}, is_quick=True)
        return int(rows[0][0]) if rows else 0


class StoredWorkspaces:
    """Implements `ports.files.WorkspaceReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def all(self, place: Place) -> Sequence[WorkspaceFile]:
        values = {"by_kind": place.kind, "by_place": place.key}
        rows = await self._fetch(_LIST, values)
        counts = {row[0]: row[1] for row in (await self._fetch(_COUNTS, values) if rows else ())}
        return sorted((_version_of(row, counts.get(row[0], 1)) for row in rows), key=lambda file: file.path)

    async def find(self, place: Place, path: str, version: int | None = None) -> WorkspaceFile | None:
        values = {"by_kind": place.kind, "by_place": place.key, "by_path": path, "by_version": version}
        rows = await self._fetch(_CURRENT if version is None else _VERSION, values, is_quick=True)
        return _version_of(rows[0]) if rows else None

    async def versions(self, place: Place, path: str) -> Sequence[WorkspaceFile]:
        rows = await self._fetch(_VERSIONS, {"by_kind": place.kind, "by_place": place.key, "by_path": path})
        return [_version_of(row, len(rows)) for row in rows]


def _file_of(row: Row) -> StoredFile:
    file_id, organization, owner, *rest = row
    return StoredFile(file_id, Owner(organization, owner), *rest)


def _version_of(row: Row, version_count: int = 1) -> WorkspaceFile:
    path, version, media_type, size, digest, blob, author, created_at, is_current = row
    return WorkspaceFile(
        path, version, media_type, size, digest, blob, author, created_at, bool(is_current), version_count
    )
