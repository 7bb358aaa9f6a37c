"""PostgreSQL through psycopg, such that a server that does not answer can not keep a call for longer than it has.

Time-outs on every level, because each sees another failure: the server's own bound statements and locks, TCP's notice
a host that is gone, and each wait on the socket ends with the call, which is what helps against a server that is
there and says nothing. Settings are made per transaction, so that a connection pooler in between does no harm.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import URL, Connection, Engine, create_engine, event

from optimizer.control_store.errors import StoreError
from optimizer.control_store.plain import encode

RV = TypeVar("RV")

_LEAST_S = 0.001
# SQL_ASCII takes whatever bytes it is given.
_ENCODINGS = ("UTF8", "SQL_ASCII")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose waits end at ``deadline()`` on the monotonic clock; it is closed then."""

    deadline: Callable[[], float] = staticmethod(lambda: math.inf)

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, within the deadline.

        Raises:
            psycopg.OperationalError: The server did not answer in time, or what its answer says.
        """
        left = self.deadline() - time.monotonic()
        try:
            return super().wait(gen, interval, min(max(left, _LEAST_S), timeout or math.inf))
        except psycopg.Error:
            if time.monotonic() < self.deadline():
                raise
            # In the middle of an exchange nobody can say what the next answer would belong to.
            self.close()
            raise psycopg.OperationalError("the server does not answer") from None


def engine(url: URL, *, timeout_s: float, deadline: Callable[[], float]) -> Engine:
    """An engine of one connection for one thread; ``deadline()`` is when its present call has to be over."""
    ours: dict[str, Any] = {
        "application_name": "llm-optimizer",
        "client_encoding": "utf8",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": str(math.ceil(timeout_s * 1000)),
        # A pooler gives each transaction another server connection, which would not know the statement.
        "prepare_threshold": None,
    }
    made = create_engine(
        url,
        pool_size=1,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        hide_parameters=True,
        json_serializer=encode,
        use_native_hstore=False,
        connect_args={name: value for name, value in ours.items() if name not in url.query},
    )

    def connect(_dialect: Any, _record: Any, args: list[Any], options: dict[str, Any]) -> BoundedConnection:
        left = deadline() - time.monotonic()
        if left <= 0:
            raise psycopg.OperationalError("the server does not answer")
        connection = BoundedConnection.connect(*args, **{**options, "connect_timeout": math.ceil(left)})
        connection.deadline = deadline
        return connection

    bounds = ", ".join(
        f"set_config('{name}', '{math.ceil(timeout_s * 1000)}', true)"
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    )

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT {bounds}")

    event.listen(made, "do_connect", connect)
    event.listen(made, "begin", begin)
    return made


def examine(connection: Connection) -> None:
    """Look whether the database takes every text.

    Raises:
        StoreError: It does not: one name could then block all that is to be stored after it.
    """
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding not in _ENCODINGS:
        raise StoreError(f"the database is encoded in {encoding}: make one with ENCODING 'UTF8'")
