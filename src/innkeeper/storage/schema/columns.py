"""What all tables share: the metadata that names them, and the columns that say whose a row is."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, String

metadata = MetaData()


def owned() -> list[Column[str]]:
    """Whose a row is; it stands in every table that a caller may read."""
    return [
        Column("organization", String, nullable=False),
        Column("owner", String, nullable=False),
        Column("user_id", String, nullable=False),
    ]
