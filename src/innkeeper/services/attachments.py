"""Attachments: files that messages name, and what an agent is handed instead of the name.

A message keeps the name alone, so that no history has the same contents in each turn. `file_id` names a file of the
caller's; `workspace_file` one of the session's workspace. Links of the web are the agent's affair.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from innkeeper.core.errors import FileMissing, Invalid, StorageUnavailable
from innkeeper.core.files import StoredFile, WorkspaceFile
from innkeeper.core.identity import Caller
from innkeeper.core.media_types import IMAGES, is_text
from innkeeper.core.messages import Message, Part, normalise
from innkeeper.core.runs import Run
from innkeeper.services.files import Files
from innkeeper.services.workspaces import Workspaces, of_session

_logger = logging.getLogger(__name__)

MAX_BYTES = 32 * 1024 * 1024
"""Of all files that one turn is handed; older ones are named only."""
MAX_IMAGE = 8 * 1024 * 1024
MAX_TEXT = 64 * 1024
MAX_NAMED = 100
"""How many files the messages of one request may name."""


@dataclass(slots=True)
class _Room:
    left: int = MAX_BYTES

    def takes(self, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True


class Attachments:
    """Judges what requests name, and brings it to agents."""

    def __init__(self, *, files: Files, workspaces: Workspaces) -> None:
        self._files = files
        self._workspaces = workspaces

    async def check(self, caller: Caller, messages: Sequence[Message]) -> None:
        """See that every file is there and the caller's own.

        Raises: Invalid, in the same words for another's as for none.
        """
        parts = _parts(messages)
        if not parts:
            return
        names = {name for part in parts if (name := _file_id(part)) is not None}
        if len(names) > MAX_NAMED:
            raise Invalid(f"file_id: at most {MAX_NAMED} files in a request.", param="file_id")
        for part in parts:
            _check_workspace_file(part)
        for name in sorted(names):
            try:
                await self._files.get(caller, name)
            except FileMissing:
                raise Invalid("file_id: no such file; it may have been deleted.", param="file_id") from None

    async def resolved(self, run: Run, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages with the files in them, the newest first as long as there is room."""
        if not _parts(messages):
            return tuple(messages)
        room = _Room()
        told = [await self._resolve(run, message, room) for message in reversed(messages)]
        return tuple(reversed(told))

    async def _resolve(self, run: Run, message: Message, room: _Room) -> Message:
        if not isinstance(message.content, tuple) or not any(map(_names_a_file, message.content)):
            return message
        parts = [await self._part(run, part, room) if _names_a_file(part) else part for part in message.content]
        return replace(message, content=normalise(parts))

    async def _part(self, run: Run, part: Part, room: _Room) -> Part:
        file_id, reference = _file_id(part), _workspace_file(part)
        try:
            if file_id is not None:
                return await self._uploaded(await self._files.get(Caller(run.owner), file_id), room)
            assert reference is not None, "a part names one or the other"
            place = of_session(run.session_key, run.owner.organization)
            return await self._lying(
                await self._workspaces.find(place, str(reference["path"]), _version(reference)), room
            )
        except FileMissing:
            return _text("[a file was attached here, which has been deleted since]")
        except StorageUnavailable as error:
            _logger.warning("an attachment of run %s cannot be read: %s", run.id, error)
            return _text("[a file was attached here, which cannot be read now]")

    async def _uploaded(self, file: StoredFile, room: _Room) -> Part:
        """What is asked for by its id is handed over whole, whatever it is."""
        if not room.takes(file.size):
            return _text(f"[file {file.name}, {file.media_type}, {file.size} bytes: too large to be shown again]")
        url = await _data_url(file.media_type, self._files.read(file))
        if file.media_type in IMAGES:
            return {"type": "image_url", "image_url": {"url": url}}
        return {"type": "file", "file": {"filename": file.name, "file_data": url}}

    async def _lying(self, file: WorkspaceFile, room: _Room) -> Part:
        """A picture is shown, a short text quoted; of anything else the agent learns where it lies."""
        told = f"[file {file.path}, {file.media_type}, {file.size} bytes, in the workspace]"
        if file.media_type in IMAGES and file.size <= MAX_IMAGE and room.takes(file.size):
            url = await _data_url(file.media_type, self._workspaces.read(file))
            return {"type": "image_url", "image_url": {"url": url}}
        if is_text(file.media_type) and file.size <= MAX_TEXT and room.takes(file.size):
            data = b"".join([chunk async for chunk in self._workspaces.read(file)])
            return _text(f"{told}\n{data.decode(errors='replace')}")
        return _text(told)


def _parts(messages: Sequence[Message]) -> Sequence[Part]:
    return [part for message in messages if isinstance(message.content, tuple) for part in message.content]


def _names_a_file(part: Part) -> bool:
    return _file_id(part) is not None or _workspace_file(part) is not None


def _file_id(part: Part) -> str | None:
    """The name of an uploaded file, where the part has no contents of its own."""
    kind = part.get("type")
    raw = part.get("file") if kind == "file" else part if kind in ("input_file", "input_image") else None
    if not isinstance(raw, Mapping) or raw.get("file_data") or raw.get("file_url") or raw.get("image_url"):
        return None
    file_id = raw.get("file_id")
    return file_id if isinstance(file_id, str) and file_id else None


def _workspace_file(part: Part) -> Mapping[str, Any] | None:
    raw = part.get("workspace_file") if part.get("type") == "input_file" else None
    return raw if isinstance(raw, Mapping) else None


def _check_workspace_file(part: Part) -> None:
    raw = _workspace_file(part)
    if raw is not None and not (isinstance(raw.get("path"), str) and isinstance(_version(raw), int | None)):
        raise Invalid("workspace_file: give a path, and a version as a number if any.", param="workspace_file")


def _version(reference: Mapping[str, Any]) -> int | None:
    version = reference.get("version")
    return version if isinstance(version, int) and 0 < version < 2**31 else None


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


async def _data_url(media_type: str, chunks: AsyncIterator[bytes]) -> str:
    data = b"".join([chunk async for chunk in chunks])
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
