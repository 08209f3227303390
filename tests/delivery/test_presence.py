"""Presence over several nodes: who is told what, and when, on a clock on which nothing is waited for."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.delivery import presence, presence_peer, presence_sender
from eclipse_ws.delivery.cluster import MAX_NOTE, Cluster, Note
from eclipse_ws.delivery.presence_notes import LISTED, MAX_CHATS, Change, Crowd, Here, PresenceNote
from eclipse_ws.delivery.presence_view import Came, Count, Roster, Went
from tests.conftest import make_settings
from tests.delivery.presence_world import Node, Seen, played_on, settled
from tests.delivery.world import Flaky, Server

Expect = Callable[..., None]
C = "chat"


class Stage:
    """Nodes over one server."""

    def __init__(self) -> None:
        self.server = Server(random.Random(1))
        self.names = 0

    async def node(self, **given: Any) -> Node:
        """Start one."""
        self.names += 1
        backend = Flaky(self.server, f"n{self.names}", 0)
        return await Node(backend, asyncio.get_running_loop().time).start()

    async def nodes(self, count: int) -> list[Node]:
        """Start some, which know each other."""
        made = [await self.node() for _ in range(count)]
        await settled(lambda: all(len(known(each)) == count - 1 for each in made), "they know each other")
        return made


def known(node: Node) -> dict[str, presence_peer.Peer]:
    """The other nodes that a node knows, and has heard all of."""
    peers = node.presence._peers
    return {name: peer for name, peer in peers.items() if not peer.is_suspect}


on_stage = played_on(Stage)


async def begun(seen: Seen) -> Seen:
    """Wait for the roster."""
    await settled(lambda: seen.begun, "a roster")
    return seen


@on_stage
async def test_a_roster_has_the_users_of_all_nodes(stage: Stage) -> None:
    """Who watches is told once who is there on any node, and since when, the longest first."""
    one, other, third = await stage.nodes(3)
    one.come(C, "a")
    await asyncio.sleep(1)
    other.come(C, "b", "agent")
    await asyncio.sleep(1)
    third.come(C, "c", "assistant")
    seen = await begun(third.watch(C))
    assert seen.users == {"a": "user", "b": "agent", "c": "assistant"}
    (roster,) = seen.news
    assert isinstance(roster, Roster)
    assert [user_id for user_id, _ in roster.users] == ["a", "b", "c"]
    assert dict(roster.users)["a"] == one.here[C]["a"]
    assert third.presence.roster(C) == roster
    assert third.presence.users == 3
    assert one.presence.roster(C) is None


@on_stage
async def test_comings_and_goings_are_told(stage: Stage) -> None:
    """Who comes is told at once; who goes after ten seconds; and a role when it changes."""
    one, other = await stage.nodes(2)
    seen = await begun(other.watch(C))
    one.come(C, "a")
    await settled(lambda: seen.users == {"a": "user"})
    one.come(C, "a", "agent")
    await settled(lambda: seen.users == {"a": "agent"})
    one.go(C, "a")
    await asyncio.sleep(9.5)
    assert seen.users == {"a": "agent"}
    await asyncio.sleep(2.5)
    assert seen.users == {}
    assert [type(each) for each in seen.news] == [Roster, Came, Came, Went]


@on_stage
async def test_a_reload_is_not_seen(stage: Stage) -> None:
    """Who is back within ten seconds, here or on another node, has not been away, and since when is kept."""
    one, other, third = nodes = await stage.nodes(3)
    one.come(C, "a")
    since = one.here[C]["a"].since
    seen = [await begun(node.watch(C)) for node in nodes]
    for before, after in ((one, one), (one, other), (other, third)):
        before.go(C, "a")
        await asyncio.sleep(9)
        after.come(C, "a")
        await asyncio.sleep(12)
    assert [len(each.news) for each in seen] == [1, 1, 1]
    for node in nodes:
        roster = node.presence.roster(C)
        assert roster is not None
        assert [(user_id, here.since) for user_id, here in roster.users] == [("a", since)]


@on_stage
async def test_a_user_on_two_nodes(stage: Stage) -> None:
    """A user is there while any node has them, in the highest role of all."""
    one, other = await stage.nodes(2)
    seen = await begun(one.watch(C))
    one.come(C, "a", "agent")
    other.come(C, "a")
    await asyncio.sleep(12)
    assert seen.users == {"a": "agent"}
    one.go(C, "a")
    await settled(lambda: seen.users == {"a": "user"})
    await asyncio.sleep(12)
    assert seen.users == {"a": "user"}
    other.go(C, "a")
    await settled(lambda: seen.users == {})


@on_stage
async def test_a_node_is_killed(stage: Stage) -> None:
    """Its users are gone within 20 seconds; one who is on another node by then is never seen to go."""
    one, other, third = await stage.nodes(3)
    third.come(C, "a")
    third.come(C, "b")
    seen = await begun(one.watch(C))
    await asyncio.sleep(random.Random(2).uniform(20, 30))
    await third.kill()
    await asyncio.sleep(2)
    other.come(C, "a")
    await asyncio.sleep(18)
    assert seen.users == {"a": "user"}
    assert not seen.went("a")
    assert len(known(one)) == 1


@on_stage
async def test_a_node_that_is_killed_while_nothing_is_known_of_it(stage: Stage) -> None:
    """A node that nobody needs is not asked whether it lives; one that doesn't answer is forgotten."""
    one, other = await stage.nodes(2)
    sent = one.presence.notes_sent
    await asyncio.sleep(60)
    assert one.presence.notes_sent == sent
    await other.kill()
    began = one.clock()
    await begun(one.watch(C))
    assert one.clock() - began <= presence.READY + presence.TICK
    await asyncio.sleep(6)
    assert known(one) == {}


@on_stage
async def test_a_node_is_restarted(stage: Stage) -> None:
    """A node that was killed, and its successor: who came back is never seen to go, the others are."""
    one, other = await stage.nodes(2)
    other.come(C, "a")
    other.come(C, "b")
    seen = await begun(one.watch(C))
    await other.kill()
    again = await stage.node()
    await asyncio.sleep(2)
    again.come(C, "a")
    await asyncio.sleep(18)
    assert seen.users == {"a": "user"}
    assert not seen.went("a")


@on_stage
async def test_a_node_drains(stage: Stage) -> None:
    """Users who move away from a node that ends are never seen to go; who doesn't is, after ten seconds."""
    one, other, third = await stage.nodes(3)
    users = [f"u{number}" for number in range(20)]
    for user_id in users:
        third.come(C, user_id)
    seen = await begun(one.watch(C))
    for number, user_id in enumerate(users):
        third.go(C, user_id)
        await asyncio.sleep(0.1)
        if number % 2:
            other.come(C, user_id)
    await third.close()
    await asyncio.sleep(13)
    assert set(seen.users) == set(users[1::2])
    assert not any(seen.went(user_id) for user_id in users[1::2])
    assert len(known(one)) == 1


@on_stage
async def test_a_node_that_ends_with_its_users(stage: Stage) -> None:
    """A node that stops says so: its users have ten seconds to appear elsewhere."""
    one, other, third = await stage.nodes(3)
    third.come(C, "a")
    third.come(C, "b")
    seen = await begun(one.watch(C))
    await third.presence.close()
    await third.presence.close()
    await settled(lambda: len(known(one)) == 1)
    other.come(C, "a")
    await asyncio.sleep(9)
    assert set(seen.users) == {"a", "b"}
    await asyncio.sleep(3)
    assert set(seen.users) == {"a"}
    assert not seen.went("a")


@on_stage
async def test_an_outage_of_the_backend(stage: Stage) -> None:
    """What was known stays for as long as it takes; afterwards what has happened meanwhile is told."""
    nodes = await stage.nodes(3)
    one, other, third = nodes
    other.come(C, "a")
    other.come(C, "b")
    third.come(C, "c")
    seen = await begun(one.watch(C))
    for node in nodes:
        node.backend.commands = False  # type: ignore[attr-defined]
        node.backend.deafen()  # type: ignore[attr-defined]
    other.go(C, "b")
    other.come(C, "d")
    one.come(C, "e")
    await asyncio.sleep(300)
    assert set(seen.users) == {"a", "b", "c", "e"}
    for node in nodes:
        await asyncio.sleep(3)
        node.backend.heal()  # type: ignore[attr-defined]
    await asyncio.sleep(13)
    assert set(seen.users) == {"a", "c", "d", "e"}
    assert [each.user_id for each in seen.news if isinstance(each, Went)] == ["b"]


@on_stage
async def test_who_watches_during_an_outage(stage: Stage) -> None:
    """Is told at once who is here, and the others once that is known."""
    one, other = await stage.nodes(2)
    other.come(C, "a")
    one.come(C, "b")
    for node in (one, other):
        node.backend.commands = False  # type: ignore[attr-defined]
        node.backend.deafen()  # type: ignore[attr-defined]
    seen = one.watch(C)
    assert seen.users == {"b": "user"}
    for node in (one, other):
        node.backend.heal()  # type: ignore[attr-defined]
    await settled(lambda: set(seen.users) == {"a", "b"})


@on_stage
async def test_another_address(stage: Stage) -> None:
    """A node whose address has changed is told as before, and tells what it has told before."""
    one, other = await stage.nodes(2)
    other.come(C, "a")
    seen = await begun(one.watch(C))
    for node in (one, other):
        backend: Any = node.backend
        stage.server.nodes.pop(backend.address)
        backend.address += "+"
        stage.server.nodes[backend.address] = backend
    await asyncio.sleep(30)
    other.come(C, "b")
    await settled(lambda: set(seen.users) == {"a", "b"})
    again = await begun(other.watch("another"))
    one.come("another", "c")
    await settled(lambda: set(again.users) == {"c"})
    assert not seen.went("a")


@on_stage
async def test_a_process_that_stands_still(stage: Stage) -> None:
    """For that time it takes nobody for silent."""
    one, other = await stage.nodes(2)
    other.come(C, "a")
    seen = await begun(one.watch(C))
    stage.server.nodes["n2"].subscriber = False
    with patch.object(one.presence, "tick"):
        await asyncio.sleep(11)
    one.presence.tick()
    assert all(peer.silence < presence.SILENCE for peer in known(one).values())
    one.presence._clock = lambda: one.clock() + 3600
    one.presence.tick()
    assert not any(peer.question_due or peer.silence >= presence.SILENCE for peer in known(one).values())
    assert seen.users == {"a": "user"}


@on_stage
async def test_a_node_that_was_away(stage: Stage) -> None:
    """A node that others took for gone hears what has changed meanwhile, also in chats that are empty now."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    one.come("second", "b")
    there = {chat_id: await begun(other.watch(chat_id)) for chat_id in (C, "second")}
    seen = await begun(one.watch(C))
    backend: Any = other.backend
    hear, backend.hear = backend.hear, lambda *_: None  # what it sends is lost, too, and nobody tells it
    send, backend.send = backend.send, Node._never.__get__(other)
    await asyncio.sleep(60)
    assert known(one) == {}
    one.go("second", "b")
    one.come(C, "c")
    other.come(C, "d")
    backend.hear, backend.send = hear, send
    await asyncio.sleep(60)
    assert set(there[C].users) == set(seen.users) == {"a", "c", "d"}
    assert there["second"].users == {}


@on_stage
async def test_a_node_that_was_not_heard(stage: Stage) -> None:
    """A node that others took for gone, while it heard them, asks again: they have told it nothing since."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    one.come("second", "b")
    seen = {chat_id: await begun(other.watch(chat_id)) for chat_id in (C, "second")}
    backend: Any = other.backend
    send, backend.send = backend.send, Node._never.__get__(other)
    await settled(lambda: not one.presence._watchers)
    one.go("second", "b")
    backend.send = send
    await asyncio.sleep(40)
    assert seen[C].users == {"a": "user"}
    assert seen["second"].users == {}


# -- crowds ---------------------------------------------------------------------------------------


@on_stage
async def test_a_crowd(stage: Stage) -> None:
    """In a crowd nothing but its count is told, at most once a second, and in the end who is there."""
    one, other = await stage.nodes(2)
    seen = await begun(one.watch(C))
    times: list[float] = []
    take = seen.take
    seen.take = lambda news: (times.append(one.clock()), take(news))  # type: ignore[method-assign, func-returns-value, assignment]
    for number in range(2 * LISTED):
        (one if number % 2 else other).come(C, f"u{number:03}")
        await asyncio.sleep(0.05)
    await settled(lambda: seen.count == 2 * LISTED)
    first = next(at for at, each in enumerate(seen.news) if isinstance(each, Count))
    assert all(isinstance(each, Count) for each in seen.news[first:])
    assert [type(each) for each in seen.news[:first]] == [Roster, *[Came] * LISTED]
    assert all(
        after - before >= 0.99 for before, after in zip(times[LISTED:], times[LISTED + 1 :], strict=False)
    )
    roster = one.presence.roster(C)
    assert roster is not None
    assert roster.total == 2 * LISTED
    assert [user_id for user_id, _ in roster.users] == [f"u{number:03}" for number in range(LISTED)]
    for number in range(120):
        (one if number % 2 else other).go(C, f"u{number:03}")
    await settled(lambda: not seen.is_crowd, "the end of the crowd")
    assert isinstance(seen.news[-1], Roster)
    assert set(seen.users) == {f"u{number:03}" for number in range(120, 200)}
    one.come(C, "last")
    assert "last" in seen.users


@on_stage
async def test_a_crowd_on_one_node(stage: Stage) -> None:
    """A node names its hundred users who have been there longest, and counts the others."""
    one, other = await stage.nodes(2)
    for number in range(150):
        other.come(C, f"u{number:03}")
        await asyncio.sleep(0.001)
    seen = await begun(one.watch(C))
    assert seen.count == 150
    assert len(seen.users) == LISTED
    sent = other.presence.notes_sent
    for number in range(50):
        other.go(C, f"u{number:03}")
        await asyncio.sleep(0.01)
    await settled(lambda: seen.count == 100)
    assert set(seen.users) == {f"u{number:03}" for number in range(50, 150)}
    assert other.presence.notes_sent - sent <= 15


# -- notes ----------------------------------------------------------------------------------------


def notes_of(node: Node) -> list[dict[str, Any]]:
    """Record what a node sends from now on."""
    found: list[dict[str, Any]] = []
    send = node.backend.send

    async def record(note: bytes, address: str = "") -> int:
        assert len(note) <= MAX_NOTE / 1.5
        found.append(json.loads(note))
        return await send(note, address)

    node.backend.send = record  # type: ignore[method-assign]
    return found


@on_stage
async def test_earlier_releases_ignore_the_notes(stage: Stage) -> None:
    """For a node that doesn't know presence, each of its notes is an answer to somebody else's question."""
    one, other = await stage.nodes(2)
    notes = notes_of(one)
    one.come(C, "a")
    seen = await begun(other.watch(C))
    one.come(C, "b")
    await settled(lambda: len(seen.users) == 2)
    await begun(one.watch("second"))
    one.presence.restored()
    other.presence.restored()
    one.presence._peers[other.presence._known.node].question_due = True
    await asyncio.sleep(15)
    one.unwatch("second")
    await asyncio.sleep(1)
    await one.close()
    kinds = {name for note in notes for name in note["presence"]}
    assert kinds >= {"stream", "watch", "unwatch", "hello", "ask", "here", "parts", "bye", "changes"}
    for note in notes:
        assert set(note) == {"presence"}
        unknown = json.dumps({"another": note["presence"]}).encode()
        assert other.cluster.read(unknown) is None


@pytest.mark.parametrize(
    "note",
    [
        {"node": "x", "at": 1},
        {"node": "x" * 101, "at": 1, "last": 0},
        {"node": "x", "at": -1, "last": 0},
        {"node": "x", "at": 1, "last": 0, "watch": [""]},
        {"node": "x", "at": 1, "last": 0, "watch": ["a"] * (MAX_CHATS + 1)},
        {"node": "x", "at": 1, "last": 0, "unwatch": ["a\n"]},
        {"node": "x", "at": 1, "last": 0, "here": {"a": [{"": ["user", 1]}, 1]}},
        {"node": "x", "at": 1, "last": 0, "here": {"": [{}, 0]}},
        {"node": "x", "at": 1, "last": 0, "here": {"a": [{"u": ["root", 1]}, 1]}},
        {"node": "x", "at": 1, "last": 0, "here": {"a": [{"u": ["user", -1]}, 1]}},
        {"node": "x", "at": 1, "last": 0, "here": {"a": [{f"{n}": ["user", 1] for n in range(101)}, 101]}},
        {"node": "x", "at": 1, "last": 0, "changes": {"a": [{"x" * 257: None}, 0]}},
    ],
)
def test_malformed_notes_are_dropped(note: dict[str, Any], expect_log: Expect) -> None:
    """A note that no node sends is dropped, with a log line."""
    expect_log("malformed note of another node dropped")
    cluster = Cluster(MemoryBackend(make_settings()))
    assert cluster.read(json.dumps({"presence": note}).encode()) is None


def test_a_sound_note() -> None:
    """What the malformed ones are made from is taken."""
    cluster = Cluster(MemoryBackend(make_settings()))
    note = PresenceNote(
        "x", 1, 0, here={"a": Crowd({"u": Here("user", 1.5)}, 1)}, changes={"b": Change({"v": None}, 0)}
    )
    assert cluster.read(cluster.encode(Note(presence=note))) == Note(presence=note)


@on_stage
async def test_notes_are_bounded(stage: Stage) -> None:
    """However many chats and users there are, and however long their ids, each note has an end."""
    one, other = await stage.nodes(2)
    notes, answers = notes_of(one), notes_of(other)
    chats = [f"{number:04}" + "\U0001f600" * 252 for number in range(1200)]
    users = [f"{number:03}" + "\U0001f600" * 253 for number in range(LISTED)]
    for chat_id in chats[:30]:
        for user_id in users:
            other.here[chat_id][user_id] = Here("user", 1.0)
    seen = [one.watch(chat_id) for chat_id in chats]
    await settled(lambda: all(each.begun for each in seen))
    await asyncio.sleep(5)
    assert all(len(each.users) == LISTED for each in seen[:30])
    watched = [note["presence"].get("watch", ()) for note in notes]
    assert [chat_id for some in watched for chat_id in some] == chats
    assert 3 <= sum(map(bool, watched)) <= 6
    assert sum("here" in note["presence"] for note in answers) >= 9
    one.presence.restored()
    await settled(lambda: not known(one))
    await settled(lambda: known(one))
    assert all(len(each.users) == LISTED for each in seen[:30])


@on_stage
async def test_notes_share_what_happens_at_once(stage: Stage) -> None:
    """A thousand comings within a moment take few notes, and what is undone at once takes none."""
    one, other = await stage.nodes(2)
    chats = [f"c{number}" for number in range(400)]
    seen = [other.watch(chat_id) for chat_id in chats]
    await settled(lambda: all(each.begun for each in seen))
    notes = notes_of(one)
    for chat_id in chats:
        one.come(chat_id, "a")
    await settled(lambda: all(each.users for each in seen))
    assert len(notes) == 1
    notes.clear()
    for chat_id in chats:
        one.go(chat_id, "a")
        one.come(chat_id, "a")
    await asyncio.sleep(1)
    assert all(not note["presence"].get("changes") for note in notes)


@on_stage
async def test_nobody_watches(stage: Stage) -> None:
    """Then nothing is sent, remembered or looked up, whatever happens in the chats."""
    one, other = await stage.nodes(2)
    notes, answers = notes_of(one), notes_of(other)
    with patch.object(one, "users", side_effect=AssertionError):
        for number in range(1000):
            one.come(f"c{number}", "a")
        await asyncio.sleep(100)
    assert notes == answers == []
    assert not one.presence._mine
    assert not one.backend.beacon


@on_stage
async def test_who_no_longer_watches(stage: Stage) -> None:
    """Is told nothing more, and the other nodes forget it."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    await begun(other.watch(C))
    other.unwatch(C)
    other.presence.unwatch(C)
    await settled(lambda: not one.presence._mine)
    notes = notes_of(one)
    one.come(C, "b")
    await asyncio.sleep(30)
    assert notes == []
    assert other.presence.roster(C) is None


@on_stage
async def test_who_watches_again_at_once(stage: Stage) -> None:
    """Is told everything, whatever of it was on its way."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    for pause in (0, 0.001, 0.01, 0.1, 1):
        seen = await begun(other.watch(C))
        assert seen.users == {"a": "user"}
        other.unwatch(C)
        await asyncio.sleep(pause)
        other.watch(C)
        await asyncio.sleep(pause)
        other.unwatch(C)


@on_stage
async def test_a_change_that_crosses_a_watch(stage: Stage) -> None:
    """Whatever the moment at which somebody comes or goes, who begins to watch has it right."""
    one, other = await stage.nodes(2)
    for number in range(60):
        chat_id = f"c{number}"
        one.come(chat_id, "goes")
        seen = other.watch(chat_id)
        await asyncio.sleep(number * 0.005)
        one.go(chat_id, "goes")
        one.come(chat_id, "comes")
        await asyncio.sleep(0.3)
        one.go(chat_id, "comes")
        one.come(chat_id, "comes", "agent")
        await settled(lambda: seen.users == {"comes": "agent"}, number)  # noqa: B023


@on_stage
async def test_a_note_that_is_lost(stage: Stage) -> None:
    """The next one, or the beacon, shows that it is missing; what it said is asked for."""
    one, other = await stage.nodes(2)
    seen = await begun(other.watch(C))
    for lost in range(3):
        hear, other.notice = other.notice, lambda _: None  # type: ignore[method-assign]
        one.come(C, f"u{lost}")
        await asyncio.sleep(0.5)
        other.notice = hear  # type: ignore[method-assign]
        await asyncio.sleep(16)
        assert len(seen.users) == lost + 1
    assert not any(isinstance(each, Went) for each in seen.news)


async def out_of_order(stage: Stage, is_late: Callable[[dict[str, Any]], bool]) -> None:
    """Users come one by one while somebody begins to watch; some notes come late, and the last one first."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    late: list[bytes] = []
    hear = other.notice

    def hold(raw: bytes) -> None:
        if is_late(json.loads(raw)["presence"]):
            late.append(raw)
        else:
            hear(raw)

    other.notice = hold  # type: ignore[method-assign]
    seen = other.watch(C)
    await asyncio.sleep(0.5)
    for user_id in ("b", "late", "c"):
        one.come(C, user_id)
        await asyncio.sleep(0.2)
    assert late
    other.notice = hear  # type: ignore[method-assign]
    for raw in reversed(late):
        hear(raw)
    await asyncio.sleep(15)
    assert set(seen.users) == {"a", "b", "c", "late"}
    assert not any(isinstance(each, Went) for each in seen.news)


@on_stage
async def test_users_that_come_after_their_changes(stage: Stage) -> None:
    """Who is there is asked again if a change was heard before it."""
    await out_of_order(stage, lambda note: "here" in note)


@on_stage
async def test_a_change_that_comes_late(stage: Stage) -> None:
    """It is missed, asked for, and then ignored."""
    await out_of_order(stage, lambda note: "late" in note.get("changes", {}).get(C, [{}])[0])


@on_stage
async def test_everything_that_comes_late(stage: Stage) -> None:
    """What was heard since then stays true: who came, and who is in a chat that is watched only now."""
    one, other = await stage.nodes(2)
    one.come(C, "a")
    one.come("second", "b")
    seen = await begun(other.watch(C))
    late: list[bytes] = []
    hear = other.notice

    def hold(raw: bytes) -> None:
        if b'"parts"' in raw:
            late.append(raw)
        else:
            hear(raw)

    other.notice = hold  # type: ignore[method-assign]
    other.presence.restored()
    await settled(lambda: late)
    one.come(C, "c")
    second = await begun(other.watch("second"))
    await settled(lambda: len(seen.users) == 2)
    other.notice = hear  # type: ignore[method-assign]
    hear(late[0])
    await settled(lambda: known(other))
    await asyncio.sleep(15)
    assert set(seen.users) == {"a", "c"}
    assert set(second.users) == {"b"}


@on_stage
async def test_a_backend_that_takes_nothing_for_a_while(stage: Stage) -> None:
    """What could not be sent is sent later."""
    one, other = await stage.nodes(2)
    seen = await begun(other.watch(C))
    send = one.backend.send

    async def refuse(note: bytes, address: str = "") -> int:
        raise Unavailable

    one.backend.send = refuse  # type: ignore[method-assign]
    one.come(C, "a")
    one.watch("second")
    other.presence.restored()
    await asyncio.sleep(5)
    one.backend.send = send  # type: ignore[method-assign]
    await settled(lambda: seen.users == {"a": "user"})
    await settled(lambda: other.presence._watchers == {"second": 1})


@on_stage
async def test_an_error_of_our_own(stage: Stage, expect_log: Expect) -> None:
    """Is logged, and ends nothing."""
    expect_log("presence not updated", "presence not told; trying again")
    one, other = await stage.nodes(2)
    seen = await begun(other.watch(C))
    with patch.object(one.presence._sender, "_next_of_stream", side_effect=ZeroDivisionError):
        one.come(C, "a")
        await asyncio.sleep(0.5)
    with patch.object(one.presence, "_look_after", side_effect=ZeroDivisionError):
        await asyncio.sleep(1.5)
    await settled(lambda: seen.users == {"a": "user"})


@on_stage
async def test_one_node_alone(stage: Stage) -> None:
    """A backend that no other node shares: its own users are known at once, and nothing is sent."""
    node = await Node(MemoryBackend(make_settings()), asyncio.get_running_loop().time).start()
    node.come(C, "a")
    seen = node.watch(C)
    assert seen.users == {"a": "user"}
    node.come(C, "b")
    assert set(seen.users) == {"a", "b"}
    node.go(C, "b")
    await asyncio.sleep(12)
    assert set(seen.users) == {"a"}
    node.unwatch(C)
    assert node.presence.notes_sent == 0
    await node.close()


# -- bounds ---------------------------------------------------------------------------------------


@on_stage
async def test_chats_beyond_the_bound(stage: Stage) -> None:
    """Of more chats than a node may watch only its own users are told, and they are right."""
    with patch.object(presence, "MAX_WATCHED", 2):
        one, other = await stage.nodes(2)
        for number in range(3):
            other.come(f"c{number}", "a")
            one.come(f"c{number}", "b")
        seen = [one.watch(f"c{number}") for number in range(3)]
        await settled(lambda: seen[0].begun and seen[1].begun)
        other.go("c2", "a")
        await asyncio.sleep(15)
        assert [set(each.users) for each in seen] == [{"a", "b"}, {"a", "b"}, {"b"}]
        assert other.presence._watchers == {"c0": 1, "c1": 1}


@on_stage
async def test_nodes_beyond_the_bound(stage: Stage) -> None:
    """More nodes than can be known are ignored, until another one has gone."""
    with patch.object(presence, "MAX_NODES", 2):
        one, *others = [await stage.node() for _ in range(4)]
        await asyncio.sleep(1)
        assert len(one.presence._peers) == 2
        await others[0].close()
        await others[1].close()
        one.watch(C)
        await asyncio.sleep(15)
        others[2].presence.restored()
        await settled(lambda: len(known(one)) == 1)


@pytest.fixture(autouse=True)
def _hurry() -> Iterator[None]:
    """A test that really waits has not understood its clock."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 50


def test_the_constants_fit_together() -> None:
    """A node that beats is not questioned; a killed one's users are gone within 20 seconds."""
    assert presence_sender.BEACON + 2 * presence.TICK <= presence.SILENCE
    assert presence.SILENCE + presence.PATIENCE + 3 * presence.TICK < 20
