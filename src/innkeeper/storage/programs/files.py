"""Files as programs: blobs are reserved and thrown away, uploaded files kept and dropped, room taken and given back.

Who changes what an organization keeps holds its row of `storage_used`, after the session where one is held.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, bindparam, delete, func, insert, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from innkeeper.core.administration import Derived
from innkeeper.core.changes import Fence
from innkeeper.core.errors import QuotaExceeded
from innkeeper.core.file_changes import (
    DeleteFile,
    DropRubbish,
    ForgetFiles,
    KeepFile,
    ReserveBlobs,
    RubbishTaken,
    TakeRubbish,
)
from innkeeper.core.files import StoredFile
from innkeeper.core.outcomes import Done, Missing
from innkeeper.storage import schema
from innkeeper.storage.records import plain
from innkeeper.storage.statements import Program, Query, Statement

_files, _rubbish, _used = schema.files, schema.rubbish, schema.storage_used
_at_once: ColumnElement[int] = literal_column("0")

RESERVE = Statement(insert(_rubbish))
# Whoever empties the rubbish moves `due_at`, so that a blob is not kept while it is being removed.
KEEP = Statement(
    delete(_rubbish)
    .where(_rubbish.c.blob == bindparam("by_blob"), _rubbish.c.due_at == bindparam("by_due_at", type_=BigInteger))
    .returning(_rubbish.c.blob),
    returns=True,
)
RESERVED = Statement(
    select(_rubbish.c.blob)
    .where(_rubbish.c.blob == bindparam("by_blob"), _rubbish.c.due_at == bindparam("by_due_at", type_=BigInteger))
    .with_for_update(),
    returns=True,
)
_DUE = Statement(
    select(_rubbish.c.blob)
    .where(_rubbish.c.due_at <= bindparam("now", type_=BigInteger))
    .order_by(_rubbish.c.due_at)
    .limit(bindparam("limit", type_=BigInteger))
    .with_for_update(skip_locked=True),
    returns=True,
)
_HOLD = Statement(
    update(_rubbish)
    .where(_rubbish.c.blob == bindparam("by_blob"))
    .values(due_at=bindparam("held_until", type_=BigInteger))
)
_DROP = Statement(delete(_rubbish).where(_rubbish.c.blob == bindparam("by_blob")))

_OPEN_ACCOUNT = Statement(
    upsert(_used).values(organization=bindparam("organization"), bytes=literal_column("0")).on_conflict_do_nothing()
)
_delta, _quota = bindparam("delta", type_=BigInteger), bindparam("quota", type_=BigInteger)
_TAKE_ROOM = Statement(
    update(_used)
    .where(
        _used.c.organization == bindparam("by_organization"),
        (_delta <= literal_column("0")) | (_used.c.bytes + _delta <= _quota),
    )
    .values(bytes=_used.c.bytes + _delta)
    .returning(_used.c.bytes),
    returns=True,
)
NO_QUOTA = 2**62

_INSERT = Statement(insert(_files))
_its = _files.c.id == bindparam("by_id")
_GIVE_BACK = Statement(
    update(_used)
    .where(_used.c.organization == select(_files.c.organization).where(_its).scalar_subquery())
    .values(bytes=_used.c.bytes - select(_files.c.size).where(_its).scalar_subquery())
)
_THROW_AWAY = Statement(insert(_rubbish).from_select(["blob", "due_at"], select(_files.c.blob, _at_once).where(_its)))
_DELETE = Statement(delete(_files).where(_its))
LOCK = Statement(select(_files.c.id).where(_its).with_for_update(), returns=True)
DROPS = (_GIVE_BACK, _THROW_AWAY, _DELETE)
"""What drops a file by its id, in this order, for whoever holds it."""
_EXPIRED = Statement(
    select(_files.c.id)
    .where(_files.c.expires_at <= bindparam("now", type_=BigInteger))
    .order_by(_files.c.expires_at)
    .limit(bindparam("limit", type_=BigInteger))
    .with_for_update(skip_locked=True),
    returns=True,
)
FIND = Statement(select(_files.c.id).where(_its, _files.c.blob == bindparam("by_blob")), returns=True)

_workspaces = schema.workspace_files
_of_session = (_workspaces.c.kind == literal_column("'session'")) & (_workspaces.c.place == bindparam("by_key"))
FORGET_WORKSPACE = (
    Statement(
        update(_used)
        .where(
            _used.c.organization
            == select(_workspaces.c.organization).where(_of_session).limit(literal_column("1")).scalar_subquery()
        )
        .values(
            bytes=_used.c.bytes
            - select(func.coalesce(func.sum(_workspaces.c.size), literal_column("0")))
            .where(_of_session)
            .scalar_subquery()
        )
    ),
    Statement(
        insert(_rubbish).from_select(["blob", "due_at"], select(_workspaces.c.blob, _at_once).where(_of_session))
    ),
    Statement(delete(_workspaces).where(_of_session)),
)
"""What drops a session's workspace, in this order, for whoever holds the session."""


def reserve(change: ReserveBlobs, fence: Fence | None) -> Program:
    for blob in change.blobs:
        yield Query(RESERVE, {"blob": blob, "due_at": change.due_at})
    return Done()


def take_room(organization: str, delta: int, quota: int | None) -> Program:
    """Count `delta` more bytes for an organization, or fewer. Raises: QuotaExceeded."""
    if not delta:
        return
    yield Query(_OPEN_ACCOUNT, {"organization": organization})
    values = {"by_organization": organization, "delta": delta, "quota": NO_QUOTA if quota is None else quota}
    if not (yield Query(_TAKE_ROOM, values)):
        raise QuotaExceeded(
            f"The files of your organization may have {quota} bytes in all. Delete some, or ask the operator for more"
            " (STORAGE_QUOTA).",
            details={"quota": quota},
        )


def keep(change: KeepFile, fence: Fence | None) -> Program:
    file = change.file
    if not (yield Query(KEEP, {"by_blob": file.blob, "by_due_at": change.due_at})):
        return Missing()
    yield from take_room(file.owner.organization, file.size, change.quota)
    yield Query(_INSERT, _cells(file))
    return Done()


def _cells(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "organization": file.owner.organization,
        "owner": file.owner.user,
        "user_id": file.user_id,
        "name": plain(file.name),
        "purpose": file.purpose,
        "media_type": file.media_type,
        "size": file.size,
        "digest": file.digest,
        "blob": file.blob,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
    }


def drop(change: DeleteFile, fence: Fence | None) -> Program:
    if not (yield Query(LOCK, {"by_id": change.file_id})):
        return Missing()
    for statement in DROPS:
        yield Query(statement, {"by_id": change.file_id})
    return Done()


def forget(change: ForgetFiles, fence: Fence | None) -> Program:
    found = yield Query(_EXPIRED, {"now": change.now, "limit": change.limit})
    for (file_id,) in found:
        for statement in DROPS:
            yield Query(statement, {"by_id": file_id})
    return Derived(len(found))


def take_rubbish(change: TakeRubbish, fence: Fence | None) -> Program:
    rows = yield Query(_DUE, {"now": change.now, "limit": change.limit})
    for (blob,) in rows:
        yield Query(_HOLD, {"by_blob": blob, "held_until": change.held_until})
    return RubbishTaken(tuple(blob for (blob,) in rows))


def drop_rubbish(change: DropRubbish, fence: Fence | None) -> Program:
    for blob in sorted(change.blobs):
        yield Query(_DROP, {"by_blob": blob})
    return Done()
