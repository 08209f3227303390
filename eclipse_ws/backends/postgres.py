"""The PostgreSQL backend: several nodes on the database that a site already has, without Redis.

Everything is in one table. Each command is one call of a function in ``postgres.sql``, so that no lock waits
for the network. All nodes listen to one channel, and take what concerns their chats. Commits don't wait for
the disk: a crash of the database may lose the last moments, and a new epoch begins.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
import uuid
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from eclipse_ws.backends import base
from eclipse_ws.backends.base import Key, Position, Record, Rejected, Subscription, Unavailable
from eclipse_ws.backends.marks import Mark, parse_marks
from eclipse_ws.backends.postgres_ledger import PostgresLedger
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt, deleted_id, deletion_of, parse_events, saved_id
from eclipse_ws.protocol.events import identity, with_origin

log = structlog.get_logger("eclipse_ws.postgres")

TIMEOUT: Final = 5.0  # seconds for one command, and to connect
HEARTBEAT: Final = 10.0  # seconds between sweeps of expired rows, which show whether the connection works
RETRY: Final = 0.5  # seconds between attempts to connect
CONNECTIONS: Final = 5  # at the most; one of them listens
MAX_BROADCAST: Final = 5600  # bytes of an ephemeral event
MAX_WAITING: Final = 1000  # ephemeral events that wait to be sent
NEVER: Final = ("28", "3D", "3F", "42501")  # SQLSTATEs: wrong user or password, database, schema, rights
PASSING: Final = ("08", "25", "40", "53", "55", "57", "58")  # SQLSTATEs of the server, not of one command

SETUP: Final = (Path(__file__).parent / "postgres.sql").read_text("utf-8")
SWEEP: Final = """DELETE FROM eclipse_ws WHERE ctid = ANY (ARRAY(
SELECT ctid FROM eclipse_ws WHERE expires < now() LIMIT 1000 FOR UPDATE SKIP LOCKED))"""
BEACON: Final = "SELECT pg_temp.notify('*', $1)"
# Who listens holds a lock named after the table.
LISTEN: Final = """SELECT pg_backend_pid(), 'eclipse_ws'::regclass::oid,
pg_advisory_lock_shared('eclipse_ws'::regclass::oid::int, 0)"""


class PostgresBackend(base.Backend):
    """See the module. An address is the process id of the node's listening connection."""

    name = "postgres"
    timeout = TIMEOUT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept = timedelta(seconds=settings.history_seconds)
        self._patience = timedelta(seconds=base.patience(settings))
        self._chats: dict[str, str] = {}  # the subscribed ones, by their names in the database
        self._broadcasts: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(MAX_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self.beacon_interval = HEARTBEAT
        self.state = "connecting"
        self._listening: Any = None  # a connection of the pool
        self._pool: asyncpg.Pool[Any] | None = None
        self._free = asyncio.Semaphore(CONNECTIONS - 1)  # beside the one that listens
        self._look = asyncio.Event()
        self.ledger = PostgresLedger(self._call)

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
        (epoch, offset), identity = known or ((None, None), "")
        epoch, offset, identity, missed, renewed, marks = await self._call(
            "subscribe", _name(chat_id), epoch, offset, identity.encode(), renew
        )
        position = Position(Cursor(epoch, offset), identity.decode())
        texts = (marks or b"").split(b"\0")
        return Subscription(position, _events(missed), renewed, parse_marks(texts))

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract; only this node has to know it."""
        for chat_id in chat_ids:
            self._chats.pop(str(_name(chat_id)), None)

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """See the contract."""
        message_id = deleted_id(event)
        epoch, offset, new = await self._call(
            "append",
            _name(chat_id),
            *(known or (None, None)),
            *(event.identity.encode(), event.body, self._kept),
            *(self._settings.history_events, self._settings.history_bytes),
            *((key.name.encode(), key.fingerprint) if key else (None, "")),
            msgspec.json.encode({"id": saved_id(event), "delivery": "published"}),  # its cursor follows
            *(text.encode() for text in (message_id, identity("message", message_id), deletion_of(event))),
        )
        return Cursor(epoch, offset), new

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        events = _events(await self._call("read", _name(chat_id), *after))
        last = after.offset + len(events or ())
        went_back = known is not None and known.epoch == after.epoch and known.offset > last
        return None if went_back else events

    def broadcast(self, chat_id: str, event: Event) -> None:
        """See the contract."""
        body = with_origin(event) if event.origin else event.body
        if self.state != "up" or len(body) > MAX_BROADCAST or self._broadcasts.full():
            self.broadcasts_dropped += 1
        else:
            self._broadcasts.put_nowait((str(_name(chat_id)), body))

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """See the contract."""
        cursor = mark.cursor or ("-", 0)
        texts = name.encode(), mark.text.encode()
        return bool(await self._call("mark", _name(chat_id), *texts, mark.expires, *cursor, mark.room, note))

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
        state, found = await self._call(
            "record",
            _name(chat_id),
            *(key.name.encode(), key.token, key.fingerprint, step, retry_unknown),
            self._patience,
            msgspec.json.encode(receipt) if receipt else b"",
            self._kept,
        )
        return Record(state, msgspec.json.decode(found, type=Receipt) if found else None)

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract."""
        return int(await self._call("send", address or "*", note))

    async def _call(self, command: str, *arguments: Any) -> Any:
        """Call a function on a connection of the pool. Raises Unavailable or Rejected."""
        call = f"SELECT pg_temp.{command}({', '.join(f'${at}' for at in range(1, len(arguments) + 1))})"
        asked = False
        try:
            # What waits for a connection waits here: a pool that is terminated would not end it.
            async with asyncio.timeout(TIMEOUT), self._free:
                if self._pool is None or self.state != "up":
                    raise Unavailable("PostgreSQL is unavailable")
                async with self._pool.acquire() as connection:
                    asked = True
                    return await _whole(connection, connection.fetchval(call, *arguments))
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
                if self.beacon:
                    await listening.execute(BEACON, self.beacon, timeout=TIMEOUT)
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
                init=lambda connection: _whole(connection, connection.execute(SETUP)),
                reset=lambda _: asyncio.sleep(0),  # a command leaves nothing behind
            )
            self._listening = listening = await self._pool.acquire()
            listening.add_termination_listener(lambda _: self._look.set())
            process, table, _ = await listening.fetchrow(LISTEN)
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
            try:
                await self._call("notify", *await self._broadcasts.get())
            except (Unavailable, Rejected):
                self.broadcasts_dropped += 1


def _state(error: Exception) -> str:
    return str(getattr(error, "sqlstate", None))


def _name(chat_id: str) -> uuid.UUID:
    """The name of a chat in the database: short, and without odd characters."""
    return uuid.UUID(bytes=hashlib.blake2b(chat_id.encode("utf-8", "surrogatepass"), digest_size=16).digest())


def _events(bodies: bytes | None) -> Sequence[Event] | None:
    """What the function `read` has found; JSON has no zero bytes."""
    return parse_events(None if bodies is None else bodies.split(b"\0")[:-1])


async def _whole(connection: Any, asked: Awaitable[Any]) -> Any:
    """The answer. A connection that is not heard to the end is ended: it would wait for what is left."""
    try:
        return await asked
    except BaseException:
        with suppress(asyncpg.InterfaceError):  # it is gone already
            connection.terminate()
        raise
