"""The PostgreSQL backend: several nodes on the database that a site already has, without Redis.

Everything is in one table. A transaction that locks a chat's row ``head``, which has its position, is alone
with it: the order of offsets is that of commits, and of notifications. All nodes listen to one channel, take
what concerns their chats, and fetch what is too long for a notification. Commits don't wait for the disk: a
crash of the database may lose the last moments, and a new epoch begins.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from eclipse_ws.backends import base
from eclipse_ws.backends.base import Key, Position, Record, Rejected, Subscription, Unavailable
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt, parse_event, parse_events, saved_id
from eclipse_ws.protocol.events import with_cursor, with_origin

log = structlog.get_logger("eclipse_ws.postgres")

TIMEOUT: Final = 5.0  # seconds for one command, and to connect
HEARTBEAT: Final = 10.0  # seconds between sweeps of expired rows, which show whether the connection works
PAUSES: Final = (0.1, 5.0)  # seconds between attempts to connect, doubled from the first to the last
CONNECTIONS: Final = 4  # for commands; one more listens
INLINE: Final = 5600  # bytes that fit, in Base64, into a notification (8000)
MAX_WAITING: Final = 1000  # ephemeral events that wait to be sent
MAX_OFFSET: Final = 1 << 62
POSITION_SECONDS: Final = 86400.0  # for which a position is kept after the chat was last used
FETCH_SECONDS: Final = 60.0  # for which a long notification can be fetched
NEVER: Final = ("28", "3D", "3F", "42501")  # SQLSTATEs: wrong user or password, database, schema, rights
PASSING: Final = ("08", "25", "40", "53", "55", "57", "58")  # SQLSTATEs of the server, not of one command
NOTHING: Final = (Key("", ""), Record("none"))

# kind: head (place and identity of the last event), event, key (an attempt), long (what is to be fetched).
TABLE: Final = """
CREATE TABLE eclipse_ws (
  chat uuid, kind text, name bytea, epoch text NOT NULL, place bigint NOT NULL, body bytea NOT NULL,
  made timestamptz NOT NULL, expires timestamptz NOT NULL, PRIMARY KEY (chat, kind, name)
) WITH (fillfactor = 70);
CREATE INDEX ON eclipse_ws (expires)"""
BEGIN: Final = """BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off;
SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '5s'"""
PUT: Final = """
INSERT INTO eclipse_ws VALUES ($1, $2, $3, $4, $5, $6, now(), now() + make_interval(secs => $7))
ON CONFLICT (chat, kind, name) DO UPDATE SET epoch = $4, place = $5, body = $6, made = now(),
  expires = excluded.expires"""
LOCK: Final = """
INSERT INTO eclipse_ws VALUES ($1, 'head', '', $2, 0, '', now(), now() + make_interval(secs => $3))
ON CONFLICT (chat, kind, name) DO UPDATE SET expires = eclipse_ws.expires RETURNING epoch, place, body"""
FIND: Final = """SELECT epoch, place, body, extract(epoch FROM now() - made) AS age FROM eclipse_ws
WHERE chat = $1 AND kind = $2 AND name = $3 AND expires > now()"""
REST: Final = """SELECT kind, place, body, CASE kind WHEN 'head' THEN body ELSE name END AS identity
FROM eclipse_ws WHERE chat = $1 AND kind IN ('event', 'head') AND epoch = $2 AND place >= $3
AND expires > now() ORDER BY place"""
NOTIFY: Final = "SELECT pg_notify('eclipse_ws_' || 'eclipse_ws'::regclass::oid, $1)"
TRIM: Final = """DELETE FROM eclipse_ws WHERE chat = $1 AND kind = 'event' AND name = ANY (ARRAY(
  SELECT name FROM (
    SELECT name, row_number() OVER newest AS number, sum(octet_length(body)) OVER newest AS bytes
    FROM eclipse_ws WHERE chat = $1 AND kind = 'event'
    WINDOW newest AS (ORDER BY epoch = $2 DESC, place DESC ROWS UNBOUNDED PRECEDING)
  ) kept WHERE number > 1 AND (number > $3 OR bytes > $4)))"""
SWEEP: Final = """DELETE FROM eclipse_ws WHERE ctid = ANY (ARRAY(
SELECT ctid FROM eclipse_ws WHERE expires < now() LIMIT 1000 FOR UPDATE SKIP LOCKED))"""
# Who listens holds a lock named after the table; a node that vanishes holds it for half a minute.
LISTEN: Final = """SET tcp_user_timeout = 15000; SET tcp_keepalives_idle = 15;
SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SELECT pg_advisory_lock_shared('eclipse_ws'::regclass::oid::int, 0)"""
LISTENING: Final = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
(SELECT oid FROM pg_database WHERE datname = current_database()) AND classid = 'eclipse_ws'::regclass
AND $1 IN ('*', pid::text)"""


class PostgresBackend(base.Backend):
    """See the module. An address is the process id of the node's listening connection."""

    name = "postgres"
    timeout = TIMEOUT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listener: base.Listener = base.NullListener()
        self._chats: dict[str, str] = {}  # the subscribed ones, by their names in the database
        self._heard: asyncio.Queue[str] = asyncio.Queue()  # no longer than what comes during a fetch
        self._broadcasts: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._state: base.Availability = "connecting"
        self._latency: float | None = None
        self._listening: asyncpg.Connection[Any] | None = None
        self._pool: asyncpg.Pool[Any] | None = None
        self._look = asyncio.Event()

    @property
    def health(self) -> base.Health:
        """See the contract."""
        return base.Health(self.name, self._state, self._latency)

    async def start(self, listener: base.Listener) -> None:
        """See the contract."""
        self._listener = listener
        try:
            await self._connect()
        except Exception as error:
            never = _state(error).startswith(NEVER) or isinstance(error, asyncpg.ClientConfigurationError)
            self._disconnect(None if never else error)
            if never:
                raise base.BackendError(f"PostgreSQL refuses this: {error}. Check DATABASE_URL") from None
        self._tasks = [asyncio.create_task(each()) for each in (self._run, self._hear, self._send)]

    async def close(self) -> None:
        """See the contract."""
        self._listener = base.NullListener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):  # in order if that takes a moment, else as they are
            async with asyncio.timeout(1):
                if self._listening is not None:  # the server notices an ended connection later
                    await self._listening.execute("SELECT pg_advisory_unlock_all()")
                if self._pool is not None:  # a connection may still be on its way back
                    await self._pool.close()
        self._disconnect()

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        self._chats[str(_name(chat_id))] = chat_id
        rows: Sequence[Any] = ()
        async with self._locked(chat_id) as (connection, chat, at):
            offset, renewed = 0, renew and known is None
            if known is not None and known.cursor.epoch == at.cursor.epoch:
                offset = known.cursor.offset
                rows = await connection.fetch(REST, chat, at.cursor.epoch, min(offset, MAX_OFFSET))
                # The database went back in time if it has less than is known, or another event in its place.
                there = {row["identity"] for row in rows if row["place"] == offset}
                differs = bool(known.identity) and not there <= {known.identity.encode(), b""}
                renewed = renew or differs or offset > at.cursor.offset
            if renewed:
                start = Cursor(secrets.token_hex(6), 0)
                await connection.execute(PUT, chat, "head", b"", *start, b"", POSITION_SECONDS)
                return Subscription(Position(start), renewed=True)
            return Subscription(at, _after(rows, offset))

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract; only this node has to know it."""
        for chat_id in chat_ids:
            self._chats.pop(str(_name(chat_id)), None)

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """See the contract."""
        identity, kept = event.identity.encode(), self._settings.history_seconds
        bounds = self._settings.history_events, self._settings.history_bytes
        async with self._locked(chat_id) as (connection, chat, at):
            rows: list[tuple[Any, ...]] = []
            if found := await connection.fetchrow(FIND, chat, "event", identity):
                cursor = Cursor(found["epoch"], found["place"])
            else:
                cursor = Cursor(at.cursor.epoch, at.cursor.offset + 1)
                if known is not None and known.epoch == cursor.epoch and known.offset >= cursor.offset:
                    cursor = Cursor(secrets.token_hex(6), 1)
                body = with_cursor(event.body, cursor)
                payload, rows = _payload(str(chat), body)
                rows.append((chat, "head", b"", *cursor, identity, POSITION_SECONDS))
                rows.append((chat, "event", identity, *cursor, body, kept))
            if key is not None:
                done = Record("done", Receipt(saved_id(event), str(cursor), "published"))
                body = msgspec.json.encode((Key("", "", key.fingerprint), done))
                rows.append((chat, "key", key.name.encode(), "", 0, body, kept))
            await connection.executemany(PUT, rows)
            if not found:
                await connection.execute(TRIM, chat, cursor.epoch, *bounds)
                await connection.execute(NOTIFY, payload)
            return cursor, not found

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        async with self._transaction() as connection:
            rows = await connection.fetch(REST, _name(chat_id), after.epoch, min(after.offset, MAX_OFFSET))
        newer = known is not None and known.epoch == after.epoch and rows and known.offset > rows[-1]["place"]
        return None if newer else _after(rows, after.offset)

    def broadcast(self, chat_id: str, event: Event) -> None:
        """See the contract."""
        body = with_origin(event) if event.origin else event.body
        if self._state != "up" or len(body) > INLINE or self._broadcasts.full():
            self.broadcasts_dropped += 1
        else:
            self._broadcasts.put_nowait(_payload(str(_name(chat_id)), body)[0])

    async def record(
        self,
        chat_id: str,
        key: Key,
        step: base.Step,
        *,
        retry_unknown: bool = False,
        receipt: Receipt | None = None,
    ) -> Record:
        """See the contract."""
        async with self._locked(chat_id) as (connection, chat, _):
            name, kept = key.name.encode(), self._settings.history_seconds
            row = await connection.fetchrow(FIND, chat, "key", name)
            was, found = msgspec.json.decode(row["body"], type=tuple[Key, Record]) if row else NOTHING
            if was.differs(key.fingerprint):
                return Record("reused")
            state, own = found.state, found.state == "pending" and was.token == key.token
            if own and step == "pending":
                state = "none"  # before this attempt
            elif state == "pending" and row["age"] > base.patience(self._settings):
                state = "unknown"  # its node is gone, and with it the outcome
            may_begin = state in ("none", "released") or (state == "unknown" and retry_unknown)
            may_end = own or step == "done" or (step == "unknown" and state == "none")
            if may_begin if step == "pending" else may_end:
                holder = Key("", key.token, key.fingerprint or was.fingerprint)
                now = NOTHING if step == "forgotten" else (holder, Record(step, receipt))
                await connection.execute(PUT, chat, "key", name, "", 0, msgspec.json.encode(now), kept)
            return Record(state, found.receipt)

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract."""
        payload, rows = _payload(address or "*", note)
        async with self._transaction() as connection:
            await connection.executemany(PUT, rows)
            await connection.execute(NOTIFY, payload)
            return int(await connection.fetchval(LISTENING, address or "*"))

    @asynccontextmanager
    async def _locked(self, chat_id: str) -> AsyncIterator[tuple[Any, uuid.UUID, Position]]:
        """A transaction that is alone with a chat, the chat's name, and its position."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(LOCK, _name(chat_id), secrets.token_hex(6), POSITION_SECONDS)
            yield connection, _name(chat_id), Position(Cursor(row[0], row[1]), row[2].decode())

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """A transaction on a connection of the pool. Raises Unavailable or Rejected."""
        if self._pool is None:
            raise Unavailable("PostgreSQL is unavailable")
        try:
            async with asyncio.timeout(TIMEOUT), self._pool.acquire() as connection:
                try:
                    await connection.execute(BEGIN)
                    yield connection
                    await connection.execute("COMMIT")
                except BaseException:
                    connection.terminate()  # which rolls back, and never waits
                    raise
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
            raise Rejected(f"PostgreSQL can't keep this: {error!r}") from error
        except Exception as error:
            self._look.set()
            refused = isinstance(error, asyncpg.PostgresError) and not _state(error).startswith(PASSING)
            raise Unavailable(repr(error), asked=True, refused=refused) from error

    async def _run(self) -> None:
        """Keep the connections, forever, and sweep."""
        pause, last = PAUSES
        while True:
            try:
                listening = self._listening or await self._connect()
                pause = PAUSES[0]
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), HEARTBEAT)
                await asyncio.sleep(pause)  # many commands may fail at once
                self._look.clear()
                deleted = "DELETE 1000"
                while deleted == "DELETE 1000":
                    began = time.monotonic()
                    deleted = await listening.execute(SWEEP, timeout=TIMEOUT)
                    self._latency = time.monotonic() - began
            except Exception as error:  # whatever it is, the next attempt may succeed
                self._disconnect(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, last)

    async def _connect(self) -> Any:
        # A server that only reads, such as a primary that was demoted, is as good as none.
        where = {"dsn": self._settings.database_url.get_secret_value(), "target_session_attrs": "read-write"}
        async with asyncio.timeout(4 * TIMEOUT):
            self._listening = listening = await asyncpg.connect(**where, timeout=TIMEOUT)
            listening.add_termination_listener(lambda _: self._look.set())
            async with listening.transaction():  # nodes that start at once do it one after another
                await listening.execute("SELECT pg_advisory_xact_lock(hashtext('eclipse_ws'))")
                if await listening.fetchval("SELECT to_regclass('eclipse_ws')::oid") is None:
                    await listening.execute(TABLE)
            await listening.execute(LISTEN)
            table, process = await listening.fetchrow("SELECT 'eclipse_ws'::regclass::oid, pg_backend_pid()")
            await listening.add_listener(
                f"eclipse_ws_{table}", lambda *about: self._heard.put_nowait(str(about[-1]))
            )
            self._pool = await asyncpg.create_pool(**where, min_size=0, max_size=CONNECTIONS, timeout=TIMEOUT)
            self.address = str(process)
        self._state = "up"
        log.info("PostgreSQL connected")
        self._listener.restored()
        return listening

    def _disconnect(self, error: Exception | None = None) -> None:
        was, self._state = self._state, "down"
        if error is not None and was != "down":
            log.warning("PostgreSQL unavailable", why=repr(error))
        for each in (self._listening, self._pool):
            if each is not None:
                each.terminate()
        self._listening = self._pool = None
        while not self._heard.empty():
            self._heard.get_nowait()
        if was == "up":
            self._listener.lost()

    async def _hear(self) -> None:
        """Hand on what is heard, one after another, so that what has to be fetched keeps its place."""
        while True:
            target, _, data = (await self._heard.get()).partition(" ")
            chat_id = self._chats.get(target)
            if chat_id is None and target not in ("*", self.address):
                continue
            try:
                body = await self._fetch(data[1:]) if data.startswith("#") else base64.b64decode(data)
                if chat_id is None:
                    self._listener.notice(body)
                else:
                    self._listener.deliver(chat_id, parse_event(body))
            except Exception as error:  # what was sent is lost, so that every chat is subscribed again
                self._disconnect(error)
                self._look.set()

    async def _fetch(self, name: str) -> bytes:
        async with self._transaction() as connection:
            row = await connection.fetchrow(FIND, uuid.UUID(name), "long", b"")
            return bytes(row["body"])  # an error if it has expired

    async def _send(self) -> None:
        while True:
            payload = await self._broadcasts.get()
            try:
                async with self._transaction() as connection:
                    await connection.execute(NOTIFY, payload)
            except (Unavailable, Rejected):
                self.broadcasts_dropped += 1


def _state(error: Exception) -> str:
    return str(getattr(error, "sqlstate", None))


def _name(chat_id: str) -> uuid.UUID:
    """The name of a chat in the database: short, and without odd characters."""
    return uuid.UUID(bytes=hashlib.blake2b(chat_id.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _payload(target: str, body: bytes) -> tuple[str, list[tuple[Any, ...]]]:
    """What to notify, and the rows that it refers to."""
    if len(body) <= INLINE:
        return f"{target} {base64.b64encode(body).decode()}", []
    return f"{target} #{(name := uuid.uuid4())}", [(name, "long", b"", "", 0, body, FETCH_SECONDS)]


def _after(rows: Sequence[Any], offset: int) -> Sequence[Event] | None:
    """The events after an offset, given the rows from it on; None unless they are all there."""
    bodies = [row["body"] for row in rows if row["kind"] == "event" and row["place"] > offset]
    complete = any(row["kind"] == "head" and row["place"] == offset + len(bodies) for row in rows)
    return parse_events(bodies) if complete else None
