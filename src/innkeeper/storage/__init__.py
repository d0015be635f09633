"""Adapters that keep state: one schema and one set of programs, driven by SQLite or by PostgreSQL."""
