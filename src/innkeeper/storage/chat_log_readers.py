"""Chat log readers: pages and sums of chat logs, each a walk of one index.

Who may see its own rows only has those walked, whatever else it asks for: what others have called by the same name
costs it nothing, and tells it nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Integer, Select, bindparam, case, func, literal_column, null, select

from innkeeper.core.chat_logs import ChatLog, ChatLogFilter, ChatStatistics
from innkeeper.core.identity import Caller, Owner
from innkeeper.core.logs import id_at
from innkeeper.core.messages import from_dict
from innkeeper.core.runs import RunError
from innkeeper.core.times import Instant
from innkeeper.core.usage import Usage
from innkeeper.storage import schema
from innkeeper.storage.readers import Fetch
from innkeeper.storage.records import loads
from innkeeper.storage.statements import Row, Statement

LONGEST = 65_536
"""Characters of what was said, as it is stored, beyond which it is not shown beside a row: 200 may be asked for."""

_logs, _runs, _outbox = schema.chat_logs, schema.runs, schema.outbox
_LATE = 1_000_000
"""Microseconds by which an id may tell another time than its row."""

_BEYOND_ALL = "g"
"""Sorts behind every id: they are hexadecimal."""

_FOREVER = 2**58
_IN = (_logs.c.id < bindparam("below")) & (_logs.c.id >= bindparam("floor"))
_own = (_logs.c.organization == bindparam("by_organization")) & (_logs.c.owner == bindparam("by_owner"))
_WALKS: Mapping[str, ColumnElement[bool]] = {
    "all": _IN,
    "owner": _own & _IN,
    "session": (_logs.c.session_id == bindparam("session_id")) & _IN,
    "user": (_logs.c.user_id == bindparam("user_id")) & _IN,
}
_NAMES = tuple(_WALKS)
_CRITERIA = ("session_id", "user_id", "agent_name", "endpoint", "status")


def _fits(name: str) -> ColumnElement[bool]:
    any_will_do = bindparam(f"any_{name}", type_=Integer) == literal_column("1")
    return any_will_do | (_logs.c[name] == bindparam(name))


_FITS = (
    _logs.c.created_at >= bindparam("since", type_=BigInteger),
    _logs.c.created_at < bindparam("until", type_=BigInteger),
    *(_fits(name) for name in _CRITERIA),
)
_COLUMNS = tuple(_logs.c)


def _short(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((func.length(column) <= literal_column(str(LONGEST)), column))


def _page(walk: ColumnElement[bool], *, with_contents: bool) -> Statement:
    said = (_short(_runs.c.input), _short(_runs.c.output)) if with_contents else (null(), null())
    query: Select[Any] = select(*_COLUMNS, *said)
    if with_contents:
        query = query.select_from(_logs.outerjoin(_runs, _runs.c.id == _logs.c.run_id))
    query = query.where(walk, *_FITS).order_by(_logs.c.id.desc())
    return Statement(query.limit(bindparam("limit")).offset(bindparam("passed")), returns=True)


def _count(walk: ColumnElement[bool]) -> Statement:
    return Statement(select(func.count()).select_from(_logs).where(walk, *_FITS), returns=True)


_apart: ColumnElement[str] = literal_column("'\x1f'")
_user = _logs.c.organization.concat(_apart).concat(_logs.c.user_id)
_session = _user.concat(_apart).concat(_logs.c.owner).concat(_apart).concat(_logs.c.session_id)
_zero: ColumnElement[int] = literal_column("0", Integer)
_one: ColumnElement[int] = literal_column("1", Integer)
_SUMS = (
    func.count(),
    func.sum(case((_logs.c.status == literal_column("'completed'"), _one), else_=_zero)),
    func.count(_session.distinct()),
    func.count(_user.distinct()),
    func.avg(_logs.c.response_time),
    func.min(_logs.c.response_time),
    func.max(_logs.c.response_time),
    func.sum(func.coalesce(_logs.c.input_tokens, _zero) + func.coalesce(_logs.c.output_tokens, _zero)),
    func.max(_logs.c.created_at),
)


def _statistics(walk: ColumnElement[bool]) -> Statement:
    return Statement(select(*_SUMS, null(), null()).where(walk, *_FITS), returns=True)


def _user_statistics(walk: ColumnElement[bool]) -> Statement:
    who = (_logs.c.organization, _logs.c.user_id)
    query = select(*_SUMS, *who).where(walk, *_FITS).group_by(*who)
    return Statement(query.order_by(func.count().desc(), *who).limit(bindparam("limit")), returns=True)


PAGES = tuple(_page(walk, with_contents=False) for walk in _WALKS.values())
PAGES_WITH_CONTENTS = tuple(_page(walk, with_contents=True) for walk in _WALKS.values())
COUNTS = tuple(_count(walk) for walk in _WALKS.values())
STATISTICS = tuple(_statistics(walk) for walk in _WALKS.values())
USER_STATISTICS = tuple(_user_statistics(walk) for walk in _WALKS.values())
_UNDERIVED = Statement(
    select(_outbox.c.run_id).where(_outbox.c.topic == literal_column("'log'")).limit(literal_column("1")), returns=True
)
_UNCOPIED = Statement(
    select(*_COLUMNS, _short(_runs.c.input), _short(_runs.c.output))
    .select_from(
        _outbox.join(_logs, _logs.c.id == func.substr(_outbox.c.run_id, literal_column("5"))).outerjoin(
            _runs, _runs.c.id == _outbox.c.run_id
        )
    )
    .where(_outbox.c.topic == literal_column("'copy'"), _outbox.c.run_id > bindparam("after"))
    .order_by(_outbox.c.run_id)
    .limit(bindparam("limit")),
    returns=True,
)


class StoredChatLogs:
    """Implements `ports.accounts.ChatLogReader`."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def page(
        self,
        caller: Caller,
        wanted: ChatLogFilter,
        *,
        limit: int,
        offset: int = 0,
        sees_all: bool = False,
        with_contents: bool = False,
    ) -> tuple[Sequence[ChatLog], int]:
        walk, values = _walk(wanted, sees_all), _values(caller, wanted)
        ((total,),) = await self._fetch(COUNTS[walk], values)
        if offset >= total:
            return [], total
        pages = PAGES_WITH_CONTENTS if with_contents else PAGES
        rows = await self._fetch(pages[walk], {**values, "limit": limit, "passed": offset})
        return [_chat_log_of(row) for row in rows], total

    async def statistics(self, caller: Caller, wanted: ChatLogFilter, *, sees_all: bool = False) -> ChatStatistics:
        rows = await self._fetch(STATISTICS[_walk(wanted, sees_all)], _values(caller, wanted))
        return _statistics_of(rows[0])

    async def user_statistics(
        self, caller: Caller, wanted: ChatLogFilter, *, limit: int, sees_all: bool = False
    ) -> Sequence[ChatStatistics]:
        values = {**_values(caller, wanted), "limit": limit}
        return [_statistics_of(row) for row in await self._fetch(USER_STATISTICS[_walk(wanted, sees_all)], values)]

    async def has_underived(self) -> bool:
        return bool(await self._fetch(_UNDERIVED, {}, is_quick=True))

    async def uncopied(self, limit: int, *, after: str = "") -> Sequence[ChatLog]:
        return [_chat_log_of(row) for row in await self._fetch(_UNCOPIED, {"limit": limit, "after": after})]


def _walk(wanted: ChatLogFilter, sees_all: bool) -> int:
    if not sees_all:
        return _NAMES.index("owner")
    if wanted.session_id is not None:
        return _NAMES.index("session")
    return _NAMES.index("all" if wanted.user_id is None else "user")


def _values(caller: Caller, wanted: ChatLogFilter) -> dict[str, Any]:
    until = _FOREVER if wanted.until is None else wanted.until
    values: dict[str, Any] = {
        "by_organization": caller.owner.organization,
        "by_owner": caller.owner.user,
        "floor": "" if wanted.since is None else id_at(Instant(wanted.since - _LATE)),
        "below": _BEYOND_ALL if wanted.until is None else id_at(Instant(until + _LATE)),
        "since": -_FOREVER if wanted.since is None else wanted.since,
        "until": until,
    }
    for name in _CRITERIA:
        value = getattr(wanted, name)
        values |= {name: value, f"any_{name}": int(value is None)}
    return values


def _chat_log_of(row: Row) -> ChatLog:
    *cells, said, answered = row
    cell = dict(zip((column.name for column in _COLUMNS), cells, strict=True))
    tokens, model = (cell.pop("input_tokens"), cell.pop("output_tokens")), cell.pop("model")
    error = cell.pop("error")
    return ChatLog(
        owner=Owner(cell.pop("organization"), cell.pop("owner")),
        error=None if error is None else RunError(**loads(error)),
        usage=None if tokens[0] is None else Usage(tokens[0], tokens[1] or 0, model),
        input=None if said is None else _said(said),
        output=None if answered is None else loads(answered),
        **cell,
    )


def _said(body: str) -> str | None:
    """What the user said in a run; `None` where nothing is kept of it."""
    texts = [message.text for raw in loads(body) if (message := from_dict(raw)).role == "user"]
    return "\n".join(texts) if texts else None


def _statistics_of(row: Row) -> ChatStatistics:
    count, succeeded, sessions, users, mean, least, most, tokens, last_at, organization, user_id = row
    return ChatStatistics(
        interactions=count,
        succeeded=int(succeeded or 0),
        sessions=sessions,
        users=users,
        mean_time=None if mean is None else float(mean),
        least_time=least,
        most_time=most,
        tokens=int(tokens or 0),
        organization=organization,
        user_id=user_id,
        last_at=last_at,
    )
