"""Files, by id and by path, and their blobs. A blob itself is behind a port, and not here."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, Table, Text, text

from innkeeper.storage.schema.columns import metadata, owned

# Files that clients uploaded, and files of workspaces, by version: the highest is the current one. A workspace is a
# session's or an agent's ("session", its key; "agent", its name). Contents are blobs, behind a port; a blob that no
# row names is rubbish, and is in `rubbish` from before it is written until a row names it.
files = Table(
    "files",
    metadata,
    Column("id", String, primary_key=True),
    *owned(),
    Column("name", Text, nullable=False),
    Column("purpose", String, nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index("files_by_owner", "organization", "owner", "id"),
    Index("files_by_user", "user_id", "organization", "id", sqlite_where=text("user_id <> owner"),
          postgresql_where=text("user_id <> owner")),
    Index("files_that_expire", "expires_at", sqlite_where=text("expires_at IS NOT NULL"),
          postgresql_where=text("expires_at IS NOT NULL")),
)  # fmt: skip

workspace_files = Table(
    "workspace_files",
    metadata,
    Column("kind", String, primary_key=True),
    Column("place", String, primary_key=True),
    Column("path", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("organization", String, nullable=False),
    Column("is_current", SmallInteger, nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", String, nullable=False),
    Column("blob", String, nullable=False),
    Column("author", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("workspace_files_now", "kind", "place", "path", unique=True, sqlite_where=text("is_current = 1"),
          postgresql_where=text("is_current = 1")),
    sqlite_with_rowid=False,
)  # fmt: skip

rubbish = Table(
    "rubbish",
    metadata,
    Column("blob", String, primary_key=True),
    Column("due_at", BigInteger, nullable=False),
    Index("rubbish_by_due", "due_at"),
)

# How many bytes of files each tenant keeps, old versions included.
storage_used = Table(
    "storage_used",
    metadata,
    Column("organization", String, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)
