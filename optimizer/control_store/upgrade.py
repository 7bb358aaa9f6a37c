"""Bring a database to the schema of this program: alembic's steps, in the caller's transaction.

On PostgreSQL an advisory lock that ends with the transaction lets programs that start at once go one by one; SQLite's
own write lock, which the transaction holds from its first statement, does the same.

While nodes are upgraded one after the other, older programs work on with the newer schema. So steps only add: tables,
and columns that may be left out. They are numbered from 0001; one that older programs could not work with would begin
another thousand, and is what they refuse.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, func, select

from optimizer.control_store.errors import StoreError

CONNECTION: Final = "connection"
VERSION_TABLE: Final = "optimizer_schema"
"""Where alembic notes the schema's version; its own default name may be taken in a shared database."""

SCRIPTS: Final = Path(__file__).with_name("migrations")

_ADVISORY_LOCK: Final = 0x6C6C6D6F7074
_TOGETHER: Final = 1000
# Alembic keeps what it works on in variables of its modules: one at a time in a process.
_ALEMBIC: Final = threading.Lock()


def to_head(connection: Connection, seconds: float, *, scripts: Path = SCRIPTS) -> None:
    """Apply what the database lacks of ``scripts``, within ``connection``'s transaction.

    Raises:
        StoreError: A newer program has written it, and not only added to it; or another thread migrated for longer
            than ``seconds``.
        sqlalchemy.exc.SQLAlchemyError: The database refuses.
    """
    # Its reports of every start would be the only lines of a library in the program's output.
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes[CONNECTION] = connection
    with _alone(seconds):
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        try:
            if not _is_newer(connection, ScriptDirectory.from_config(config)):
                command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"the database's schema is not one of this program's ({error}): use the newer program"
            ) from error


def _is_newer(connection: Connection, scripts: ScriptDirectory) -> bool:
    """Whether a newer program has added to what this one knows, and to nothing else."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    present, known = context.get_current_revision(), scripts.get_current_head()
    if present is None or known is None or not present.isdigit():
        return False
    return int(known) < int(present) < (int(known) // _TOGETHER + 1) * _TOGETHER


@contextmanager
def _alone(seconds: float) -> Iterator[None]:
    if not _ALEMBIC.acquire(timeout=max(seconds, 0.0)):
        raise StoreError("another database is being migrated")
    try:
        yield
    finally:
        _ALEMBIC.release()
