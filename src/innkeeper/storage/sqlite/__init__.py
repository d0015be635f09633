"""SQLite: one file, one serving process, WAL with synchronous=FULL."""
