"""The chat client of the command line: it sends messages, shows events, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from eclipse_ws.commands.tokens import Source
from eclipse_ws.config.problems import printable
from eclipse_ws.protocol import CloseCode, decode_json

FIRST_WAIT, MAX_WAIT = 0.5, 30.0  # s between attempts, doubled each time, with jitter
CONNECT_TIMEOUT = 10.0  # s
MAX_UNSETTLED = 100  # messages without an ack; further lines wait
MAX_FRAME = 1 << 22  # bytes of one event; a server's default is 2 MiB
STOPPED = frozenset(close.code for close in CloseCode if not close.comes_back)
NEW_TOKEN = frozenset(close.code for close in CloseCode if close.needs_token)


class Unsettled(NamedTuple):
    """A message that is not known to be saved."""

    chat_id: str | None
    """None: the chat of the token."""
    content: str


class Chat:
    """One participant: sends lines, shows events, and resends unsettled messages after a reconnect.

    ``further``: ids of chats that are joined besides the one that the token names.
    """

    def __init__(
        self, source: Source, role: str, show: Callable[[str], None], further: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._role = role
        self._show = show
        self._further = dict.fromkeys(further)
        self._home = ""  # the chat that the token names
        self.current: str | None = None
        """The chat to which lines are sent; None: the one that the token names."""
        self._here: dict[str, dict[str, str]] = {}  # who is in each chat: user -> role
        self._socket: Any = None  # tornado's WebSocketClientConnection while connected
        self._unsettled: OrderedDict[str, Unsettled] = (
            OrderedDict()
        )  # by clientMessageId, in order of sending
        self._settled = asyncio.Event()
        self._settled.set()
        self._cursors: dict[str, str] = {}  # of each chat
        self._reason = ""  # of the last close
        self.stopped = False
        self.joined = False
        """Whether a server has ever accepted us."""

    @property
    def unsettled(self) -> list[str]:
        """Messages that are not known to be saved, oldest first."""
        return [message.content for message in self._unsettled.values()]

    async def send(self, content: str) -> None:
        """Send a message, or keep it for the next connection; wait while too many are unsettled."""
        while len(self._unsettled) >= MAX_UNSETTLED:
            self._settled.clear()
            await self._settled.wait()
        key = secrets.token_hex(8)
        message = self._unsettled[key] = Unsettled(self.current, content)
        self._settled.clear()
        await self._send_message(key, message)

    async def typing(self, is_typing: bool) -> bool:
        """Send a typing event; False without a connection."""
        return await self._write({"type": "typing", "isTyping": is_typing, **_in(self.current)})

    async def switch(self, chat_id: str) -> None:
        """Send further lines to a chat, and join it if that hasn't happened yet."""
        self.current = None if chat_id == self._home else chat_id
        if self.current is not None and chat_id not in self._further:
            self._further[chat_id] = None
            await self._join([chat_id])
        self._show(f"* lines go to the chat {printable(chat_id)}")

    def tell_who_is_here(self) -> None:
        """Show who is in each chat."""
        if not self._here:
            self._show("* the server doesn't tell who is here")
        for chat_id, users in self._here.items():
            self._show(f"{self._mark(chat_id)}* here: {_listed(users)}")

    async def finish(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds to join and settle; True if all messages are settled then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._unsettled or not self.joined:
                    self._settled.clear()
                    await self._settled.wait()
        return self.joined and not self._unsettled

    async def run(self) -> None:
        """Connect, and reconnect, until the application disconnects us."""
        attempt = 0
        while True:
            try:
                code, joined = await self._connect()
            except (OSError, TimeoutError) as error:
                code, joined = None, False
                reason = str(error) or type(error).__name__
            else:
                reason = self._close_text(code)
            if code in STOPPED:
                self.stopped = True
                self._show(f"* {reason}")
                return
            attempt = 0 if joined else attempt + 1
            wait = min(MAX_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1)  # noqa: S311 # nosec B311
            self._show(f"* {printable(reason)}; trying again in {wait:.1f} s")
            await asyncio.sleep(wait)

    async def _connect(self) -> tuple[int | None, bool]:
        """One connection from start to end: the close code, and whether the server accepted us."""
        from tornado.httpclient import HTTPClientError
        from tornado.websocket import WebSocketError, websocket_connect

        url = await self._source.url() + "&events=presence"
        if cursor := self._cursors.get(self._home):
            url += f"&cursor={quote(cursor, safe='')}"
        connecting = asyncio.ensure_future(
            websocket_connect(url, max_message_size=MAX_FRAME, ping_interval=25)
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                # Shielded, because Tornado logs an error for a cancelled connection attempt.
                socket = await asyncio.shield(connecting)
        except (HTTPClientError, WebSocketError) as error:
            raise OSError(f"the server refused the connection ({error})") from error
        except BaseException:
            connecting.add_done_callback(_abandon)
            raise
        self._reason, joined = "", False
        try:
            while (frame := await socket.read_message()) is not None:
                event = _decoded(frame)
                if event.get("type") == "connected":
                    joined = self.joined = True
                    self._settled.set()
                    self._socket = socket
                    self._home = str(event.get("chatId") or "")
                    self._here.clear()
                    if self._home:
                        self._show(f"* connected to the chat {printable(self._home)}")
                    if self._further:
                        await self._join(list(self._further))
                    for key, message in list(self._unsettled.items()):
                        await self._send_message(key, message)
                self._handle(event)
        finally:
            self._socket = None
            socket.close(1000)
        self._reason = socket.close_reason or ""
        return socket.close_code, joined

    def _close_text(self, code: int | None) -> str:
        if code in STOPPED:
            return "disconnected by the application"
        if code in NEW_TOKEN:
            return f"{self._reason or 'token refused'} ({code})"
        return (
            f"connection lost ({code}{': ' + self._reason if self._reason else ''})"
            if code
            else "connection lost"
        )

    def _handle(self, event: dict[str, Any]) -> None:
        """Show one event, and settle the message that it confirms or rejects."""
        chat_id = str(event.get("chatId") or self._home)
        if isinstance(event.get("cursor"), str):
            self._cursors[chat_id] = event["cursor"]
        mark = self._mark(chat_id)
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        match event.get("type"):
            case "message" | "message_updated" as kind:
                content = str(data.get("content", ""))
                self._settle_content(content)
                changed = " (changed)" if kind == "message_updated" else ""
                self._show(f"{mark}{_name(data)}{changed}: {printable(content)}")
            case "typing" if data.get("isTyping"):
                self._show(f"{mark}* {printable(str(data.get('userId', 'somebody')))} is typing ...")
            case "agent_joined":
                self._show(f"{mark}* {printable(str(data.get('agentName', 'An agent')))} has joined")
            case "joined":
                self._show(f"* connected to the chat {printable(chat_id)}")
            case "left":
                self._further.pop(chat_id, None)
                reason = printable(str(event.get("reason") or "left"))
                self._show(f"* no longer in the chat {printable(chat_id)}: {reason}")
            case "presence":
                self._show_presence(chat_id, data)
            case "ack":
                self._settle(str(event.get("clientMessageId")))
            case "error":
                lost = self._unsettled.get(str(event.get("clientMessageId")), Unsettled(None, "")).content
                self._settle(str(event.get("clientMessageId")))
                # A lost response is not a rejection: the message may be saved.
                fate = "perhaps sent" if event.get("code") == "outcome_unknown" else "not sent"
                what = f" ({fate}: {printable(lost)})" if lost else ""
                self._show(f"{mark}! {printable(str(event.get('error', 'error')))}{what}")

    def _show_presence(self, chat_id: str, data: dict[str, Any]) -> None:
        """Show who has come or gone, and who is here at first."""
        mark, listed = self._mark(chat_id), data.get("users")
        if isinstance(listed, list):
            users = [user for user in listed if isinstance(user, dict)]
            here = {str(user.get("userId")): str(user.get("role")) for user in users}
            self._here[chat_id] = here
            self._show(f"{mark}* here: {_listed(here)}")
        elif "userId" in data:
            user, role = str(data["userId"]), str(data.get("role"))
            here = self._here.setdefault(chat_id, {})
            if data.get("online"):
                here[user] = role
            else:
                here.pop(user, None)
            self._show(f"{mark}* {_listed({user: role})} {'is here' if data.get('online') else 'has left'}")

    def _mark(self, chat_id: str) -> str:
        """What begins a line of a chat, if there are several."""
        return f"[{printable(chat_id)}] " if self._further and chat_id else ""

    async def _join(self, chat_ids: Sequence[str]) -> None:
        """Join further chats, each where it was left."""
        chats = [{"chatId": chat_id, "cursor": self._cursors.get(chat_id)} for chat_id in chat_ids]
        await self._write({"type": "join", "chats": chats})

    def _settle(self, key: str) -> None:
        self._unsettled.pop(key, None)
        self._settled.set()

    def _settle_content(self, content: str) -> None:
        # A server without acks still sends us our own message.
        for key, waiting in self._unsettled.items():
            if waiting.content == content:
                self._settle(key)
                return

    async def _send_message(self, key: str, message: Unsettled) -> None:
        command = {"type": "message", "content": message.content, "role": self._role, "clientMessageId": key}
        await self._write({**command, **_in(message.chat_id)})

    async def _write(self, command: dict[str, Any]) -> bool:
        from tornado.websocket import WebSocketClosedError

        if self._socket is None:
            return False
        try:
            await self._socket.write_message(json.dumps(command))
        except WebSocketClosedError:
            return False
        return True


def _abandon(connecting: asyncio.Future[Any]) -> None:
    """Close a connection that was abandoned while connecting."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


def _in(chat_id: str | None) -> dict[str, str]:
    """What a command says about its chat; nothing for the one that the token names, as for old servers."""
    return {} if chat_id is None else {"chatId": chat_id}


def _listed(users: dict[str, str]) -> str:
    return ", ".join(f"{printable(user)} ({printable(role)})" for user, role in users.items()) or "nobody"


def _decoded(frame: str | bytes) -> dict[str, Any]:
    try:
        event = decode_json(frame)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _name(data: dict[str, Any]) -> str:
    sender = data.get("sender")
    sender = sender if isinstance(sender, dict) else {}
    return printable(str(sender.get("name") or sender.get("email") or sender.get("id") or "somebody"))
