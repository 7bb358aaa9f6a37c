"""Optimizations and audit in a database: SQLite by default, PostgreSQL by URL.

SQLAlchemy, alembic and psycopg are imported here and nowhere else, and only in a store's own threads after the first
call, so that neither the start nor the event loop waits for them.
"""
