"""Followed runs as programs: the session of the run that a new one continues, locked; `conversations` finds the place.

Whatever its caller may not follow does not exist for it: another's run, one that was not recorded, or an end user's.
"""

from __future__ import annotations

from sqlalchemy import bindparam, literal_column, select

from innkeeper.core.changes import AcceptRun
from innkeeper.core.errors import PreviousRunNotFound
from innkeeper.storage import schema
from innkeeper.storage.programs import sessions
from innkeeper.storage.statements import Program, Query, Statement

_runs = schema.runs
_SESSION_OF = Statement(
    select(_runs.c.session_key).where(
        _runs.c.id == bindparam("by_id"),
        _runs.c.organization == bindparam("by_organization"),
        _runs.c.owner == bindparam("by_owner"),
        _runs.c.recorded == literal_column("1"),
    ),
    returns=True,
)


def missing(run_id: str) -> PreviousRunNotFound:
    """What to say of a run that cannot be followed, whatever the reason."""
    named = f"resp_{run_id.removeprefix('run_')}"
    return PreviousRunNotFound(f"Previous response {named!r} not found.", param="previous_response_id")


def session_of(change: AcceptRun, run_id: str) -> Program:
    """The cells of the session. Raises: PreviousRunNotFound."""
    owner = change.run.owner
    whose = {"by_organization": owner.organization, "by_owner": owner.user}
    found = yield Query(_SESSION_OF, {"by_id": run_id, **whose})
    rows = (yield Query(sessions.LOCK, {"by_key": found[0][0]})) if found else []
    if not rows:
        raise missing(run_id)
    cell = sessions.cells(rows[0])
    if change.names_user and cell["user_id"] != change.run.user_id:
        raise missing(run_id)
    return cell
