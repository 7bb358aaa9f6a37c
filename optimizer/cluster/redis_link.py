"""The one way to Redis: every call is answered or ends as ``Away``, within its time and without ever being repeated.

redis-py's pool, retries and time-outs are not used, only its connections: a command whose answer was lost may have
happened, and whether it may be said again is for the caller to know. A connection that failed is aborted, not closed:
closing would keep what could not be sent for as long as the other side stays silent. After a failure calls fail at once
for a short pause drawn at random, then one of them tries.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any, Final
from urllib.parse import quote, quote_plus

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from optimizer.cluster.types import Away

_log = logging.getLogger(__name__)

Argument = bytes | str | int | float

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
_CLOSE_S: Final = 1.0
# A connection that waits for messages is asked for a sign of life after this long without any.
_SILENCE_S: Final = 5.0
_CLOSED: Final = "the link to Redis is closed"
_PREFIX: Final = "llm-optimizer"


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script. It must give the same result when it is run twice, because an answer may be lost."""

    text: str
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class LinkCounts:
    """Totals since the link was made.

    ``calls`` were asked of Redis, ``failures`` of them got no answer, ``refusals`` an error for an answer;
    ``held_back`` failed at once because Redis was away a moment before.
    """

    calls: int = 0
    failures: int = 0
    refusals: int = 0
    held_back: int = 0
    connects: int = 0


class RedisLink:
    """Connections to one Redis, for one event loop. Connects with the first call and again whenever it has to."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        max_connections: int = 10,
        timeout_s: float = 5.0,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Get ready to speak to ``url``: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py writes them.

        Args:
            url: May hold user, password and database; ``?ssl_ca_certs=`` and the like go to redis-py.
            name: Of the cluster; all keys begin with it.
            max_connections: At most so many; one of them waits for messages. Less than 2 is taken for 2.
            timeout_s: Limit of a call that gives none, connecting and waiting for a free connection included.
            rng: Draws the pauses.
            clock: Monotonic seconds.

        Raises:
            ValueError: If the URL is none; the message does not hold it.
        """
        self.counts = LinkCounts()
        self.last_error = ""
        self.timeout_s = timeout_s
        self._name = name
        self._connection_class, self._options, self._secrets = _read_url(url)
        host, port = self._options.get("host", "localhost"), self._options.get("port", 6379)
        self.place: str = self._options.get("path") or f"{host}:{port}"
        self._options |= {
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "protocol": 2,
            "decode_responses": False,
        }
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._clock = clock
        self._most = max(max_connections, 2)
        self._room = asyncio.Semaphore(self._most - 1)
        self._sockets: set[_Socket] = set()
        self._idle: list[_Socket] = []
        self._connecting: set[asyncio.Task[_Socket]] = set()
        self._subscriptions: dict[str, Subscription] = {}
        self._up = False
        self._pause_s = 0.0
        self._retry_at = 0.0
        self._probing = False
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the last call was answered; False before the first."""
        return self._up

    def key(self, *parts: str | int) -> str:
        """The name of a key of this cluster: ``llm-optimizer:<cluster>:`` and the parts."""
        return ":".join((_PREFIX, self._name, *map(str, parts)))

    async def command(self, *words: Argument, timeout_s: float | None = None) -> Any:
        """Run one command; returns Redis' reply as bytes, int, None or a list of these.

        Raises:
            Away: No answer within ``timeout_s`` (the link's own by default), or an error for an answer.
        """
        (reply,) = await self._call([words], timeout_s)
        return reply

    async def pipeline(
        self, commands: Sequence[Sequence[Argument]], *, timeout_s: float | None = None
    ) -> list[Any]:
        """Run commands in their order, not as a transaction; returns a reply for each.

        Raises:
            Away: As for ``command``; if one got an error, all others were run all the same.
        """
        return await self._call(commands, timeout_s) if commands else []

    async def script(
        self,
        script: Script,
        keys: Sequence[str] = (),
        arguments: Sequence[Argument] = (),
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Run a Lua script as one step; its text is sent only when Redis does not know it (any more).

        Raises:
            Away: As for ``command``.
        """
        words = (len(keys), *keys, *arguments)
        known = ("EVALSHA", script.digest, *words)
        (reply,) = await self._call([known], timeout_s, ("EVAL", script.text, *words))
        return reply

    def subscribe(self, channel: str) -> "Subscription":
        """Messages on ``channel`` (a whole key) from now on; the same one for the same channel. Needs the loop."""
        if channel not in self._subscriptions:
            self._subscriptions[channel] = Subscription(self, channel)
        return self._subscriptions[channel]

    async def close(self) -> None:
        """Let go of everything, at once and whatever Redis does; calls that wait end as ``Away``."""
        self._closed = True
        self._up = False
        tasks: set[asyncio.Task[Any]] = {*self._connecting}
        tasks |= {each.task for each in self._subscriptions.values()}
        for task in tasks:
            task.cancel()
        for socket in list(self._sockets):
            self._drop(socket)
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_S)
        # Transports end with the loop's next turn.
        await asyncio.sleep(0)

    # --- inside -------------------------------------------------------------------------------------

    async def _call(
        self,
        commands: Sequence[Sequence[Argument]],
        timeout_s: float | None,
        unknown_script: Sequence[Argument] | None = None,
    ) -> list[Any]:
        limit = self.timeout_s if timeout_s is None else timeout_s
        probing = self._admit()
        self.counts.calls += 1
        try:
            async with asyncio.timeout(limit), self._room:
                try:
                    replies = await self._ask(commands)
                except NoScriptError:
                    if unknown_script is None:
                        raise
                    replies = await self._ask([unknown_script])
        except ReadOnlyError as error:
            # What was the master is a replica now; its name may lead to another by now.
            for socket in [*self._idle]:
                self._drop(socket)
            raise self._failed(error, probing) from None
        except ResponseError as error:
            raise self._refused(error) from None
        except TimeoutError:
            raise self._failed(f"no answer within {limit:g} s", probing) from None
        except (RedisError, OSError) as error:
            raise self._failed(error, probing) from None
        finally:
            if probing:
                self._probing = False
        self._pause_s = 0.0
        self._up = True
        return replies

    def _admit(self) -> bool:
        """Whether this call is the one that tries; raises when it must not even try."""
        if self._closed:
            raise Away(_CLOSED)
        if not self._pause_s:
            return False
        if self._probing or self._clock() < self._retry_at:
            self.counts.held_back += 1
            raise Away(f"Redis at {self.place} is away: {self.last_error}")
        self._probing = True
        return True

    def _failed(self, error: Exception | str, probing: bool) -> Away:
        self.counts.failures += 1
        if self._up:
            _log.warning("Redis at %s is away: %s", self.place, self._clean(error))
        self._up = False
        self.last_error = self._clean(error)
        if probing or not self._pause_s:
            # Of calls that fail together only the first counts.
            self._pause_s = min(max(self._pause_s * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._retry_at = self._clock() + self._pause_s * self._rng.uniform(0.5, 1.0)
        return Away(f"Redis at {self.place} is away: {self.last_error}")

    def _refused(self, error: Exception) -> Away:
        """An answer, so others may go on; but not what was asked for."""
        self.counts.refusals += 1
        self._pause_s = 0.0
        self._up = False
        self.last_error = self._clean(error)
        return Away(f"Redis at {self.place} refused: {self.last_error}")

    def _clean(self, error: Exception | str) -> str:
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:500]

    async def _ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        socket = self._take_idle() or await self._connect()
        done = False
        try:
            replies = await socket.ask(commands)
            done = True
        finally:
            # Whatever is still to come on this connection would be taken for the answer to something else.
            self._give_back(socket, usable=done)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

    def _take_idle(self) -> "_Socket | None":
        while self._idle:
            socket = self._idle.pop()
            if socket.usable:
                return socket
            # The server has closed it meanwhile; nothing was asked, so nothing is lost by taking another.
            self._drop(socket)
        return None

    async def _connect(self) -> "_Socket":
        """A new connection. Connecting goes on when the caller's time is over: the next call will use it."""
        if self._closed:
            raise ConnectionError(_CLOSED)
        task = asyncio.create_task(self._open())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and caller is not None and not caller.cancelling():
                raise ConnectionError(_CLOSED) from None
            task.add_done_callback(self._keep)
            raise

    def _keep(self, task: "asyncio.Task[_Socket]") -> None:
        if not task.cancelled() and task.exception() is None:
            self._give_back(task.result(), usable=len(self._sockets) <= self._most)

    async def _open(self) -> "_Socket":
        """Connect, sign in and choose the database, within the link's time-out."""
        connection = self._connection_class(**self._options)
        async with asyncio.timeout(self.timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]
        self.counts.connects += 1
        socket = _Socket(connection)
        self._sockets.add(socket)
        if self._closed:
            self._drop(socket)
        return socket

    def _give_back(self, socket: "_Socket", *, usable: bool) -> None:
        if usable and not self._closed:
            self._idle.append(socket)
        else:
            self._drop(socket)

    def _drop(self, socket: "_Socket") -> None:
        self._sockets.discard(socket)
        if socket in self._idle:
            self._idle.remove(socket)
        socket.abort()

    def _pause(self) -> float:
        return self._rng.uniform(0.5, 1.0) * max(self._pause_s, FIRST_PAUSE_S)


class Subscription:
    """Messages on one channel, as a hint that something happened. Made by ``RedisLink.subscribe``.

    Redis keeps no message for who is not connected, so a connection that was made anew counts as a message.
    """

    def __init__(self, link: RedisLink, channel: str) -> None:
        self._link = link
        self._channel = channel
        self._heard = asyncio.Event()
        self.task = asyncio.create_task(self._run(), name=f"redis {channel}")

    async def wait(self, timeout_s: float) -> bool:
        """Until there was a message since the last call, at most ``timeout_s``; False when there was none."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            return False
        self._heard.clear()
        return True

    async def _run(self) -> None:
        while not self._link._closed:
            # Calls find out sooner than we do, and when they are answered we are, too.
            with suppress(RedisError, OSError, TimeoutError):
                await self._listen()
            await asyncio.sleep(self._link._pause())

    async def _listen(self) -> None:
        socket = await self._link._open()
        try:
            async with asyncio.timeout(self._link.timeout_s):
                await socket.ask([("SUBSCRIBE", self._channel)])
            self._heard.set()
            waiting_for_pong = False
            while True:
                limit = self._link.timeout_s if waiting_for_pong else _SILENCE_S
                message = await socket.next_message(limit)
                if message is not None:
                    waiting_for_pong = False
                    if message[0] == b"message":
                        self._heard.set()
                elif waiting_for_pong:
                    return
                else:
                    waiting_for_pong = True
                    async with asyncio.timeout(self._link.timeout_s):
                        await socket.say([("PING",)])
        finally:
            self._link._drop(socket)


class _Socket:
    """One connection that has signed in.

    redis-py closes connections, and keeps to itself what is under them: there is no other way to abort one, or to see
    that the other side has closed it.
    """

    __slots__ = ("_connection", "_reader", "_transport")

    def __init__(self, connection: AbstractConnection) -> None:
        reader, writer = connection._reader, connection._writer
        if reader is None or writer is None:
            raise ConnectionError("the connection was lost at once")
        self._connection = connection
        self._reader = reader
        self._transport = writer.transport

    @property
    def usable(self) -> bool:
        return (
            self._connection.is_connected and not self._reader.at_eof() and not self._transport.is_closing()
        )

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run commands; the replies, of which those that are ``ResponseError`` are errors."""
        await self.say(commands)
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await self._connection.read_response(disable_decoding=True))
            except ResponseError as error:
                replies.append(error)
        return replies

    async def say(self, commands: Sequence[Sequence[Argument]]) -> None:
        await self._connection.send_packed_command(self._connection.pack_commands(commands))

    async def next_message(self, timeout_s: float) -> Any:
        """What Redis says next, None if nothing within ``timeout_s``."""
        return await self._connection.read_response(
            disable_decoding=True, timeout=timeout_s, disconnect_on_error=False
        )

    def abort(self) -> None:
        self._transport.abort()
        self._connection._reader = self._connection._writer = None


def _read_url(url: str) -> tuple[type[AbstractConnection], dict[str, Any], tuple[str, ...]]:
    """Class and options of a connection, and what must not be shown: the password as it is and as it is written."""
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        # redis-py's own words may hold a part of what it could not read.
        raise ValueError(
            "the Redis URL must be redis://, rediss:// or unix://, with a special character "
            "of a password written as %XX"
        ) from None
    made_of = options.pop("connection_class", Connection)
    password = options.get("password")
    if not password:
        return made_of, options, ()
    forms = {password, quote(password, safe=""), quote(password), quote_plus(password)}
    return made_of, options, tuple(sorted(forms, key=len, reverse=True))
