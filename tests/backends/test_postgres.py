"""PostgreSQL in particular: outages, rights, what is deleted, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest
from pydantic import SecretStr

from eclipse_ws.backends.base import BackendError, Key, NullListener, Position, Rejected, Unavailable
from eclipse_ws.protocol import Cursor, Event
from eclipse_ws.testing.harness import (
    Node,
    Nodes,
    fresh_chat,
    make_settings,
    message,
    position_of,
    typing,
    until,
)
from tests.postgres import PostgresServer
from tests.provider import Pipe

asyncpg = pytest.importorskip("asyncpg", reason="needs asyncpg (pip install 'eclipse-ws[postgres]')")

from eclipse_ws.backends.postgres import CONNECTIONS, SETUP, PostgresBackend, _name  # noqa: E402

pytestmark = pytest.mark.slow
Work = Callable[[Nodes], Awaitable[None]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that the tests leave running."""
    server = PostgresServer().start()
    yield server
    server.remove()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may break."""
    server = PostgresServer().start()
    yield server
    server.remove()


def constant(name: str, value: object) -> AbstractContextManager[Any]:
    """Another value for a constant of the backend."""
    return patch(f"eclipse_ws.backends.postgres.{name}", value)


def run(url: str, work: Work) -> None:
    """Do the work with nodes on the database at this URL."""

    async def bounded() -> None:
        nodes = Nodes(lambda settings: backend(url, **settings.model_dump()))
        try:
            async with asyncio.timeout(60):
                await work(nodes)
        finally:
            await nodes.close()

    asyncio.run(bounded())


def backend(url: str, **given: Any) -> PostgresBackend:
    """A node that is not started."""
    return PostgresBackend(make_settings(**{**given, "database_url": SecretStr(url)}))


async def execute(url: str, *statements: str) -> Any:
    """Do what an administrator would; answers the last statement's rows."""
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()


async def new_database(server: PostgresServer) -> str:
    """The URL of an empty database."""
    name = f"db_{secrets.token_hex(4)}"
    await execute(server.url, f"CREATE DATABASE {name}")
    return server.url.replace("/postgres", f"/{name}")


# -- outages --------------------------------------------------------------------------------------


def test_terminated_connections(server: PostgresServer, expect_log: Callable[..., None]) -> None:
    """A node whose connections are all ended says so, connects again, and goes on where the chat was."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        known = position_of("m1", await node.append(chat, "m1"))
        address = node.backend.address
        await execute(
            server.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        await until(lambda: node.heard.times_restored == 2, "the connections")
        assert node.heard.times_lost == 1
        assert node.backend.address != address
        assert (await node.backend.subscribe(chat, known)).missed == []
        last = await node.append(chat, "m2")
        assert last == Cursor(known.cursor.epoch, 2)
        await node.until_heard(chat, "m1", "m2")

    run(server.url, work)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart(own_server: PostgresServer, mode: str, expect_log: Callable[..., None]) -> None:
    """While the server is stopped, commands are unavailable; after its start all is as before."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        known = position_of("m1", await node.append(chat, "m1"))
        await asyncio.sleep(1)  # until what is written without waiting is on the disk
        own_server.stop(mode)
        await until(lambda: node.backend.health.state == "down", "the outage")
        with pytest.raises(Unavailable) as refused:
            await node.append(chat, "m2")
        assert not refused.value.asked
        node.backend.broadcast(chat, typing())
        assert node.backend.broadcasts_dropped == 1
        own_server.start()
        await until(lambda: node.backend.health.state == "up", "the server")
        assert (node.heard.times_lost, node.heard.times_restored) == (1, 2)
        assert (await node.backend.subscribe(chat, known)).missed == []
        assert await node.append(chat, "m2", known=known.cursor) == Cursor(known.cursor.epoch, 2)

    run(own_server.url, work)


def test_frozen_server(own_server: PostgresServer, expect_log: Callable[..., None]) -> None:
    """A server that no longer answers is noticed by the heartbeat; on a new connection nothing is asked."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        own_server.freeze(True)
        try:
            for asked in (True, False):
                with pytest.raises(Unavailable) as late:
                    await node.append(chat, "m1")
                assert late.value.asked == asked
            await until(lambda: node.heard.times_lost == 1, "the heartbeat")
        finally:
            own_server.freeze(False)
        await until(lambda: node.heard.times_restored == 2, "the server")
        assert (await node.append(chat, "m1")).offset == 1

    with constant("TIMEOUT", 0.5), constant("HEARTBEAT", 0.2):
        run(own_server.url, work)


def test_an_answer_that_is_late(server: PostgresServer) -> None:
    """What the server was asked for, and may still do, counts as asked."""

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        connection = await asyncpg.connect(server.url)
        async with connection.transaction():
            await connection.execute("LOCK TABLE eclipse_ws IN EXCLUSIVE MODE")
            with pytest.raises(Unavailable) as late:
                await node.append(chat, "m1")
        await connection.close()
        assert late.value.asked
        assert not late.value.refused

    with constant("TIMEOUT", 0.5):
        run(server.url, work)


def test_a_cut_ends_what_waits_for_a_connection(
    server: PostgresServer, expect_log: Callable[..., None]
) -> None:
    """What waits for a free connection fails with the others, unasked, or goes over the new connections."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        pipe = await Pipe(server.port).start()
        node = Node(backend(server.url.replace(str(server.port), str(pipe.port))))
        await node.backend.start(node.heard)
        await node.append(fresh_chat(), "m")
        pipe.block()
        failed: list[tuple[bool, int]] = []

        async def append(number: int) -> None:
            try:
                await node.append(fresh_chat(), f"m{number}")
            except Unavailable as error:
                failed.append((error.asked, node.heard.times_restored))

        appends = [asyncio.create_task(append(number)) for number in range(100)]
        await asyncio.sleep(0.3)
        accepted = pipe.accepted
        pipe.unblock(resume=False)
        await until(lambda: node.heard.times_restored == 2, "the connections")
        await asyncio.gather(*appends)
        assert sum(restored > 1 for _, restored in failed) <= CONNECTIONS
        assert sum(asked for asked, _ in failed) <= CONNECTIONS
        # Some that are being opened in the moment of the cut may be opened once more, but not a hundred.
        assert pipe.accepted - accepted <= 2 * CONNECTIONS + 2
        await node.append(fresh_chat(), "m")
        await node.backend.close()
        await pipe.stop()

    run(server.url, work)


def test_no_server_at_the_start(own_server: PostgresServer, expect_log: Callable[..., None]) -> None:
    """A node starts without its server, and is told when it is there."""
    expect_log("PostgreSQL unavailable")
    own_server.stop()

    async def work(nodes: Nodes) -> None:
        node = nodes.new()
        await node.backend.start(node.heard)
        assert (node.backend.health.state, node.heard.times_restored) == ("down", 0)
        with pytest.raises(Unavailable):
            await node.backend.subscribe("chat")
        own_server.start()
        await until(lambda: node.heard.times_restored == 1, "the server")
        assert (await node.append("chat", "m1")).offset == 1

    run(own_server.url, work)


def test_read_only_server(own_server: PostgresServer, expect_log: Callable[..., None]) -> None:
    """A server that has become read-only, as in a failover, is unavailable until it takes writes again."""
    expect_log("PostgreSQL unavailable")

    async def work(nodes: Nodes) -> None:
        node = await nodes.one()
        set_to = "ALTER SYSTEM SET default_transaction_read_only = {}"
        await execute(own_server.url, set_to.format("on"), "SELECT pg_reload_conf()")

        async def refused() -> bool:
            try:
                await node.append(fresh_chat(), "m")
            except Unavailable as error:
                assert not error.refused
                return True
            return False

        while not await refused():  # noqa: ASYNC110 - the server takes a moment
            await asyncio.sleep(0.05)
        await until(lambda: node.backend.health.state == "down", "the outage")
        await asyncio.sleep(1)  # it is not taken for a server that works
        connection = await asyncpg.connect(own_server.url)
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(set_to.format("off"))
        await connection.fetch("SELECT pg_reload_conf()")
        await connection.close()
        await until(lambda: node.backend.health.state == "up", "the server")
        assert (node.heard.times_lost, node.heard.times_restored) == (1, 2)
        assert (await node.append("chat", "m1")).offset == 1

    run(own_server.url, work)


def test_latency(server: PostgresServer) -> None:
    """A node's health says how many seconds its last heartbeat took."""

    async def work(nodes: Nodes) -> None:
        node = await nodes.one()
        await until(lambda: node.backend.health.latency is not None, "the heartbeat")
        assert 0 < node.backend.health.latency < 60

    with constant("HEARTBEAT", 0.05):
        run(server.url, work)


def test_a_beacon(server: PostgresServer) -> None:
    """Heartbeats take a node's beacon to all nodes."""

    async def work(nodes: Nodes) -> None:
        one, other = await nodes.shared()
        assert one.backend.beacon_interval == 0.05
        one.backend.beacon = b"beacon"
        for node in (one, other):
            await until(lambda: len(node.heard.notes) >= 2, "two beacons")  # noqa: B023
            assert set(node.heard.notes) == {b"beacon"}

    with constant("HEARTBEAT", 0.05):
        run(server.url, work)


# -- starting -------------------------------------------------------------------------------------


def test_nodes_that_start_at_once(server: PostgresServer) -> None:
    """Of many nodes on an empty database one makes the tables, and all start."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        nodes = [backend(url) for _ in range(5)]
        try:
            await asyncio.gather(*(node.start(NullListener()) for node in nodes))
            assert {node.health.state for node in nodes} == {"up"}
            assert await nodes[0].send(b"note") == 5
        finally:
            await asyncio.gather(*(node.close() for node in nodes))

    run(server.url, work)


@pytest.mark.parametrize(
    ("old", "new"),
    [("right@", "wrong@"), ("chat:", "nobody:"), ("/postgres", "/nowhere"), ("postgresql://", "redis://")],
)
def test_what_can_never_work(server: PostgresServer, old: str, new: str) -> None:
    """A wrong password, user, database or URL ends the start with a text that names the setting."""

    async def work(_: Nodes) -> None:
        node = backend(server.url.replace(old, new))
        with pytest.raises(BackendError, match="DATABASE_URL") as refused:
            await node.start(NullListener())
        assert "wrong@" not in str(refused.value)
        await node.close()

    run(server.url, work)


def test_missing_rights(server: PostgresServer) -> None:
    """A user who may not make tables can't start on an empty database, but on one that has them."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        name = f"guest_{secrets.token_hex(4)}"
        await execute(url, f"CREATE ROLE {name} LOGIN PASSWORD 'right'")
        node = backend(url.replace("chat:", f"{name}:"))
        with pytest.raises(BackendError, match="permission denied for schema"):
            await node.start(NullListener())
        owner = backend(url)
        await owner.start(NullListener())
        await owner.close()
        await execute(url, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        await node.start(NullListener())
        await node.append("chat", message("m1"))
        await node.close()
        await execute(url, f"REVOKE TEMPORARY ON DATABASE {url.rpartition('/')[2]} FROM PUBLIC")
        with pytest.raises(BackendError, match="permission denied to create temporary tables"):
            await node.start(NullListener())

    run(server.url, work)


def test_every_command_is_one_statement(own_server: PostgresServer) -> None:
    """A node that is cut off leaves no transaction behind: it asks for everything at once."""

    async def work(nodes: Nodes) -> None:
        chat, key = fresh_chat(), Key("key", "token")
        node = await nodes.one(chat)
        await execute(own_server.url, "ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
        await asyncio.sleep(0.5)  # until each process has read it
        await node.backend.record(chat, key, "pending")
        cursor, _ = await node.backend.append(chat, message("m1"), key=key)
        await node.backend.subscribe(chat, position_of("m1", cursor), renew=True)
        await node.backend.read(chat, cursor)
        await node.backend.send(b"note")
        node.backend.broadcast(chat, typing())
        await until(lambda: node.heard.events[chat][1:], "the broadcast")
        logged = (own_server.folder / "log").read_text().split("reloading configuration")[1]
        calls = re.findall(r"LOG:  (?:execute \S+|statement): ([^(\n]*)", logged)
        names = ("record", "append", "subscribe", "read", "send", "notify")
        assert calls == [f"SELECT pg_temp.{name}" for name in names]

    with constant("HEARTBEAT", 60.0):
        run(own_server.url, work)


def test_a_database_with_settings_of_its_own(server: PostgresServer) -> None:
    """Nodes that append at once succeed whatever a database's default isolation is."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        isolation = "SET default_transaction_isolation = 'repeatable read'"
        await execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} {isolation}")
        nodes = [backend(url) for _ in range(2)]
        for node in nodes:
            await node.start(NullListener())
        events = [message(number) for number in range(40)]
        found = await asyncio.gather(*(node.append("chat", event) for event in events for node in nodes))
        assert {cursor.offset for cursor, _ in found} == set(range(1, 41))
        assert sum(new for _, new in found) == 40
        await asyncio.gather(*(node.close() for node in nodes))

    run(server.url, work)


# -- what is kept and refused ---------------------------------------------------------------------


def test_what_has_expired_is_deleted(server: PostgresServer) -> None:
    """Events, keys and at last positions are deleted, by nodes that merely run."""

    async def work(_: Nodes) -> None:
        url = await new_database(server)
        with constant("HEARTBEAT", 0.05), constant("SETUP", SETUP.replace("1 day", "1 second")):
            node = backend(url, history_seconds=0.2)
            await node.start(NullListener())
            for number in range(20):
                await node.append(f"chat-{number}", message(number, 9000), key=Key(f"key-{number}", "token"))
            rows = "SELECT DISTINCT kind FROM eclipse_ws"
            assert len(await execute(url, rows)) == 3
            async with asyncio.timeout(15):
                while await execute(url, rows):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await node.close()

    run(server.url, work)


def test_back_in_time(server: PostgresServer) -> None:
    """After a restored backup another event is where a node knows one: a new epoch begins, and not before."""

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        await node.append(chat, "m1")
        known = position_of("m2", await node.append(chat, "m2"))
        epoch = known.cursor.epoch
        assert not (await node.backend.subscribe(chat, Position(known.cursor))).renewed
        await execute(
            server.url,
            f"DELETE FROM eclipse_ws WHERE kind = 'event' AND epoch = '{epoch}' AND place = 2",
            f"UPDATE eclipse_ws SET place = 1, body = '' WHERE kind = 'head' AND epoch = '{epoch}'",
        )
        assert await node.append(chat, "another") == known.cursor
        await node.append(chat, "later")
        found = await node.backend.subscribe(chat, known)
        assert (found.renewed, found.missed) == (True, None)
        assert found.position.cursor.epoch != epoch

    run(server.url, work)


def test_events_of_earlier_epochs_make_room(server: PostgresServer) -> None:
    """What an earlier epoch has left is still appended once, until a history is full without it."""

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat, history_events=3)
        await node.append(chat, "old-1", "old-2")
        renewed = await node.backend.subscribe(chat, renew=True)
        epoch = renewed.position.cursor.epoch
        await node.append(chat, "m1", "m2")
        cursor, new = await node.backend.append(chat, message("old-2"))
        assert (cursor.epoch != epoch, cursor.offset, new) == (True, 2, False)
        await node.append(chat, "m3")
        assert await node.append(chat, "old-2") == Cursor(epoch, 4)

    run(server.url, work)


def test_long_events_at_the_same_time(server: PostgresServer) -> None:
    """What takes many notifications arrives whole and once, whatever else is sent."""

    async def work(nodes: Nodes) -> None:
        chats = [fresh_chat() for _ in range(4)]
        pair = await nodes.two(*chats)
        events = [(chat, message(number, 50_000)) for chat in chats for number in range(3)]
        await asyncio.gather(
            *(node.backend.append(chat, event) for node in pair for chat, event in events),
            *(node.backend.send(b"\0" * 50_000) for node in pair),
        )
        for node in pair:
            await until(lambda node=node: len(node.heard.notes) == 2, "the notes")
            assert node.heard.notes == [b"\0" * 50_000] * 2
            for chat in chats:
                await until(lambda node=node, chat=chat: len(node.heard.events[chat]) == 3, "the events")
                assert [event.cursor.offset for event in node.heard.events[chat]] == [1, 2, 3]
                assert all(len(event.body) > 50_000 for event in node.heard.events[chat])

    run(server.url, work)


def test_subscribing_in_the_middle_of_a_long_event(server: PostgresServer) -> None:
    """A chat that is subscribed between an event's notifications hears it whole."""

    async def work(nodes: Nodes) -> None:
        chat, event = fresh_chat(), message("m1", 20_000)
        node = await nodes.one()
        text = base64.b64encode(event.body).decode()
        pieces = [text[at : at + 7000] for at in range(0, len(text), 7000)]
        first, *others = (f"{_name(chat)} {len(pieces) - at} {piece}" for at, piece in enumerate(pieces, 1))
        notify = "SELECT pg_notify('eclipse_ws_' || 'eclipse_ws'::regclass::oid, '{}')"
        await execute(server.url, notify.format(first))
        await asyncio.sleep(0.2)  # until it is heard
        await node.backend.subscribe(chat)
        await execute(server.url, *map(notify.format, others))
        await node.until_heard(chat, "m1")

    run(server.url, work)


def test_what_can_never_be_kept(server: PostgresServer) -> None:
    """An event that the database can't hold is rejected; others go on."""

    async def work(nodes: Nodes) -> None:
        node = await nodes.one()
        event = Event("message", b'{"type":"message"}', secrets.token_hex(5000))
        with pytest.raises(Rejected):
            await node.backend.append("chat", event)
        assert await node.append(fresh_chat(), "m1")

    run(server.url, work)


def test_broadcasts_that_are_dropped(server: PostgresServer) -> None:
    """A broadcast that is too long for a notification is dropped and counted."""

    async def work(nodes: Nodes) -> None:
        chat = fresh_chat()
        node = await nodes.one(chat)
        node.backend.broadcast(chat, Event("typing", b'{"type":"typing","data":"%b"}' % (b"x" * 8000)))
        node.backend.broadcast(chat, typing())
        await until(lambda: node.heard.events[chat], "the short one")
        assert node.backend.broadcasts_dropped == 1
        assert len(node.heard.events[chat]) == 1

    run(server.url, work)


def test_it_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no PostgreSQL is installed, its tests are skipped with what to install."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(()))
    with pytest.raises(pytest.skip.Exception, match="apt-get install postgresql"):
        PostgresServer()


def test_a_close_while_connections_go_back_leaves_nothing(server: PostgresServer) -> None:
    """Questions that are given up at any moment, also while their connections go back, leave no task."""

    def ask(node: Node) -> list[asyncio.Task[int]]:
        return [asyncio.create_task(node.backend.send(b"{}", node.backend.address)) for _ in range(4)]

    async def work(nodes: Nodes) -> None:
        for step in range(40):
            node = await nodes.one()
            await asyncio.gather(*ask(node))  # every connection is open
            questions = ask(node)
            await asyncio.sleep(step * 0.0002)
            for each in questions:
                each.cancel()
            await node.backend.close()
            left = asyncio.all_tasks() - {asyncio.current_task(), *questions}
            assert not left, f"tasks are left: {left}"

    run(server.url, work)
