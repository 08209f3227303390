"""Notes between nodes: questions to all of them, their answers, and chats that they take over."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import structlog

from eclipse_ws.backends.base import Backend, Unavailable
from eclipse_ws.delivery.presence_notes import PresenceNote
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import bounded
from eclipse_ws.security.jwt import is_name

log = structlog.get_logger("eclipse_ws.delivery")

MAX_NOTE: Final = 1 << 20
"""Bytes of a note. Ours are shorter: `MAX_CHATS` ids of 256 characters, of four bytes each in UTF-8."""
MAX_CHATS: Final = 500
"""Chats of one note."""
MAX_ANSWERS, MAX_ANSWER_BYTES = 1000, 1 << 22
"""Answers to one question that are kept, and their bytes together."""

_Name = Annotated[str, msgspec.Meta(max_length=100)]
_Chats = Annotated[list[str], msgspec.Meta(max_length=MAX_CHATS)]


class Note(msgspec.Struct, omit_defaults=True):
    """What nodes send each other: a question, an answer, chats to subscribe to again or to take over.

    ``who_takes`` asks who would take chats over; the answer is the node's address, or null. ``marked`` has
    the chat, the name and the text of a mark that was set.
    """

    id: _Name = ""
    sender: _Name = ""
    question: Any = None
    answer: Any = None
    look_again: _Chats = []
    who_takes: bool = False
    take_over: _Chats = []
    marked: Annotated[list[str], msgspec.Meta(max_length=3)] = []
    presence: PresenceNote | None = None
    """Such a note has no ``sender``: earlier releases take it for an answer to somebody else."""


class Answers(NamedTuple):
    """The nodes' answers to a question, and whether all nodes have answered."""

    values: list[Any]
    complete: bool


_encode = msgspec.json.Encoder().encode
_decode = bounded(msgspec.json.Decoder(Note).decode)


class _Question:
    """A question that this node has asked, and the answers so far."""

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


class Cluster:
    """Sends notes to the nodes that share a backend, and reads theirs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[str, _Question] = {}
        self._told = Tasks()

    async def close(self) -> None:
        """Stop sending answers."""
        await self._told.close()

    async def question(self, question: Any) -> Answers:
        """Ask every node, including this one, a JSON question; nobody answers while the backend is down."""
        if self._backend.is_shared and self._backend.health.state == "up":
            return await self.ask(Note(question=question))
        return Answers([], not self._backend.is_shared)

    async def ask(self, note: Note, address: str = "", timeout: float | None = None) -> Answers:
        """Send a note, and collect the answers of the nodes that hear it, for at most ``timeout`` seconds."""
        number = note.id = secrets.token_hex(8)
        note.sender = self._backend.address
        question = self._open[number] = _Question()
        complete = False
        try:
            nodes = await self._backend.send(_encode(note), address)
            async with asyncio.timeout(self._backend.timeout if timeout is None else timeout):
                while len(question.answers) < nodes:
                    await question.news.wait()
                    question.news.clear()
            complete = True
        except TimeoutError:
            log.warning("not every node has answered", answers=len(question.answers))
        except Unavailable as error:
            log.log(logging.WARNING if error.asked else logging.DEBUG, "nodes not asked", why=str(error))
        finally:
            del self._open[number]
        return Answers(question.answers, complete)

    def answer(self, note: Note, answer: Any) -> None:
        """Answer a note's sender, without waiting."""
        self._told.start(self._send(Note(id=note.id, answer=answer), note.sender))

    async def tell_to_look_again(self, chat_ids: list[str]) -> None:
        """Tell every node that these chats have a new epoch. Raises Unavailable."""
        await self._backend.send(_encode(Note(sender=self._backend.address, look_again=chat_ids)))

    async def tell(self, note: Note, address: str = "") -> int:
        """Send a note that nobody answers. Returns how many nodes hear it. Raises Unavailable."""
        return await self._backend.send(self.encode(note), address)

    @staticmethod
    def encode(note: Note) -> bytes:
        """A note as it is sent."""
        return _encode(note)

    def read(self, raw: bytes) -> Note | None:
        """Parse a node's note. Returns None for an answer, which is recorded, and for a malformed note."""
        if len(raw) > MAX_NOTE:
            return self.drop(raw, f"it is longer than {MAX_NOTE} bytes")
        try:
            note = _decode(raw)
        except (msgspec.MsgspecError, UnicodeError) as error:
            return self.drop(raw, str(error))
        if not all(map(is_name, (*note.look_again, *note.take_over))):
            return self.drop(raw, "it contains an invalid chat id")
        if note.presence is not None:
            return note if note.presence.is_sound() else self.drop(raw, "it contains an invalid id")
        if note.marked and len(note.marked) != 3:
            return self.drop(raw, "it contains an incomplete mark")
        if note.sender or note.marked or note.look_again or note.take_over or note.who_takes:
            return note
        if note.id in self._open:
            self._open[note.id].take(note.answer, len(raw))
        return None

    @staticmethod
    def drop(raw: bytes, why: str) -> None:
        """Log a note that can't be used, and drop it."""
        log.warning("malformed note of another node dropped", bytes=len(raw), why=why)

    async def _send(self, note: Note, address: str = "") -> None:
        try:
            await self._backend.send(_encode(note), address)
        except Unavailable as error:  # its receiver asks again
            log.debug("note not sent", why=str(error))
