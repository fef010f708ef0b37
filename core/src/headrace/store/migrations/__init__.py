"""Alembic's migrations of the store; each executes one file of SQL."""
