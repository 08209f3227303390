"""What delivery guarantees over any backend. Another backend is held to it by one more line in `KINDS`."""

from __future__ import annotations

import asyncio
import json
import secrets
from unittest.mock import patch

import pytest

from eclipse_ws.protocol import Cursor, parse_event
from tests.backends.harness import Cluster, body, event, fresh_chat, number_of, typing, until
from tests.servers import SERVERS

KINDS = [
    "memory",
    *(f"redis on {name}" for name in SERVERS),
    pytest.param("postgres", marks=pytest.mark.slow),
]

gen_test = pytest.mark.gen_test(timeout=30)


class Guarantees:
    """The clauses of Delivery's docstring. ``cluster`` makes nodes that share a server."""

    # -- delivery -------------------------------------------------------------------------------

    @gen_test
    async def test_publisher_hears_itself(self, cluster: Cluster, chat: str) -> None:
        """What a node publishes comes back to it with the cursor of its receipt."""
        node = await cluster.node(chat)
        receipt = await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")
        assert receipt.id == "m1"
        assert receipt.delivery == "published"
        assert str(node.heard.cursors(chat)[0]) == receipt.cursor
        assert f'"cursor":"{receipt.cursor}"'.encode() in node.heard.events[chat][0].body

    @gen_test
    async def test_only_subscribed_chats_are_delivered(self, cluster: Cluster, chat: str) -> None:
        """An event of a chat that a node has not subscribed is not handed to it."""
        node = await cluster.node(chat)
        other = fresh_chat()
        await node.delivery.publish(other, event("m1"))
        node.delivery.broadcast(other, typing())
        await node.delivery.publish(chat, event("m2"))
        await node.until_heard(chat, "m2")
        assert list(node.heard.events) == [chat]

    @gen_test
    async def test_one_order_on_all_nodes(self, cluster: Cluster, chat: str) -> None:
        """Nodes that publish at the same time hear all events once, in one order without gaps."""
        one, other = await cluster.nodes(2, chat)
        publishing = []
        for number in range(150):
            publishing.append(one.delivery.publish(chat, event(f"a{number}")))
            publishing.append(other.delivery.publish(chat, event(f"b{number}")))
        receipts = await asyncio.gather(*publishing)
        for node in (one, other):
            await until(lambda node=node: len(node.heard.events[chat]) >= 300)
        assert one.heard.numbers(chat) == other.heard.numbers(chat)
        assert len(set(one.heard.numbers(chat))) == 300
        cursors = one.heard.cursors(chat)
        assert [c.offset for c in cursors if c] == list(range(1, 301))
        assert len({c.epoch for c in cursors if c}) == 1
        assert {r.cursor for r in receipts} == {str(c) for c in cursors}

    @gen_test
    async def test_one_identity_is_one_event(self, cluster: Cluster, chat: str) -> None:
        """The same event published on both nodes is delivered once, and both get the one receipt."""
        one, other = await cluster.nodes(2, chat)
        first, second = await asyncio.gather(
            one.delivery.publish(chat, event("m1")), other.delivery.publish(chat, event("m1"))
        )
        assert first == second
        await one.delivery.publish(chat, event("m2"))
        await one.until_heard(chat, "m1", "m2")
        await other.until_heard(chat, "m1", "m2")
        assert one.delivery.counts.duplicates_dropped + other.delivery.counts.duplicates_dropped >= 1

    @gen_test
    async def test_an_update_is_another_event(self, cluster: Cluster, chat: str) -> None:
        """Type and ``data.updatedAt`` belong to the identity: an update isn't a duplicate of its message."""
        node = await cluster.node(chat)
        await node.delivery.publish(chat, event("m1"))
        await node.delivery.publish(chat, event("m1", "message_updated"))
        await node.until_heard(chat, "m1", "m1")

    @gen_test
    async def test_position_is_the_last_delivered(self, cluster: Cluster, chat: str) -> None:
        """The position starts before the first event, and follows what is delivered."""
        node = await cluster.node()
        assert node.delivery.position(chat) is None
        await node.delivery.subscribe(chat)
        start = node.delivery.position(chat)
        assert start is not None
        assert start.offset == 0
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")
        assert node.delivery.position(chat) == Cursor(start.epoch, 1)

    @gen_test
    async def test_ephemeral_events_cross_nodes_and_are_not_kept(self, cluster: Cluster, chat: str) -> None:
        """An ephemeral event reaches both nodes with its origin, without a cursor, and no history."""
        one, other = await cluster.nodes(2, chat)
        start = one.delivery.position(chat)
        one.delivery.broadcast(chat, typing("session-1"))
        await until(lambda: one.heard.events[chat] and other.heard.events[chat])
        for node in (one, other):
            (heard,) = node.heard.events[chat]
            assert (heard.type, heard.origin, heard.cursor) == ("typing", "session-1", None)
            assert b"origin" not in heard.body
        assert await one.delivery.resume(chat, start) == []

    # -- history --------------------------------------------------------------------------------

    @gen_test
    async def test_history_answers_what_was_missed(self, cluster: Cluster, chat: str) -> None:
        """After any cursor of the chat's epoch the history is exactly the rest, in order, on each node."""
        one, other = await cluster.nodes(2, chat)
        start = one.delivery.position(chat)
        for number in range(5):
            await one.delivery.publish(chat, event(number))
        for node in (one, other):
            await node.until_heard(chat, *range(5))
            for after in range(6):
                found = await node.delivery.resume(chat, Cursor(start.epoch, after))
                assert [number_of(e) for e in found] == [str(n) for n in range(after, 5)]
                assert [e.cursor for e in found] == [Cursor(start.epoch, n + 1) for n in range(after, 5)]

    @gen_test
    async def test_history_is_all_or_nothing(self, cluster: Cluster, chat: str) -> None:
        """A history that has forgotten one of the missed events answers none of them."""
        node = await cluster.node(chat, history_events=10)
        start = node.delivery.position(chat)
        for number in range(25):
            await node.delivery.publish(chat, event(number))
        await node.until_heard(chat, *range(25))
        assert await node.delivery.resume(chat, Cursor(start.epoch, 14)) is None
        assert await node.delivery.resume(chat, start) is None
        found = await node.delivery.resume(chat, Cursor(start.epoch, 15))
        assert [number_of(e) for e in found] == [str(n) for n in range(15, 25)]

    @gen_test
    async def test_history_refuses_foreign_cursors(self, cluster: Cluster, chat: str) -> None:
        """A cursor from the future, of another epoch or of another chat gets None."""
        node = await cluster.node(chat)
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")
        at = node.delivery.position(chat)
        other = fresh_chat()
        await node.delivery.subscribe(other)
        for cursor in (
            Cursor(at.epoch, 2),
            Cursor(at.epoch, 10**30),
            Cursor("another", 0),
            node.delivery.position(other),
        ):
            assert await node.delivery.resume(chat, cursor) is None
        assert await node.delivery.resume(fresh_chat(), at) is None

    # -- subscribing ----------------------------------------------------------------------------

    @gen_test
    async def test_subscribe_is_idempotent(self, cluster: Cluster, chat: str) -> None:
        """Subscribing twice, also at the same time, delivers each event once."""
        node = await cluster.node()
        await asyncio.gather(*(node.delivery.subscribe(chat) for _ in range(20)))
        assert node.delivery.position(chat) is not None
        await node.delivery.subscribe(chat)
        await node.delivery.publish(chat, event("m1"))
        await node.delivery.publish(chat, event("m2"))
        await node.until_heard(chat, "m1", "m2")
        assert not node.heard.interrupts

    @gen_test
    async def test_a_cancelled_subscriber_disturbs_nobody(self, cluster: Cluster, chat: str) -> None:
        """Somebody who stops waiting for a subscription leaves the other one's alive."""
        node = await cluster.node()
        waiting = [asyncio.ensure_future(node.delivery.subscribe(chat)) for _ in range(2)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await waiting[1]
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")

    @gen_test
    async def test_a_lingering_chat_can_be_resumed(self, cluster: Cluster, chat: str) -> None:
        """What is published after the last member has left can be resumed, and joining again wins."""
        node = await cluster.node(chat)
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")
        at = node.delivery.position(chat)
        node.delivery.unsubscribe(chat)
        node.delivery.unsubscribe(chat)
        await node.delivery.publish(chat, event("m2"))
        await node.delivery.subscribe(chat)
        await until(lambda: node.delivery.position(chat) == Cursor(at.epoch, 2))
        assert [number_of(e) for e in await node.delivery.resume(chat, at)] == ["m2"]
        await node.delivery.publish(chat, event("m3"))
        await until(lambda: "m3" in node.heard.numbers(chat))
        assert node.delivery.position(chat) == Cursor(at.epoch, 3)
        assert not node.heard.interrupts

    @gen_test
    async def test_joining_again_stops_the_lingering(self, cluster: Cluster, chat: str) -> None:
        """A chat that is joined again is still heard when its old lingering would have ended."""
        node = await cluster.node(chat, history_seconds=0.4)
        other = fresh_chat()
        await node.delivery.subscribe(other)
        epoch = node.delivery.position(chat).epoch
        node.delivery.unsubscribe(chat)
        await node.delivery.subscribe(chat)
        node.delivery.unsubscribe(other)  # its end is later than the first one's would have been
        await until(lambda: node.delivery.position(other) is None, "the other chat to be forgotten")
        assert node.delivery.position(chat) == Cursor(epoch, 0)
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")

    @gen_test
    async def test_leaving_again_does_not_prolong_the_lingering(self, cluster: Cluster, chat: str) -> None:
        """The lingering ends, however often it is noted that nobody is in the chat."""
        node = await cluster.node(chat, history_seconds=0.2)
        node.delivery.unsubscribe(chat)

        def forgotten() -> bool:
            node.delivery.unsubscribe(chat)
            return node.delivery.position(chat) is None

        await until(forgotten, "the chat to be forgotten")

    @gen_test
    async def test_after_lingering_a_new_epoch_begins(self, cluster: Cluster, chat: str) -> None:
        """A chat that nobody has heard any more doesn't pretend to know what passed: its epoch is new."""
        if cluster.kind == "postgres":
            pytest.skip("every event of a chat goes through its history, also while no node hears the chat")
        node = await cluster.node(chat, history_seconds=0.2)
        await node.delivery.publish(chat, event("m1"))
        await node.until_heard(chat, "m1")
        at = node.delivery.position(chat)
        node.delivery.unsubscribe(chat)
        await until(lambda: node.delivery.position(chat) is None, "the chat to be forgotten")
        await node.delivery.subscribe(chat)
        assert node.delivery.position(chat).epoch != at.epoch
        assert await node.delivery.resume(chat, at) is None
        await node.delivery.publish(chat, event("m2"))
        await node.until_heard(chat, "m1", "m2")

    # -- attempts -------------------------------------------------------------------------------

    @gen_test
    async def test_an_attempt_is_new_once(self, cluster: Cluster, chat: str) -> None:
        """The first one saves; later attempts, on any node, get the same receipt."""
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key")
        assert first.state == "new"
        receipt = await one.delivery.publish(chat, event("m1"), first)
        for node in (one, other):
            again = await node.delivery.attempt(chat, "key")
            assert (again.state, again.receipt) == ("done", receipt)
        assert receipt.id == "m1"

    @gen_test
    async def test_an_attempt_at_an_event_that_was_published_is_done(
        self, cluster: Cluster, chat: str
    ) -> None:
        """An event that was published before settles the attempt as well, with the first receipt."""
        one, other = await cluster.nodes(2, chat)
        receipt = await one.delivery.publish(chat, event("m1"))
        attempt = await other.delivery.attempt(chat, "key")
        assert await other.delivery.publish(chat, event("m1"), attempt) == receipt
        for node in (one, other):
            again = await node.delivery.attempt(chat, "key")
            assert (again.state, again.receipt) == ("done", receipt)

    @gen_test
    async def test_keys_belong_to_their_chat(self, cluster: Cluster, chat: str) -> None:
        """The same key in another chat, and another key in the same chat, are new."""
        node = await cluster.node()
        for chat_id, key in ((chat, "key"), (chat, "KEY"), (chat, "key "), (fresh_chat(), "key")):
            assert (await node.delivery.attempt(chat_id, key)).state == "new"

    @gen_test
    async def test_an_attempt_waits_for_one_in_progress(self, cluster: Cluster, chat: str) -> None:
        """While the first one is saving, the others wait, on both nodes, and get its receipt."""
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key")
        waiting = [asyncio.ensure_future(n.delivery.attempt(chat, "key")) for n in (one, other, one, other)]
        done, _ = await asyncio.wait(waiting, timeout=0.15)
        assert not done
        receipt = await one.delivery.publish(chat, event("m1"), first)
        for attempt in await asyncio.gather(*waiting):
            assert (attempt.state, attempt.receipt) == ("done", receipt)

    @gen_test
    @pytest.mark.parametrize("same_node", [True, False])
    async def test_a_released_attempt_is_new_for_one(
        self, cluster: Cluster, chat: str, same_node: bool
    ) -> None:
        """After a release, one of those who wait saves, and the other waits for that one."""
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key")
        nodes = (one, one) if same_node else (one, other)
        waiting = [asyncio.ensure_future(n.delivery.attempt(chat, "key")) for n in nodes]
        await asyncio.sleep(0)
        await one.delivery.release(first)
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(pending)) == (1, 1)
        (new,) = done
        assert new.result().state == "new"
        receipt = await nodes[waiting.index(new)].delivery.publish(chat, event("m1"), new.result())
        second = await pending.pop()
        assert (second.state, second.receipt) == ("done", receipt)

    @gen_test
    async def test_an_abandoned_attempt_is_unknown(self, cluster: Cluster, chat: str) -> None:
        """An abandoned attempt is unknown to everybody, until somebody may try it again."""
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key")
        waiting = [asyncio.ensure_future(n.delivery.attempt(chat, "key")) for n in (one, other)]
        await asyncio.sleep(0)
        await one.delivery.abandon(first)
        assert [a.state for a in await asyncio.gather(*waiting)] == ["unknown", "unknown"]
        assert (await other.delivery.attempt(chat, "key")).state == "unknown"
        again = await other.delivery.attempt(chat, "key", retry_unknown=True)
        assert again.state == "new"
        receipt = await other.delivery.publish(chat, event("m1"), again)
        assert (await other.delivery.attempt(chat, "key")).receipt == receipt

    @gen_test
    @pytest.mark.parametrize("state", ["done", "in progress", "unknown", "released"])
    async def test_a_key_stands_for_one_thing(self, cluster: Cluster, chat: str, state: str) -> None:
        """Whatever became of an attempt, its key is reused with another fingerprint, on every node and at
        once; with its own it is what it was.
        """
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key", fingerprint="f1")
        assert (first.state, first.key.fingerprint) == ("new", "f1")
        if state == "done":
            await one.delivery.publish(chat, event("m1"), first)
        elif state == "unknown":
            await one.delivery.abandon(first)
        elif state == "released":
            await one.delivery.release(first)
        for node in (other, one, other):
            for again in (False, True):
                async with asyncio.timeout(2):
                    reused = await node.delivery.attempt(chat, "key", fingerprint="f2", retry_unknown=again)
                assert (reused.state, reused.receipt) == ("reused", None)
        same = asyncio.ensure_future(other.delivery.attempt(chat, "key", fingerprint="f1"))
        if state == "in progress":
            assert not (await asyncio.wait([same], timeout=0.1))[0]
            await one.delivery.publish(chat, event("m1"), first)
        assert (await same).state == {"unknown": "unknown", "released": "new"}.get(state, "done")

    @gen_test
    async def test_a_fingerprint_holds_after_the_same_again(self, cluster: Cluster, chat: str) -> None:
        """An attempt that is made again under its own fingerprint keeps it."""
        one, other = await cluster.nodes(2, chat)
        await other.delivery.release(await other.delivery.attempt(chat, "key", fingerprint="f1"))
        await one.delivery.abandon(await one.delivery.attempt(chat, "key", fingerprint="f1"))
        again = await one.delivery.attempt(chat, "key", fingerprint="f1", retry_unknown=True)
        assert again.state == "new"
        receipt = await one.delivery.publish(chat, event("m1"), again)
        for node in (one, other):
            assert (await node.delivery.attempt(chat, "key", fingerprint="f2")).state == "reused"
            assert (await node.delivery.attempt(chat, "key", fingerprint="f1")).receipt == receipt

    @gen_test
    async def test_no_fingerprint_is_like_any(self, cluster: Cluster, chat: str) -> None:
        """A requester without a fingerprint, such as an earlier server, gets what is known about the key."""
        one, other = await cluster.nodes(2, chat)
        receipts = {}
        for key, fingerprint in (("old", ""), ("new", "f1")):
            attempt = await one.delivery.attempt(chat, key, fingerprint=fingerprint)
            receipts[key] = await one.delivery.publish(chat, event(key), attempt)
        for node in (one, other):
            assert (await node.delivery.attempt(chat, "old", fingerprint="f2")).receipt == receipts["old"]
            assert (await node.delivery.attempt(chat, "new")).receipt == receipts["new"]

    @gen_test
    @patch("eclipse_ws.backends.base.MARGIN", 0.1)
    async def test_an_attempt_that_never_ends_is_unknown(self, cluster: Cluster, chat: str) -> None:
        """Who waits longer than a call to the chat API may take is told that the outcome is unknown."""
        one, other = await cluster.nodes(2, chat, api_timeout=0.2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await one.delivery.attempt(chat, "key")).state == "new"
        states = await asyncio.gather(*(n.delivery.attempt(chat, "key") for n in (one, other)))
        assert [a.state for a in states] == ["unknown", "unknown"]
        assert loop.time() - began > 0.29

    @gen_test
    async def test_a_cancelled_wait_leaves_the_others(self, cluster: Cluster, chat: str) -> None:
        """Somebody who stops waiting for an attempt doesn't end it for the others."""
        one, other = await cluster.nodes(2, chat)
        first = await one.delivery.attempt(chat, "key")
        waiting = [asyncio.ensure_future(n.delivery.attempt(chat, "key")) for n in (one, other, one, other)]
        await asyncio.sleep(0.02)
        for task in waiting[:2]:
            task.cancel()
        receipt = await one.delivery.publish(chat, event("m1"), first)
        assert [(await task).receipt for task in waiting[2:]] == [receipt, receipt]

    @gen_test
    async def test_attempts_are_forgotten_with_the_history(self, cluster: Cluster, chat: str) -> None:
        """A key is remembered for the history's lifetime, and no longer."""
        node = await cluster.node(chat, history_seconds=1)
        first = await node.delivery.attempt(chat, "key")
        await node.delivery.publish(chat, event("m1"), first)
        assert (await node.delivery.attempt(chat, "key")).state == "done"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 5
        while (await node.delivery.attempt(chat, "key")).state != "new":
            assert loop.time() < deadline
            await asyncio.sleep(0.1)

    @gen_test
    async def test_the_table_of_attempts_is_bounded(self, cluster: Cluster, chat: str) -> None:
        """However many keys are used, a node remembers as many as its setting says, and the open ones."""
        node = await cluster.node(chat, max_attempts=20)
        first = await node.delivery.attempt(chat, "first")
        for number in range(60):
            attempt = await node.delivery.attempt(chat, f"key-{number}")
            await node.delivery.publish(chat, event(number), attempt)
        assert len(node.delivery._idempotency._records) <= 20
        waiting = asyncio.ensure_future(node.delivery.attempt(chat, "first"))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        receipt = await node.delivery.publish(chat, event("first"), first)
        assert (await waiting).receipt == receipt

    @gen_test
    async def test_no_chat_makes_another_forget_its_attempts(self, cluster: Cluster, chat: str) -> None:
        """However many keys other chats use, what was saved is known for as long as the history lives."""
        node = await cluster.node(max_attempts=20)
        first = await node.delivery.attempt(chat, "key")
        receipt = await node.delivery.publish(chat, event("first"), first)
        others = [fresh_chat() for _ in range(30)]
        for number in range(60):
            attempt = await node.delivery.attempt(others[number % 30], f"key-{number}")
            if attempt.state == "new":
                await node.delivery.publish(attempt.chat_id, event(number), attempt)
            else:
                assert attempt.state == "later"  # put off: nothing is saved
        assert (await node.delivery.attempt(chat, "key")).receipt == receipt
        assert len(node.delivery._idempotency._records) <= 20

    # -- questions, health, end -----------------------------------------------------------------

    @gen_test
    async def test_ask_gathers_every_answer(self, cluster: Cluster) -> None:
        """A question reaches every node, the asking one too, and each answer comes back."""
        nodes = list(dict.fromkeys(await cluster.nodes(3)))
        for number, node in enumerate(nodes):
            node.heard.reply = lambda question, number=number: {"number": number, "question": question}
        question = {"disconnect": secrets.token_hex(3), "漢字": [1, None]}
        answers = (await nodes[0].delivery.ask(question)).values
        assert sorted(a["number"] for a in answers) == list(range(len(nodes)))
        assert all(a["question"] == question for a in answers)

    @gen_test
    async def test_many_questions_at_once(self, cluster: Cluster) -> None:
        """Questions that are asked at the same time get their own answers."""
        nodes = await cluster.nodes(2)
        count = len(set(nodes))
        asked = await asyncio.gather(*(nodes[n % 2].delivery.ask(n) for n in range(30)))
        assert [answers.values for answers in asked] == [[n] * count for n in range(30)]

    @gen_test
    async def test_health_is_up(self, cluster: Cluster) -> None:
        """A backend that works says so, under its name."""
        node = await cluster.node()
        health = node.delivery.health
        assert (health.name, health.state, health.queued) == (node.backend.name, "up", 0)

    @gen_test
    async def test_close_is_idempotent(self, cluster: Cluster, chat: str) -> None:
        """Closing twice, or before a start, is not an error; every test checks that nothing is left."""
        node = await cluster.node(chat)
        await node.delivery.publish(chat, event("m1"))
        await node.delivery.attempt(chat, "key")
        await node.delivery.close()
        await node.delivery.close()
        never = type(node.backend)(cluster.settings())
        await never.close()

    @gen_test
    async def test_histories_are_bounded(self, cluster: Cluster, chat: str) -> None:
        """What is remembered of a chat doesn't grow with what was published to it."""
        node = await cluster.node(chat, history_events=5)
        for number in range(60):
            await node.delivery.publish(chat, event(number))
        await until(lambda: len(node.heard.events[chat]) == 60)
        assert await self.kept(cluster, chat) <= 5
        # An identity is remembered for as long as its event at the least.
        receipt = await node.delivery.publish(chat, event(55))
        assert receipt.cursor == str(node.heard.cursors(chat)[55])

    @gen_test
    @patch("eclipse_ws.config.settings.Settings.history_bytes", 10_000)
    async def test_histories_are_bounded_in_bytes(self, cluster: Cluster, chat: str) -> None:
        """The oldest events go where all together are too long; what is kept can be resumed, no more."""
        node = await cluster.node(chat)
        sizes = [100] * 10 + [2000] * 30 + [100] * 60 + [3000, 100, 7000, 100, 9000]
        for number, size in enumerate(sizes):
            await node.delivery.publish(chat, parse_event(body(number, padding="x" * size)))
            kept = await self.bodies(cluster, chat)
            assert sum(map(len, kept)) <= 10_000
            assert [json.loads(each)["data"]["id"] for each in kept][-1] == str(number)
            offset = number + 1
            await until(lambda offset=offset: node.delivery.position(chat).offset == offset)
            epoch = node.delivery.position(chat).epoch
            reached = await node.delivery.resume(chat, Cursor(epoch, offset - len(kept)))
            assert [number_of(e) for e in reached] == [str(n) for n in range(offset - len(kept), offset)]
            if offset > len(kept):
                assert await node.delivery.resume(chat, Cursor(epoch, offset - len(kept) - 1)) is None
            if number in (9, 80):
                assert len(kept) >= 10
        await until(lambda: len(node.heard.events[chat]) == len(sizes))
        assert [c.offset for c in node.heard.cursors(chat) if c] == list(range(1, len(sizes) + 1))

    @gen_test
    @patch("eclipse_ws.config.settings.Settings.history_bytes", 1024)
    async def test_the_newest_event_is_kept_whatever_its_size(self, cluster: Cluster, chat: str) -> None:
        """An event longer than all of a history may be is kept alone, until the next one comes."""
        node = await cluster.node(chat)
        at = node.delivery.position(chat)
        for number, size in enumerate((10, 5000, 5000, 900)):
            await node.delivery.publish(chat, parse_event(body(number, padding="x" * size)))
            await until(lambda number=number: node.delivery.position(chat).offset == number + 1)
            assert len(await self.bodies(cluster, chat)) == 1
            (newest,) = await node.delivery.resume(chat, Cursor(at.epoch, number))
            assert number_of(newest) == str(number)

    async def kept(self, cluster: Cluster, chat: str) -> int:
        """How many events the backend keeps of a chat."""
        return len(await self.bodies(cluster, chat))

    async def bodies(self, cluster: Cluster, chat: str) -> list[bytes]:
        """The events that the backend keeps of a chat."""
        if cluster.kind == "postgres":
            return await cluster.postgres_bodies(chat)
        if cluster.kind == "memory":
            return [kept.body for kept in cluster.made[0].backend._channels[chat].events]
        found = await cluster.client.xrange(f"eclipse:{{{chat}}}:events")
        return [fields[b"e"] for _, fields in found]
