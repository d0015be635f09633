"""PostgreSQL: state in a database server, over asyncpg."""
