"""The PostgreSQL backend: several nodes on the database that a site already has, without Redis.

Everything is in one table. A transaction that locks a chat's row ``head``, which has its position, is alone
with it: the order of offsets is that of commits, and of notifications. All nodes listen to one channel, and
take what concerns their chats. Commits don't wait for the disk: a crash of the database may lose the last
moments, and a new epoch begins.
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
from functools import partial
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from eclipse_ws.backends import base
from eclipse_ws.backends.base import Key, Position, Record, Rejected, Subscription, Unavailable
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt, parse_events, saved_id
from eclipse_ws.protocol.events import with_origin

log = structlog.get_logger("eclipse_ws.postgres")

TIMEOUT: Final = 5.0  # seconds for one command, and to connect
HEARTBEAT: Final = 10.0  # seconds between sweeps of expired rows, which show whether the connection works
RETRY: Final = 0.5  # seconds between attempts to connect
CONNECTIONS: Final = 5  # at the most; one of them listens
PIECE: Final = 7900  # characters of Base64 in one notification (8000 bytes), beside its target and number
MAX_BROADCAST: Final = 5600  # bytes of an ephemeral event
MAX_WAITING: Final = 1000  # ephemeral events that wait to be sent
POSITION_SECONDS: Final = 86400.0  # for which a position is kept after the chat was last used
NOTHING: Final = (Key("", ""), Record("none"))
NEVER: Final = ("28", "3D", "3F", "42501")  # SQLSTATEs: wrong user or password, database, schema, rights
PASSING: Final = ("08", "25", "40", "53", "55", "57", "58")  # SQLSTATEs of the server, not of one command

# kind: head (place and identity of the last event), event, key (an attempt).
# bytes: of all events that the chat ever had; those before this one.
TABLE: Final = """
CREATE TABLE eclipse_ws (
  chat uuid, kind text, name bytea, epoch text NOT NULL, place bigint NOT NULL, bytes bigint NOT NULL,
  body bytea NOT NULL, made timestamptz NOT NULL, expires timestamptz NOT NULL, PRIMARY KEY (chat, kind, name)
) WITH (fillfactor = 70);
CREATE INDEX ON eclipse_ws (expires)"""
BEGIN: Final = """BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off;
SET LOCAL statement_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '2s'"""
PUT: Final = """
INSERT INTO eclipse_ws VALUES ($1, $2, $3, $4, $5, $6, $7, now(), now() + make_interval(secs => $8))
ON CONFLICT (chat, kind, name) DO UPDATE SET epoch = $4, place = $5, bytes = $6, body = $7, made = now(),
  expires = excluded.expires"""
LOCK: Final = """
INSERT INTO eclipse_ws VALUES ($1, 'head', '', $2, 0, 0, '', now(), now() + make_interval(secs => $3))
ON CONFLICT (chat, kind, name) DO UPDATE SET expires = eclipse_ws.expires
RETURNING epoch, place, body, bytes"""
FIND: Final = """SELECT epoch, place, body, extract(epoch FROM now() - made) AS age FROM eclipse_ws
WHERE chat = $1 AND kind = $2 AND name = $3 AND expires > now()"""
REST: Final = """SELECT kind, place, body, CASE kind WHEN 'head' THEN body ELSE name END AS identity
FROM eclipse_ws WHERE chat = $1 AND kind IN ('event', 'head') AND epoch = $2 AND place >= $3::numeric
AND expires > now() ORDER BY place"""
NOTIFY: Final = """SELECT pg_notify('eclipse_ws_' || 'eclipse_ws'::regclass::oid, piece)
FROM unnest($1::text[]) AS piece"""
# What earlier epochs have left makes room once this one has as many events as are kept.
TRIM: Final = """WITH trimmed AS (DELETE FROM eclipse_ws WHERE chat = $2 AND kind = 'event'
AND (CASE epoch WHEN $3 THEN place <= $4 ELSE $4 >= 0 END OR bytes < $5))
SELECT pg_notify('eclipse_ws_' || 'eclipse_ws'::regclass::oid, piece) FROM unnest($1::text[]) AS piece"""
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
        self._chats: dict[str, str] = {}  # the subscribed ones, by their names in the database
        self._broadcasts: asyncio.Queue[list[str]] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self.state = "connecting"
        self._listening: Any = None  # a connection of the pool
        self._pool: asyncpg.Pool[Any] | None = None
        self._free = asyncio.Semaphore(CONNECTIONS - 1)  # beside the one that listens
        self._look = asyncio.Event()

    async def start(self, listener: base.Listener) -> None:
        """See the contract."""
        self.listener = listener
        try:
            await self._connect()
        except Exception as error:
            never = _state(error).startswith(NEVER) or isinstance(error, asyncpg.ClientConfigurationError)
            self._disconnect(None if never else error)
            if never:
                raise base.BackendError(f"PostgreSQL refuses this: {error}. Check DATABASE_URL") from None
        self._tasks = [asyncio.create_task(each()) for each in (self._run, self._send)]

    async def close(self) -> None:
        """See the contract."""
        self.listener = base.NullListener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):  # in order if that takes a moment, else as they are
            async with asyncio.timeout(1):
                if self._listening is not None:  # the server notices an ended connection later
                    await self._listening.execute("SELECT pg_advisory_unlock_all()")
                    await self._listening.close()
                if self._pool is not None:  # its connections end in order, whatever is on its way back
                    await self._pool.close()
        self._disconnect()

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        self._chats[str(_name(chat_id))] = chat_id
        rows: Sequence[Any] = ()
        async with self._locked(chat_id) as (connection, chat, at, size):
            offset, renewed = 0, renew and known is None
            if known is not None and known.cursor.epoch == at.cursor.epoch:
                offset = known.cursor.offset
                rows = await connection.fetch(REST, chat, at.cursor.epoch, offset)
                # The database went back in time if it has less than is known, or another event in its place.
                there = {row["identity"] for row in rows if row["place"] == offset}
                differs = bool(known.identity) and not there <= {known.identity.encode(), b""}
                renewed = renew or differs or offset > at.cursor.offset
            if renewed:
                start = Cursor(secrets.token_hex(6), 0)
                await connection.execute(PUT, chat, "head", b"", *start, size, b"", POSITION_SECONDS)
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
        identity, settings = event.identity.encode(), self._settings
        async with self._locked(chat_id) as (connection, chat, at, before):
            rows: list[tuple[Any, ...]] = []
            if found := await connection.fetchrow(FIND, chat, "event", identity):
                cursor = Cursor(found["epoch"], found["place"])
            else:
                cursor = Cursor(at.cursor.epoch, at.cursor.offset + 1)
                if known is not None and known.epoch == cursor.epoch and known.offset >= cursor.offset:
                    cursor = Cursor(secrets.token_hex(6), 1)
                event = event.sequenced(cursor)
                size = before + len(event.body)
                rows.append((chat, "head", b"", *cursor, size, identity, POSITION_SECONDS))
                rows.append((chat, "event", identity, *cursor, before, event.body, settings.history_seconds))
            if key is not None:
                done = Record("done", Receipt(saved_id(event), str(cursor), "published"))
                rows.append(self._key_row(chat, key, (Key("", "", key.fingerprint), done)))
            await connection.executemany(PUT, rows)
            if not found:
                room = cursor.offset - settings.history_events, min(before, size - settings.history_bytes)
                await connection.execute(TRIM, _pieces(str(chat), event.body), chat, cursor.epoch, *room)
            return cursor, not found

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        async with self._transaction() as connection:
            rows = await connection.fetch(REST, _name(chat_id), *after)
        newer = known is not None and known.epoch == after.epoch and rows and known.offset > rows[-1]["place"]
        return None if newer else _after(rows, after.offset)

    def broadcast(self, chat_id: str, event: Event) -> None:
        """See the contract."""
        body = with_origin(event) if event.origin else event.body
        if self.state != "up" or len(body) > MAX_BROADCAST or self._broadcasts.full():
            self.broadcasts_dropped += 1
        else:
            self._broadcasts.put_nowait(_pieces(str(_name(chat_id)), body))

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
        async with self._locked(chat_id) as (connection, chat, *_):
            row = await connection.fetchrow(FIND, chat, "key", key.name.encode())
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
                await connection.execute(PUT, *self._key_row(chat, key, now))
            return Record(state, found.receipt)

    def _key_row(self, chat: uuid.UUID, key: Key, known: tuple[Key, Record]) -> tuple[Any, ...]:
        body, kept = msgspec.json.encode(known), self._settings.history_seconds
        return (chat, "key", key.name.encode(), "", 0, 0, body, kept)

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract."""
        async with self._transaction() as connection:
            await connection.execute(NOTIFY, _pieces(address or "*", note))
            return int(await connection.fetchval(LISTENING, address or "*"))

    @asynccontextmanager
    async def _locked(self, chat_id: str) -> AsyncIterator[tuple[Any, uuid.UUID, Position, int]]:
        """A transaction that is alone with a chat: its name, its position, and the bytes it ever had."""
        async with self._transaction() as connection:
            row = await connection.fetchrow(LOCK, _name(chat_id), secrets.token_hex(6), POSITION_SECONDS)
            yield connection, _name(chat_id), Position(Cursor(row[0], row[1]), row[2].decode()), row[3]

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        """A transaction on a connection of the pool. Raises Unavailable or Rejected."""
        asked = False
        try:
            # What waits for a connection waits here: a pool that is terminated would not end it.
            async with asyncio.timeout(TIMEOUT), self._free:
                if self._pool is None or self.state != "up":
                    raise Unavailable("PostgreSQL is unavailable")
                async with self._pool.acquire() as connection:
                    try:
                        await connection.execute(BEGIN)
                        asked = True
                        yield connection
                        await connection.execute("COMMIT")
                    except BaseException:
                        with suppress(asyncpg.InterfaceError):  # it is gone already
                            connection.terminate()  # which rolls back, and never waits
                        raise
        except Unavailable:
            raise
        except (asyncpg.DataError, asyncpg.ProgramLimitExceededError) as error:
            raise Rejected(f"PostgreSQL can't keep this: {error!r}") from error
        except Exception as error:
            self._look.set()
            refused = isinstance(error, asyncpg.PostgresError) and not _state(error).startswith(PASSING)
            raise Unavailable(repr(error), asked=asked, refused=refused) from error

    async def _run(self) -> None:
        """Keep the connections, forever, and sweep."""
        worked = True
        while True:
            try:
                listening = self._listening or await self._connect()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), HEARTBEAT)
                self._look.clear()
                deleted = "DELETE 1000"
                while deleted == "DELETE 1000":
                    began = time.monotonic()
                    deleted = await listening.execute(SWEEP, timeout=TIMEOUT)
                    self.latency = time.monotonic() - began
                worked = True
            except Exception as error:  # whatever it is, the next attempt may succeed
                self._disconnect(error)
                if worked:  # connect at once: until then other nodes' questions don't reach this one
                    worked = False
                    continue
            await asyncio.sleep(RETRY)  # many commands may fail at once

    async def _connect(self) -> Any:
        async with asyncio.timeout(4 * TIMEOUT):
            self._pool = await asyncpg.create_pool(
                self._settings.database_url.get_secret_value(),
                target_session_attrs="read-write",  # a primary that was demoted is as good as none
                min_size=0,
                max_size=CONNECTIONS,
                timeout=TIMEOUT,
                reset=lambda _: asyncio.sleep(0),  # a transaction leaves nothing behind
            )
            self._listening = listening = await self._pool.acquire()
            listening.add_termination_listener(lambda _: self._look.set())
            async with listening.transaction():  # nodes that start at once do it one after another
                await listening.execute("SELECT pg_advisory_xact_lock(hashtext('eclipse_ws'))")
                if await listening.fetchval("SELECT to_regclass('eclipse_ws')::oid") is None:
                    await listening.execute(TABLE)
            await listening.execute(LISTEN)
            table, process = await listening.fetchrow("SELECT 'eclipse_ws'::regclass::oid, pg_backend_pid()")
            await listening.add_listener(f"eclipse_ws_{table}", partial(self._hear, []))
        self.address = str(process)
        self.state = "up"
        log.info("PostgreSQL connected")
        self.listener.restored()
        return listening

    def _disconnect(self, error: Exception | None = None) -> None:
        was, self.state = self.state, "down"
        if error is not None and was != "down":
            log.warning("PostgreSQL unavailable", why=repr(error))
        if self._pool is not None:
            self._pool.terminate()
        self._pool = self._listening = None
        if was == "up":
            self.listener.lost()

    def _hear(self, pieces: list[str], *notification: Any) -> None:
        """Take a notification of a connection, which has heard these pieces of what is not complete."""
        target, left, piece = notification[-1].split(" ")
        pieces.append(piece)
        if left != "0":
            return
        text = "".join(pieces)
        pieces.clear()
        if (chat_id := self._chats.get(target)) is not None:
            self.listener.receive(chat_id, base64.b64decode(text))
        elif target in ("*", self.address):
            self.listener.notice(base64.b64decode(text))

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


def _pieces(target: str, body: bytes) -> list[str]:
    """The notifications of one transaction, which nothing comes between; each says how many are left."""
    text = base64.b64encode(body).decode()
    pieces = [text[at : at + PIECE] for at in range(0, max(1, len(text)), PIECE)]
    return [f"{target} {len(pieces) - number} {piece}" for number, piece in enumerate(pieces, 1)]


def _after(rows: Sequence[Any], offset: int) -> Sequence[Event] | None:
    """The events after an offset, given the rows from it on; None unless they are all there."""
    bodies = [row["body"] for row in rows if row["kind"] == "event" and row["place"] > offset]
    complete = any(row["kind"] == "head" and row["place"] == offset + len(bodies) for row in rows)
    return parse_events(bodies) if complete else None
