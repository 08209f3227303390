"""Questions to all nodes, and their answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.link import LinkError
from eclipse_ws.backends.redis.links import ALL_NODES, NODE_PREFIX, Links

log = structlog.get_logger("eclipse_ws.redis")


class _Note(msgspec.Struct, omit_defaults=True):
    """What nodes tell each other: a question, an answer, or chats to look at again."""

    id: str = ""
    sender: str = ""
    question: Any = None
    answer: Any = None
    look_again: list[str] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Note).decode


class Nodes:
    """Speaks with the other nodes over ``eclipse:nodes`` and each one's own channel."""

    def __init__(
        self,
        links: Links,
        timeout: float,
        answer: Callable[[Any], Any],
        look_again: Callable[[list[str]], None],
    ) -> None:
        self._links = links
        self._timeout = timeout
        self._answer = answer
        self._look_again = look_again
        self._open: dict[str, list[Any]] = {}
        self._news: dict[str, asyncio.Event] = {}

    async def ask(self, question: Any) -> list[Any]:
        """Gather every node's answer; those that don't come in time are missing."""
        commands = self._links.commands
        if commands is None or self._links.state != "up":
            return [self._answer(question)]
        number = secrets.token_hex(8)
        answers = self._open[number] = []
        news = self._news[number] = asyncio.Event()
        try:
            note = _Note(id=number, sender=self._links.name, question=question)
            nodes = await commands.call("PUBLISH", ALL_NODES, _encode(note))
            async with asyncio.timeout(self._timeout):
                while len(answers) < nodes:
                    await news.wait()
                    news.clear()
        except TimeoutError:
            log.warning("not every node has answered", answers=len(answers))
        except (LinkError, RedisError) as error:
            log.warning("the other nodes could not be asked", why=str(error))
            if not answers:
                return [self._answer(question)]
        finally:
            del self._open[number], self._news[number]
        return answers

    def tell_to_look_again(self, chat_ids: list[str]) -> None:
        """Tell every node that these chats have a new epoch."""
        commands = self._links.commands
        if commands is not None:
            note = _Note(sender=self._links.name, look_again=chat_ids)
            commands.call("PUBLISH", ALL_NODES, _encode(note)).add_done_callback(_ignore)

    def hear(self, raw: bytes) -> None:
        """Take what another node (or this one) has told."""
        try:
            note = _decode(raw)
        except (msgspec.MsgspecError, RecursionError):
            log.warning("a note that no node has written was dropped", bytes=len(raw))
            return
        if note.look_again:
            if note.sender != self._links.name:
                self._look_again(note.look_again)
        elif note.sender:
            commands = self._links.commands
            if commands is not None:
                answer = _Note(id=note.id, answer=self._answer(note.question))
                commands.call("PUBLISH", NODE_PREFIX + note.sender, _encode(answer)).add_done_callback(
                    _ignore
                )
        elif note.id in self._open:
            self._open[note.id].append(note.answer)
            self._news[note.id].set()


def _ignore(done: asyncio.Future[Any]) -> None:
    """Take note of an outcome that nobody waits for."""
    if not done.cancelled():
        done.exception()
