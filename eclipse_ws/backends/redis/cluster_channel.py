"""Questions to all nodes, and their answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.connection import LinkError
from eclipse_ws.backends.redis.connections import Links
from eclipse_ws.protocol import bounded
from eclipse_ws.security.jwt import is_name

log = structlog.get_logger("eclipse_ws.redis")


BATCH = 250
"""Chats that are handed over in one piece."""
MAX_NOTE = 1 << 20
"""Bytes of a note. Ours are shorter: `MAX_CHATS` ids of 256 characters, of four bytes each in UTF-8."""
MAX_CHATS = 500
"""Chats of one note."""
MAX_ANSWERS, MAX_ANSWER_BYTES = 1000, 1 << 22
"""Answers to one question that are kept, and their bytes together."""
MAX_TAKING = 1000
"""Notes with chats to take over that are worked on at once."""

_Name = Annotated[str, msgspec.Meta(max_length=100)]
_Chats = Annotated[list[str], msgspec.Meta(max_length=MAX_CHATS)]


class _Note(msgspec.Struct, omit_defaults=True):
    """What nodes tell each other: a question, an answer, chats to look at again or to take over.

    ``who_takes`` asks who would take chats over; the answer is the node's name, or null.
    """

    id: _Name = ""
    sender: _Name = ""
    question: Any = None
    answer: Any = None
    look_again: _Chats = []
    who_takes: bool = False
    take_over: _Chats = []


_encode = msgspec.json.Encoder().encode
_decode = bounded(msgspec.json.Decoder(_Note).decode)


class _Question:
    """A question that this node has put, and what was answered so far."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.news = asyncio.Event()
        self._room = MAX_ANSWER_BYTES

    def take(self, answer: Any, length: int) -> None:
        """Keep an answer of so many bytes, if there is room for it."""
        if len(self.answers) < MAX_ANSWERS and length <= self._room:
            self._room -= length
            self.answers.append(answer)
            self.news.set()


class Nodes:
    """Speaks with the other nodes over the channel that all hear and each one's own."""

    def __init__(
        self,
        links: Links,
        timeout: float,
        answer: Callable[[Any], Any],
        look_again: Callable[[list[str]], None],
        take_over: Callable[[list[str]], Awaitable[list[str]]],
    ) -> None:
        self._links = links
        self._timeout = timeout
        self._answer = answer
        self._look_again = look_again
        self._take_over = take_over
        self._taking: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._open: dict[str, _Question] = {}

    async def ask(self, question: Any) -> tuple[list[Any], bool]:
        """Gather every node's answer; those that don't come in time are missing. Tell, too, if none is."""
        if self._links.commands is None or self._links.state != "up":
            return [self._answer(question)], False
        answers, complete = await self._collect(
            self._links.names.all_nodes, _Note(question=question), self._timeout
        )
        return answers or [self._answer(question)], complete

    async def hand_over(self, chat_ids: list[str], timeout: float) -> set[str] | None:
        """Have other nodes take these chats over, as evenly as they are many; tell which they hear by now.

        Each of the two questions that it takes is waited for ``timeout`` seconds at most. None if no other
        node takes any; one that is leaving itself does not, and one that does not answer can not.
        """
        asked, self._leaving = self._leaving, True
        if self._links.state != "up" or (asked and not chat_ids):
            return set()
        answers, _ = await self._collect(
            self._links.names.all_nodes, _Note(who_takes=True), min(timeout, self._timeout)
        )
        if not answers:  # not even this node's own: the question was lost
            return set()
        takers = [name for name in answers if isinstance(name, str) and name]
        if not takers:
            log.info("no other node takes the chats over", chats=len(chat_ids))
            return None
        batches = [chat_ids[at : at + BATCH] for at in range(0, len(chat_ids), BATCH)]
        outcomes = await asyncio.gather(
            *(
                self._collect(
                    self._links.names.node + takers[number % len(takers)], _Note(take_over=batch), timeout
                )
                for number, batch in enumerate(batches)
            )
        )
        taken: set[str] = set()
        for batch, (outcome, _) in zip(batches, outcomes, strict=True):
            if outcome and isinstance(outcome[0], list):
                taken |= set(batch).difference(outcome[0])
        log.info("chats handed over", chats=len(taken), of=len(chat_ids), nodes=len(takers))
        return taken

    async def close(self) -> None:
        """Stop taking chats over."""
        for task in self._taking:
            task.cancel()
        await asyncio.gather(*self._taking, return_exceptions=True)

    async def _collect(self, channel: str, note: _Note, timeout: float) -> tuple[list[Any], bool]:
        """Send a note with a number of its own, and gather the answers of who hears the channel.

        Tells, too, whether all of them have answered.
        """
        commands, complete = self._links.commands, False
        if commands is None:
            return [], complete
        number = note.id = secrets.token_hex(8)
        note.sender = self._links.name
        question = self._open[number] = _Question()
        try:
            nodes = await commands.call("PUBLISH", channel, _encode(note))
            async with asyncio.timeout(timeout):
                while len(question.answers) < nodes:
                    await question.news.wait()
                    question.news.clear()
            complete = True
        except TimeoutError:
            log.warning("not every node has answered", answers=len(question.answers))
        except (LinkError, RedisError) as error:
            if not self._links.doubt(error):
                log.warning("the other nodes could not be asked", why=str(error))
        finally:
            del self._open[number]
        return question.answers, complete

    def tell_to_look_again(self, chat_ids: list[str]) -> None:
        """Tell every node that these chats have a new epoch."""
        commands = self._links.commands
        if commands is not None:
            note = _Note(sender=self._links.name, look_again=chat_ids)
            commands.call("PUBLISH", self._links.names.all_nodes, _encode(note)).add_done_callback(_ignore)

    def hear(self, raw: bytes) -> None:
        """Take what another node (or this one) has told."""
        if len(raw) > MAX_NOTE:
            self._drop(raw, f"at most {MAX_NOTE} bytes are taken")
            return
        try:
            note = _decode(raw)
        except (msgspec.MsgspecError, UnicodeError) as error:
            self._drop(raw, str(error))
            return
        if not all(map(is_name, (*note.look_again, *note.take_over))):
            self._drop(raw, "it names a chat as none can be called")
        elif note.look_again:
            if note.sender != self._links.name:
                self._look_again(note.look_again)
        elif note.take_over:
            if len(self._taking) >= MAX_TAKING:
                self._drop(raw, f"{MAX_TAKING} are being worked on")
                return
            task = asyncio.create_task(self._take(note))
            self._taking.add(task)
            task.add_done_callback(self._taking.discard)
        elif note.who_takes:
            # Its own answer is no use to a node that leaves, but it waits for one of each.
            self._tell(note, None if self._leaving else self._links.name)
        elif note.sender:
            self._tell(note, self._answer(note.question))
        elif note.id in self._open:
            self._open[note.id].take(note.answer, len(raw))

    @staticmethod
    def _drop(raw: bytes, why: str) -> None:
        log.warning("malformed note of another node dropped", bytes=len(raw), why=why)

    async def _take(self, note: _Note) -> None:
        self._tell(note, await self._take_over(note.take_over))

    def _tell(self, note: _Note, answer: Any) -> None:
        """Answer a note's sender."""
        commands = self._links.commands
        if commands is not None:
            reply = _Note(id=note.id, answer=answer)
            commands.call("PUBLISH", self._links.names.node + note.sender, _encode(reply)).add_done_callback(
                _ignore
            )


def _ignore(done: asyncio.Future[Any]) -> None:
    """Take note of an outcome that nobody waits for."""
    if not done.cancelled():
        done.exception()
