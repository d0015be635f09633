"""Proofs: how to see afterwards that a call of the journal was applied, when the answer to its COMMIT was lost.

Ids and instants are a call's own, so a row that bears them was written by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, select

from innkeeper.core.action_changes import Expired, Resumed, ResumeRun, TakeExpired, Waits
from innkeeper.core.administration import AddAdmin, AddCredits, Audited, RemoveBalance, SetBalance, WriteAudit
from innkeeper.core.changes import (
    AcceptInjection,
    AcceptRun,
    AppendMessages,
    BeginRun,
    Change,
    CreateSession,
    Fence,
    KeepClaim,
    RecordCredits,
    RequestCancel,
    TakeQueued,
)
from innkeeper.core.control_changes import CreateEngine, CreateToken, KeepLogs
from innkeeper.core.file_changes import ChangeWorkspace, KeepFile, ReserveBlobs, WorkspaceChanged
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.outcomes import Accepted, Appended, Begun, Cancelling, Done, Injected, Outcome, Steered, Taken
from innkeeper.storage import schema
from innkeeper.storage.programs import admins, audit, credits, files, log_records, workspaces
from innkeeper.storage.programs.control_proofs import control_proof
from innkeeper.storage.statements import Query, Statement

_sessions, _messages, _runs, _credits = schema.sessions, schema.messages, schema.runs, schema.credit_records
_RUN = Statement(select(_runs.c.id).where(_runs.c.id == bindparam("by_id")), returns=True)
_BEGUN = Statement(
    select(_runs.c.id).where(
        _runs.c.id == bindparam("by_id"),
        _runs.c.epoch == bindparam("by_epoch"),
        _runs.c.worker == bindparam("by_worker"),
    ),
    returns=True,
)
_DECIDED = Statement(
    select(schema.actions.c.id).where(
        schema.actions.c.run_id == bindparam("by_run"),
        schema.actions.c.id == bindparam("by_id"),
        schema.actions.c.decided_at == bindparam("by_decided_at"),
    ),
    returns=True,
)
_INJECTION = Statement(select(schema.injections.c.id).where(schema.injections.c.id == bindparam("by_id")), returns=True)
_ENGINE = Statement(select(schema.engines.c.id).where(schema.engines.c.id == bindparam("by_id")), returns=True)
_TOKEN = Statement(
    select(schema.tokens.c.id).where(
        schema.tokens.c.id == bindparam("by_id"), schema.tokens.c.digest == bindparam("by_digest")
    ),
    returns=True,
)
_claims = schema.idempotency_keys
_CLAIM = Statement(
    select(_claims.c.key).where(
        _claims.c.organization == bindparam("by_organization"),
        _claims.c.owner == bindparam("by_owner"),
        _claims.c.key == bindparam("by_key"),
        _claims.c.subject == bindparam("by_subject"),
        _claims.c.created_at == bindparam("by_created_at"),
    ),
    returns=True,
)
_SESSION = Statement(select(_sessions.c.key).where(_sessions.c.key == bindparam("by_key")), returns=True)
_MESSAGE = Statement(
    select(_messages.c.position).where(
        _messages.c.session_key == bindparam("by_key"),
        _messages.c.position == bindparam("by_position"),
        _messages.c.created_at == bindparam("by_created_at"),
        _messages.c.run_id.is_(None),
    ),
    returns=True,
)
_CREDIT = Statement(select(_credits.c.id).where(_credits.c.id == bindparam("by_id")), returns=True)


def proof(changes: Sequence[Change], outcomes: Iterable[Outcome]) -> Query | None:
    """Finds a row if and only if the call was applied; `None` where applying it again does no harm."""
    for change, outcome in zip(changes, outcomes, strict=True):
        match change, outcome:
            case AcceptRun(run=run), Accepted():
                return Query(_RUN, {"by_id": run.id})
            case BeginRun(run_id=run_id, worker=worker), Begun(epoch=epoch):
                return Query(_BEGUN, {"by_id": run_id, "by_epoch": epoch, "by_worker": worker})
            case TakeQueued(worker=worker), Taken(run=run, begun=Begun(epoch=epoch)):
                return Query(_BEGUN, {"by_id": run.id, "by_epoch": epoch, "by_worker": worker})
            case RequestCancel(worker=worker), Cancelling(fence=Fence(run_id=run_id, epoch=epoch)):
                return Query(_BEGUN, {"by_id": run_id, "by_epoch": epoch, "by_worker": worker})
            case ResumeRun(worker=worker), Resumed(fence=Fence(run_id=run_id, epoch=epoch)):
                return Query(_BEGUN, {"by_id": run_id, "by_epoch": epoch, "by_worker": worker})
            case ResumeRun(run_id=run_id, answers=(answer, *_), now=now), Waits():
                return Query(_DECIDED, {"by_run": run_id, "by_id": answer.action_id, "by_decided_at": now})
            case TakeExpired(worker=worker), Expired(runs=((_, Fence(run_id=run_id, epoch=epoch)), *_)):
                return Query(_BEGUN, {"by_id": run_id, "by_epoch": epoch, "by_worker": worker})
            case AcceptInjection(id=injection_id), Injected():
                return Query(_INJECTION, {"by_id": injection_id})
            case AcceptRun(), Steered(injection_id=injection_id):
                return Query(_INJECTION, {"by_id": injection_id})
            case KeepClaim(), Done():
                return _claimed(change)
            case CreateSession(session=session), _:
                return Query(_SESSION, {"by_key": session.key})
            case AppendMessages(session_key=key, now=now), Appended(messages=(first, *_)):
                return Query(_MESSAGE, {"by_key": key, "by_position": first.position, "by_created_at": now})
            case CreateEngine(engine=engine), Done():
                return Query(_ENGINE, {"by_id": engine.id})
            case CreateToken(token=token, digest=digest), _:
                return Query(_TOKEN, {"by_id": token.id, "by_digest": digest})
            case KeepLogs(records=(line, *_)), _:
                return Query(log_records.FIND, {"by_id": line.id})
            case ReserveBlobs(blobs=(blob, *_), due_at=due_at), _:
                return Query(files.RESERVED, {"by_blob": blob, "by_due_at": due_at})
            case KeepFile(file=file), Done():
                return Query(files.FIND, {"by_id": file.id, "by_blob": file.blob})
            case ChangeWorkspace(place=place), WorkspaceChanged(written=(version, *_)):
                return _written(place, version)
            case AddAdmin(admin=admin), Done():
                return Query(admins.FIND, {"by_id": admin.id, "by_email": admin.email})
            case WriteAudit(entry=entry), Audited():
                return Query(audit.FIND, {"by_id": entry.id})
            case SetBalance() | AddCredits() | RemoveBalance(), _:
                whose = {"by_organization": change.organization, "by_owner": change.user}
                return Query(credits.ENTRY, {**whose, "by_id": change.entry_id})
            case RecordCredits(records=(record, *_)), _:
                return Query(_CREDIT, {"by_id": record.id})
            case _:
                if (told := control_proof(change, outcome)) is not None:
                    return told
    return None


def _claimed(change: KeepClaim) -> Query:
    values = {
        "by_organization": change.owner.organization,
        "by_owner": change.owner.user,
        "by_key": change.claim.key,
        "by_subject": change.subject,
        "by_created_at": change.now,
    }
    return Query(_CLAIM, values)


def _written(place: Place, file: WorkspaceFile) -> Query:
    values = {"by_kind": place.kind, "by_place": place.key, "by_path": file.path}
    return Query(workspaces.FIND, {**values, "by_version": file.version, "by_blob": file.blob})
