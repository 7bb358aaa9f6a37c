"""Bring a database to the schema of this program: alembic's steps, in the caller's transaction.

On PostgreSQL an advisory lock that ends with the transaction lets programs that start at once go one by one; SQLite's
own write lock, which the transaction holds from its first statement, does the same.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, func, select

from optimizer.control_store.errors import StoreError

CONNECTION: Final = "connection"
VERSION_TABLE: Final = "optimizer_schema"
"""Where alembic notes the schema's version; its own default name may be taken in a shared database."""

_ADVISORY_LOCK: Final = 0x6C6C6D6F7074
_SCRIPTS: Final = Path(__file__).with_name("migrations")
# Alembic keeps what it works on in variables of its modules: one at a time in a process.
_ALEMBIC: Final = threading.Lock()


def to_head(connection: Connection, seconds: float) -> None:
    """Apply what the database lacks, within ``connection``'s transaction.

    Raises:
        StoreError: A newer program has written it, or another thread migrated for longer than ``seconds``.
        sqlalchemy.exc.SQLAlchemyError: The database refuses.
    """
    # Its reports of every start would be the only lines of a library in the program's output.
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes[CONNECTION] = connection
    with _alone(seconds):
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"the database's schema is not one of this program's ({error}): use the newer program"
            ) from error


@contextmanager
def _alone(seconds: float) -> Iterator[None]:
    if not _ALEMBIC.acquire(timeout=max(seconds, 0.0)):
        raise StoreError("another database is being migrated")
    try:
        yield
    finally:
        _ALEMBIC.release()
