"""Notes between nodes: who hears them, what is answered, and what is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery import cluster
from eclipse_ws.delivery.cluster import Answers, Note
from tests.backends.harness import until
from tests.delivery.asked import Stage, on_stage, on_stages, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]


def sent(stage: Stage) -> list[dict[str, Any]]:
    """The notes that a node has sent."""
    return [json.loads(note) for note, _ in stage.backend.sent]


@gen_test
async def test_every_node_answers() -> None:
    """A question reaches all nodes, the asking one too; each answers the one that asks, and nobody else."""
    async with on_stages(3) as stages:
        for number, stage in enumerate(stages):
            stage.heard.reply = lambda question, number=number: [number, question]
        answers = await stages[0].delivery.ask({"a": None})
        assert sorted(answers.values) == [[number, {"a": None}] for number in range(3)]
        assert answers.complete
        for number, stage in enumerate(stages):
            notes = stage.backend.sent if number else stage.backend.sent[1:]
            assert [address for _, address in notes] == ["0"]
        note = sent(stages[0])[0]
        assert (note["sender"], len(note["id"])) == ("0", 16)
        assert set(note) == {"id", "sender", "question"}
        assert not stages[0].delivery._cluster._open
        assert not stages[1].delivery._cluster._told


@gen_test
async def test_a_silent_node_is_waited_for_until_the_timeout(expect_log: Expect) -> None:
    """The others' answers are returned as incomplete; an answer that comes too late is ignored."""
    expect_log("'answers': 1.*not every node has answered")
    async with on_stages(2) as stages:
        stages[0].backend.timeout = 0.05
        stages[1].backend.deaf = True
        assert await stages[0].delivery.ask("question") == Answers(["question"], False)
        assert not stages[0].delivery._cluster._open
        late = json.dumps({"id": sent(stages[0])[0]["id"], "answer": 1}).encode()
        assert stages[0].delivery._cluster.read(late) is None


@gen_test
async def test_a_question_may_have_a_shorter_timeout(expect_log: Expect) -> None:
    """The timeout of a question may be shorter than that of a command."""
    expect_log("not every node has answered")
    async with on_stages(1) as (stage,):
        stage.backend.deaf = True
        async with asyncio.timeout(2):
            assert await stage.delivery._cluster.ask(Note(question=1), timeout=0.01) == Answers([], False)


@gen_test
async def test_one_node_alone_is_asked() -> None:
    """A note to an address reaches that node, and its answer alone is waited for."""
    async with on_stages(3) as stages:
        stages[2].heard.reply = lambda question: "two"
        answers = await stages[0].delivery._cluster.ask(Note(question=1), "2")
        assert answers == Answers(["two"], True)
        assert [stage.heard.questions for stage in stages] == [[], [], [1]]


@gen_test
@pytest.mark.parametrize("asked", [True, False])
async def test_a_question_that_can_not_be_sent(asked: bool, expect_log: Expect) -> None:
    """Only this node answers; the failure is a warning if the backend was asked."""
    if asked:
        expect_log("nodes not asked")
    async with on_stages(2) as stages:
        stages[0].backend.sending = Unavailable(asked=asked)
        assert await stages[0].delivery.ask("question") == Answers(["question"], False)
        assert len(stages[0].backend.sent) == 1
        assert not stages[0].delivery._cluster._open


@gen_test
@pytest.mark.parametrize("shared", [True, False])
async def test_without_a_backend_nobody_is_asked(shared: bool) -> None:
    """This node answers for itself; of one that is alone that is complete."""
    async with on_stage() as stage:
        stage.backend.is_shared = shared  # type: ignore[misc]
        stage.backend.is_up = not shared
        assert await stage.delivery._cluster.question("question") == Answers([], not shared)
        assert await stage.delivery.ask("question") == Answers(["question"], not shared)
        assert stage.backend.sent == []


@gen_test
async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more answers, or longer ones, than there is room for, the first are kept."""
    monkeypatch.setattr(cluster, "MAX_ANSWERS", 3)
    question = cluster._Question()
    for number in range(5):
        question.take(number, 10)
    assert question.answers == [0, 1, 2]
    monkeypatch.setattr(cluster, "MAX_ANSWER_BYTES", 25)
    question = cluster._Question()
    for number, length in enumerate([10, 16, 15, 1]):
        question.take(number, length)
    assert question.answers == [0, 2]


@gen_test
async def test_answers_count_with_all_of_their_note(
    monkeypatch: pytest.MonkeyPatch, expect_log: Expect
) -> None:
    """What does not fit into the room of all answers is left out, and the question is not complete then."""
    expect_log("not every node has answered")
    monkeypatch.setattr(cluster, "MAX_ANSWER_BYTES", 1000)
    async with on_stages(2) as stages:
        stages[0].backend.timeout = 0.05
        stages[1].heard.reply = lambda question: "x" * 1000
        assert await stages[0].delivery.ask("question") == Answers(["question"], False)


@gen_test
async def test_telling_others_to_look_again() -> None:
    """The other nodes look again at the chats of a note that they hear; the one that sends it does not."""
    async with on_stages(2) as stages:
        for stage in stages:
            await stage.delivery.subscribe("chat")
            stage.backend.asked.clear()
        await stages[0].delivery._cluster.tell_to_look_again(["chat", "unknown"])
        await turn()
        assert sent(stages[0]) == [{"sender": "0", "look_again": ["chat", "unknown"]}]
        assert [len(stage.backend.asked) for stage in stages] == [0, 1]


@gen_test
async def test_an_answer_that_can_not_be_sent_is_dropped() -> None:
    """An answer is not sent again, and the backend's error reaches nobody."""
    async with on_stage() as stage:
        stage.backend.sending = Unavailable(asked=True)
        stage.delivery._cluster.answer(Note(id="1", sender="0"), None)
        await turn()
        assert len(stage.backend.sent) == 1
        assert not stage.delivery._cluster._told


@gen_test
@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b'{"sender":7}', "str"),
        (b'{"sender":"' + b"x" * 101 + b'"}', "length"),
        (b'{"look_again":[7]}', "str"),
        (b'{"look_again":["\xff"]}', ""),
        (b'{"look_again":["a b", ""]}', "invalid chat id"),
        (b'{"take_over":[""]}', "invalid chat id"),
        (json.dumps({"take_over": ["x"] * (cluster.MAX_CHATS + 1)}).encode(), "length"),
        (b'{"sender":"x","question":"' + b"x" * cluster.MAX_NOTE + b'"}', "bytes"),
        (b"[" * 100_000, ""),
    ],
)
async def test_malformed_notes_are_dropped(raw: bytes, why: str, expect_log: Expect) -> None:
    """Notes that no node can have written are dropped with a warning, and the chats stay as they are."""
    expect_log(f"malformed note of another node dropped.*{why}|{why}.*malformed note of another node dropped")
    async with on_stage() as stage:
        await stage.delivery.subscribe("x")
        stage.backend.asked.clear()
        stage.delivery.notice(raw)
        await turn()
        assert (stage.heard.questions, stage.backend.sent, stage.backend.asked) == ([], [], [])


@gen_test
async def test_notes_of_the_largest_size_are_read() -> None:
    """As many chats as a note may have, and as many bytes."""
    async with on_stage() as stage:
        chats = ["x" * 256] * cluster.MAX_CHATS
        note = stage.delivery._cluster.read(json.dumps({"take_over": chats}).encode())
        assert note is not None
        assert note.take_over == chats
        raw = b'{"sender":"x","question":""}'
        longest = raw[:-2] + b"x" * (cluster.MAX_NOTE - len(raw)) + raw[-2:]
        assert stage.delivery._cluster.read(longest) is not None


@gen_test
async def test_a_note_that_is_not_an_answer_is_returned() -> None:
    """A note with a question or an order is returned, also without a sender; any other is an answer."""
    async with on_stage() as stage:
        read = stage.delivery._cluster.read
        for fields in ({"sender": "x"}, {"look_again": ["a"]}, {"take_over": ["a"]}, {"who_takes": True}):
            note = read(json.dumps(fields).encode())
            assert note == Note(**fields)  # type: ignore[arg-type]
        for fields in ({}, {"id": "unknown", "answer": 1}):
            assert read(json.dumps(fields).encode()) is None


@gen_test
async def test_closing_cancels_answers() -> None:
    """Answers that are being sent when a node closes are cancelled."""
    async with on_stage() as stage:
        never = asyncio.Event()

        async def send(note: bytes, address: str = "") -> int:
            await never.wait()
            return 0

        stage.backend.send = send  # type: ignore[method-assign]
        stage.delivery._cluster.answer(Note(id="1", sender="0"), None)
        await turn()
        assert len(stage.delivery._cluster._told) == 1
        await stage.delivery._cluster.close()
        await until(lambda: not stage.delivery._cluster._told)
