"""Workspaces: the files of sessions, for their callers, and of agents, which administrators write and callers read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, TypeAdapter
from starlette.responses import JSONResponse, Response

from innkeeper.core.errors import (
    AgentNotFound,
    FileMissing,
    Forbidden,
    Invalid,
    NoAgents,
    PayloadTooLarge,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
    SessionNotFound,
    StorageFull,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from innkeeper.core.files import Place, WorkspaceFile
from innkeeper.core.identity import Caller
from innkeeper.http.deps import CallerDep, HouseDep, Services, ServicesDep
from innkeeper.http.downloads import Content, digest_of, download
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.uploads import raw
from innkeeper.services.workspaces import of_agent, of_session

router = surface(tags=["Workspaces"])

_OF_AGENT, _OF_SESSION = "/agents/{name}/workspace", "/sessions/{session_id}/workspace"
_LISTS = problems(Unauthorized, Forbidden, SessionNotFound, StorageUnavailable)
_READS: dict[int | str, dict[str, Any]] = {
    **problems(
        Unauthorized, Forbidden, Invalid, FileMissing, PreconditionFailed, RangeNotSatisfiable, StorageUnavailable
    ),
    200: {"content": {"*/*": {}}, "description": "The contents, as an attachment."},
    206: {"content": {"*/*": {}}, "description": "The part that Range asked for."},
}
_WRITES = problems(
    Unauthorized, Forbidden, Invalid, SessionNotFound, PreconditionFailed, PayloadTooLarge, QuotaExceeded,
    UnsupportedMediaType, StorageUnavailable, StorageFull,
)  # fmt: skip
_DELETES = problems(Unauthorized, Forbidden, Invalid, FileMissing, PreconditionFailed, StorageUnavailable)
_OF_AGENTS = problems(AgentNotFound, NoAgents)
_BODY = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
"""No body is an empty file."""

VersionNumber = Annotated[int | None, Query(ge=1, lt=2**31, description="An older version.")]
Versions = Annotated[
    str | None, Query(max_length=8, description="Say `true` to be told which versions there are, instead.")
]
UserId = Annotated[str | None, Query(description="The end user of the session, where several use its id.")]


class WorkspaceFileView(BaseModel):
    """A file of a workspace, as it is now."""

    name: str
    path: str
    size: int
    media_type: str
    version_count: int
    updated_at: datetime

    @classmethod
    def of(cls, file: WorkspaceFile) -> WorkspaceFileView:
        return cls(
            name=file.name,
            path=file.path,
            size=file.size,
            media_type=file.media_type,
            version_count=file.version_count,
            updated_at=_moment(file),
        )


_LIST = TypeAdapter(list[WorkspaceFileView])


class WrittenView(WorkspaceFileView):
    """What has been written, and as which version."""

    version: int

    @classmethod
    def of(cls, file: WorkspaceFile) -> WrittenView:
        shown = WorkspaceFileView.of(file)
        return cls(**shown.model_dump(), version=file.version)


class VersionView(BaseModel):
    version: int
    size: int
    media_type: str
    author: str
    created_at: datetime
    is_current: bool

    @classmethod
    def of(cls, file: WorkspaceFile) -> VersionView:
        return cls(
            version=file.version,
            size=file.size,
            media_type=file.media_type,
            author=file.author,
            created_at=_moment(file),
            is_current=file.is_current,
        )


class VersionList(BaseModel):
    """Newest first."""

    path: str
    versions: list[VersionView]


def _moment(file: WorkspaceFile) -> datetime:
    return datetime.fromtimestamp(file.created_at / 1_000_000, UTC)


async def _session(services: Services, caller: Caller, session_id: str, user_id: str | None) -> Place:
    session = await services.sessions.get(caller, session_id, user_id)
    return of_session(session.key, session.owner.organization)


async def _agent(house: HouseDep, name: str) -> Place:
    return of_agent((await house.agents.find(name)).name)


async def _list(services: Services, place: Place) -> Response:
    """Written in a thread: of a full workspace it takes long."""
    files = await services.workspaces.all(place)
    return Response(await asyncio.to_thread(_listed, files), media_type="application/json")


def _listed(files: Sequence[WorkspaceFile]) -> bytes:
    return _LIST.dump_json([WorkspaceFileView.of(file) for file in files])


async def _read(
    request: Request, services: Services, place: Place, path: str, version: int | None, versions: str | None
) -> Response:
    workspaces = services.workspaces
    if versions not in (None, "false", "0"):
        found = await workspaces.versions(place, path)
        told = VersionList(path=found[0].path, versions=[VersionView.of(one) for one in found])
        return JSONResponse(told.model_dump(mode="json"))
    file = await workspaces.find(place, path, version)
    content = Content(
        file.name, file.media_type, file.size, file.digest, lambda first, size: workspaces.read(file, first, size)
    )
    response = download(request, content)
    response.headers["x-file-version"] = str(file.version)
    return response


def _written(file: WorkspaceFile) -> Response:
    headers = {"etag": f'"{file.digest}"'}
    return JSONResponse(WrittenView.of(file).model_dump(mode="json"), 201 if file.version == 1 else 200, headers)


def _conditions(request: Request) -> dict[str, Any]:
    """What the file must be like for a write. Raises: Invalid."""
    none_match = request.headers.get("if-none-match")
    if none_match is not None and none_match.strip() != "*":
        raise Invalid("If-None-Match: use * to write a file only if there is none.", param="If-None-Match")
    return {"match": digest_of(request.headers.get("if-match")), "is_new": none_match is not None}


_FIRST: dict[int | str, dict[str, Any]] = {201: {"model": WrittenView, "description": "The first version of the file."}}

# of sessions


@router.get(
    _OF_SESSION, response_model=list[WorkspaceFileView], responses=_LISTS, openapi_extra=needs("workspaces:read")
)
async def list_session_files(
    session_id: str, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """The files of a session, by path."""
    return await _list(services, await _session(services, caller, session_id, user_id))


@router.get(
    _OF_SESSION + "/{path:path}", response_class=Response, responses=_READS, openapi_extra=needs("workspaces:read")
)
async def get_session_file(
    session_id: str,
    path: str,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    version: VersionNumber = None,
    versions: Versions = None,
    user_id: UserId = None,
) -> Response:
    """The contents of a file of a session, as an attachment: whole, in part, or of an older version."""
    place = await _session(services, caller, session_id, user_id)
    return await _read(request, services, place, path, version, versions)


@router.head(_OF_SESSION + "/{path:path}", include_in_schema=False, openapi_extra=needs("workspaces:read"))
async def head_session_file(
    session_id: str,
    path: str,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    version: VersionNumber = None,
    user_id: UserId = None,
) -> Response:
    """What a GET would tell of it."""
    place = await _session(services, caller, session_id, user_id)
    return await _read(request, services, place, path, version, None)


@router.put(
    _OF_SESSION + "/{path:path}",
    response_model=WrittenView,
    responses={**_FIRST, **_WRITES},
    openapi_extra={**needs("workspaces:write"), "requestBody": _BODY},
)
async def put_session_file(
    session_id: str, path: str, request: Request, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """Write a file, or a new version of it; the body is its contents. 201 for the first version."""
    place = await _session(services, caller, session_id, user_id)
    body = raw(request, services.files.contents.limits.file_bytes)
    file = await services.workspaces.write(place, path, body, author="client", **_conditions(request))
    return _written(file)


@router.delete(
    _OF_SESSION + "/{path:path}", status_code=204, responses=_DELETES, openapi_extra=needs("workspaces:write")
)
async def delete_session_file(
    session_id: str, path: str, request: Request, caller: CallerDep, services: ServicesDep, user_id: UserId = None
) -> Response:
    """Remove a file of a session with all of its versions."""
    place = await _session(services, caller, session_id, user_id)
    match = digest_of(request.headers.get("if-match"))
    await services.workspaces.delete(place, path, author="client", match=match)
    return Response(status_code=204)


# of agents


@router.get(
    _OF_AGENT,
    response_model=list[WorkspaceFileView],
    responses={**_LISTS, **_OF_AGENTS},
    openapi_extra=needs("workspaces:read"),
)
async def list_agent_files(name: str, house: HouseDep, services: ServicesDep) -> Response:
    """The files of an agent, by path."""
    return await _list(services, await _agent(house, name))


@router.get(
    _OF_AGENT + "/{path:path}",
    response_class=Response,
    responses={**_READS, **_OF_AGENTS},
    openapi_extra=needs("workspaces:read"),
)
async def get_agent_file(
    name: str,
    path: str,
    request: Request,
    house: HouseDep,
    services: ServicesDep,
    version: VersionNumber = None,
    versions: Versions = None,
) -> Response:
    """The contents of a file of an agent, as an attachment: whole, in part, or of an older version."""
    return await _read(request, services, await _agent(house, name), path, version, versions)


@router.head(_OF_AGENT + "/{path:path}", include_in_schema=False, openapi_extra=needs("workspaces:read"))
async def head_agent_file(
    name: str, path: str, request: Request, house: HouseDep, services: ServicesDep, version: VersionNumber = None
) -> Response:
    """What a GET would tell of it."""
    return await _read(request, services, await _agent(house, name), path, version, None)


@router.put(
    _OF_AGENT + "/{path:path}",
    response_model=WrittenView,
    responses={**_FIRST, **_WRITES, **_OF_AGENTS},
    openapi_extra={**needs("workspaces:admin"), "requestBody": _BODY},
)
async def put_agent_file(
    name: str, path: str, request: Request, caller: CallerDep, house: HouseDep, services: ServicesDep
) -> Response:
    """Write a file of an agent, or a new version of it; the body is its contents."""
    place = await _agent(house, name)
    entry = services.audit.entry(caller.owner, "workspace.write", "agent", place.key, {"path": path})
    body = raw(request, services.files.contents.limits.file_bytes)
    conditions = _conditions(request)
    file = await services.workspaces.write(place, path, body, author="operator", entry=entry, **conditions)
    return _written(file)


@router.delete(
    _OF_AGENT + "/{path:path}",
    status_code=204,
    responses={**_DELETES, **_OF_AGENTS},
    openapi_extra=needs("workspaces:admin"),
)
async def delete_agent_file(
    name: str, path: str, request: Request, caller: CallerDep, house: HouseDep, services: ServicesDep
) -> Response:
    """Remove a file of an agent with all of its versions."""
    place = await _agent(house, name)
    entry = services.audit.entry(caller.owner, "workspace.remove", "agent", place.key, {"path": path})
    match = digest_of(request.headers.get("if-match"))
    await services.workspaces.delete(place, path, author="operator", match=match, entry=entry)
    return Response(status_code=204)
