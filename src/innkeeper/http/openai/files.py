"""Files of the OpenAI surface: uploaded once, named by their id in messages, and read back as attachments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from innkeeper.core.errors import (
    FileMissing,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    PayloadTooLarge,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
    StorageFull,
    StorageUnavailable,
    Unauthorized,
    Unparsable,
    UnsupportedMediaType,
)
from innkeeper.core.files import Blob, StoredFile
from innkeeper.core.paths import safe_name
from innkeeper.core.times import unix_seconds
from innkeeper.http.claims import REPLAYED, claim_of
from innkeeper.http.deps import CallerDep, Services, ServicesDep
from innkeeper.http.downloads import Content, download
from innkeeper.http.problems import problems
from innkeeper.http.routes import needs, surface
from innkeeper.http.uploads import Form
from innkeeper.services.files import PURPOSES

router = surface(prefix="/v1/files", tags=["Files"])

_AT_ONCE = 200
_SHORTEST, _LONGEST = 3600, 2_592_000
_READS = problems(Unauthorized, Forbidden, FileMissing, Invalid, StorageUnavailable)


class FileView(BaseModel):
    """A file as OpenAI's clients know it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, file: StoredFile) -> FileView:
        return cls(
            id=file.id,
            bytes=file.size,
            created_at=unix_seconds(file.created_at),
            expires_at=None if file.expires_at is None else unix_seconds(file.expires_at),
            filename=file.name,
            purpose=file.purpose,
        )


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileView]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


def form_of(properties: Mapping[str, Any], required: list[str], permission: str) -> dict[str, Any]:
    """What the OpenAPI document says of a route whose body is a form that we read ourselves."""
    schema = {"type": "object", "properties": dict(properties), "required": required}
    body = {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    return {**needs(permission), "requestBody": body}


FILE = {"type": "string", "format": "binary"}
_FORM = {
    "file": FILE,
    "purpose": {"type": "string", "enum": sorted(PURPOSES)},
    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
    "expires_after[seconds]": {"type": "integer", "minimum": _SHORTEST, "maximum": _LONGEST},
}


@router.post(
    "",
    response_model=FileView,
    responses=problems(
        Unauthorized, Forbidden, Invalid, Unparsable, UnsupportedMediaType, PayloadTooLarge, QuotaExceeded,
        IdempotencyMismatch, StorageUnavailable, StorageFull,
    ),
    openapi_extra=form_of(_FORM, ["file", "purpose"], "files:write"),
)  # fmt: skip
async def upload_file(request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """Upload a file, to name it by its id in messages: a form with `file` and `purpose`."""
    blob: Blob | None = None
    name, fields = "", dict[str, str]()
    contents = services.files.contents
    try:
        async for part in Form(request, files=1, file_bytes=contents.limits.file_bytes).parts():
            if part.filename is None:
                fields[part.name] = await part.text()
            elif part.name == "file":
                name, blob = safe_name(part.filename), await contents.write(caller.owner.organization, part.chunks)
            else:
                raise Invalid("file: send the file in a part called file.", param="file")
        if blob is None:
            raise Invalid("file: Field required", param="file")
        if "purpose" not in fields:
            raise Invalid("purpose: Field required", param="purpose")
        expires_after = _expiry(fields)
        told = json.dumps([name, blob.digest, fields], sort_keys=True).encode()
        claim = claim_of(request, told)
    except BaseException:
        if blob is not None:
            contents.drop((blob.id,))
        raise
    file, is_repeated = await services.files.keep(
        caller, blob, name=name, purpose=fields["purpose"], expires_after=expires_after, claim=claim
    )
    headers = {REPLAYED: "true"} if is_repeated else None
    return Response(FileView.of(file).model_dump_json(), 200, headers, media_type="application/json")


def _expiry(fields: Mapping[str, str]) -> int | None:
    """Seconds, where the form tells any. Raises: Invalid."""
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise Invalid("expires_after[anchor]: use created_at.", param="expires_after[anchor]")
    told = fields.get("expires_after[seconds]")
    if told is None:
        return None
    if not (told.isascii() and told.isdigit() and len(told) < 10 and _SHORTEST <= int(told) <= _LONGEST):
        raise Invalid(
            f"expires_after[seconds]: use a whole number of {_SHORTEST} to {_LONGEST}.",
            param="expires_after[seconds]",
        )
    return int(told)


@router.get("", responses=_READS, openapi_extra=needs("files:read"))
async def list_files(
    caller: CallerDep,
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Of more than 200, a page of 200 is told.")] = _AT_ONCE,
    after: Annotated[str | None, Query(max_length=64, description="The id of the last file of a page.")] = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> FileList:
    """Your files, newest first."""
    page, has_more = await services.files.page(
        caller, limit=min(limit, _AT_ONCE), after=after, purpose=purpose, is_ascending=order == "asc"
    )
    shown = [FileView.of(file) for file in page]
    return FileList(
        data=shown,
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
        has_more=has_more,
    )


@router.get("/{file_id}", responses=_READS, openapi_extra=needs("files:read"))
async def get_file(file_id: str, caller: CallerDep, services: ServicesDep) -> FileView:
    """One of your files."""
    return FileView.of(await services.files.get(caller, file_id))


@router.delete("/{file_id}", responses=_READS, openapi_extra=needs("files:write"))
async def delete_file(file_id: str, caller: CallerDep, services: ServicesDep) -> FileDeleted:
    """Remove a file; messages that name it tell agents so from then on."""
    await services.files.delete(caller, file_id)
    return FileDeleted(id=file_id)


@router.get(
    "/{file_id}/content",
    response_class=Response,
    responses={
        **problems(Unauthorized, Forbidden, FileMissing, PreconditionFailed, RangeNotSatisfiable, StorageUnavailable),
        200: {"content": {"*/*": {}}, "description": "The contents, as an attachment."},
        206: {"content": {"*/*": {}}, "description": "The part that Range asked for."},
    },
    openapi_extra=needs("files:read"),
)
async def get_content(file_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """The contents of a file, or the part of it that `Range` asks for."""
    return await _content(file_id, request, caller, services)


@router.head("/{file_id}/content", include_in_schema=False, openapi_extra=needs("files:read"))
async def head_content(file_id: str, request: Request, caller: CallerDep, services: ServicesDep) -> Response:
    """What a GET would tell of them."""
    return await _content(file_id, request, caller, services)


async def _content(file_id: str, request: Request, caller: CallerDep, services: Services) -> Response:
    file = await services.files.get(caller, file_id)
    content = Content(
        file.name,
        file.media_type,
        file.size,
        file.digest,
        lambda first, size: services.files.read(file, first, size),
    )
    return download(request, content)
