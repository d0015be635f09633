"""File changes: blobs that are reserved, kept and thrown away, and the files that name them. Part of `core.changes`.

A blob is reserved before it is written, so that a crash leaves nothing that nobody knows of. Whatever names it takes it
out of the rubbish in the same commit; whatever drops its name puts it back.
"""

from __future__ import annotations

from dataclasses import dataclass

from innkeeper.core.files import Blob, Place, StoredFile, WorkspaceFile
from innkeeper.core.times import Instant


@dataclass(frozen=True, slots=True)
class ReserveBlobs:
    """Blobs of these ids are about to be written; they are rubbish from `due_at` on, unless they are kept by then."""

    blobs: tuple[str, ...]
    due_at: Instant


@dataclass(frozen=True, slots=True)
class KeepFile:
    """Store a file over the blob that was reserved until `due_at`; `Missing` if that is rubbish already.

    Raises: QuotaExceeded where its organization would have more than `quota` bytes.
    """

    file: StoredFile
    due_at: Instant
    quota: int | None


@dataclass(frozen=True, slots=True)
class DeleteFile:
    file_id: str
    now: Instant


@dataclass(frozen=True, slots=True)
class ForgetFiles:
    """Drop up to `limit` files whose time is over; `Derived` tells how many."""

    now: Instant
    limit: int


@dataclass(frozen=True, slots=True)
class Write:
    """A new version of a file. With `match`, only over one of that digest, `*` for any; with `is_new`, over none."""

    path: str
    media_type: str
    blob: Blob
    match: str | None = None
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Removal:
    """Drop a file with all of its versions; with `match`, only while its current one has that digest.

    One that `may_fail` and does not match stays, without refusing the rest.
    """

    path: str
    match: str | None = None
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class ChangeWorkspace:
    """Write and remove files of one workspace, all or none. Of each file `kept_versions` beside the current one stay.

    `Missing` where its session is gone, or a blob that was reserved is rubbish already, or what is to be removed alone
    is not there. Raises: PreconditionFailed; QuotaExceeded; Invalid for more than `max_files`, or for a file where
    there is a folder, or the other way round.
    """

    place: Place
    writes: tuple[Write, ...]
    removals: tuple[Removal, ...]
    author: str
    now: Instant
    kept_versions: int
    max_files: int
    quota: int | None


@dataclass(frozen=True, slots=True)
class TakeRubbish:
    """Up to `limit` blobs that are due and are nobody else's to remove until `held_until`."""

    now: Instant
    held_until: Instant
    limit: int


@dataclass(frozen=True, slots=True)
class DropRubbish:
    """These blobs have been removed."""

    blobs: tuple[str, ...]


FileChange = ReserveBlobs | KeepFile | DeleteFile | ForgetFiles | ChangeWorkspace | TakeRubbish | DropRubbish


@dataclass(frozen=True, slots=True)
class WorkspaceChanged:
    """The versions that were written, in the order of the writes, and the paths that were removed."""

    written: tuple[WorkspaceFile, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RubbishTaken:
    blobs: tuple[str, ...]


FileOutcome = WorkspaceChanged | RubbishTaken
