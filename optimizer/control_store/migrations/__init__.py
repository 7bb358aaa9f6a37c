"""The schema's steps, in order; alembic runs what a database lacks. A step that was released is never edited."""
