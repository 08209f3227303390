"""The terminal's chat client: lines in, events out, and connected again by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

from eclipse_ws.commands.tokens import Source
from eclipse_ws.config.problems import printable
from eclipse_ws.protocol import CloseCode, decode_json

PROMPT = "> "
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # s between attempts, doubled each time, with jitter
CONNECT_TIMEOUT = 10.0  # s
LAST_WORDS = 5.0  # s to wait at the end of the input for what is not acknowledged yet
TYPING_EVERY = 0.5  # s between looks at the line being typed
MAX_UNSETTLED = 100  # messages that wait for their ack; a further line waits for room
MAX_FRAME = 1 << 22  # bytes of one event; a server lets 2 MiB pass unless it is set otherwise
STOPPED = frozenset(close.code for close in CloseCode if not close.comes_back)
NEW_TOKEN = frozenset(close.code for close in CloseCode if close.needs_token)


class Chat:
    """One participant: sends lines, shows events, and keeps what is not settled over a reconnect."""

    def __init__(self, source: Source, role: str, show: Callable[[str], None]) -> None:
        self._source = source
        self._role = role
        self._show = show
        self._socket: Any = None  # tornado's WebSocketClientConnection while there is one
        self._unsettled: OrderedDict[str, str] = (
            OrderedDict()
        )  # clientMessageId -> content, in order of sending
        self._settled = asyncio.Event()
        self._settled.set()
        self._cursor = ""
        self._reason = ""  # of the last close
        self.stopped = False
        self.was_in = False
        """Whether a server has let us into the chat, ever."""

    @property
    def unsettled(self) -> list[str]:
        """What was said and is not known to be saved, oldest first."""
        return list(self._unsettled.values())

    async def say(self, content: str) -> None:
        """Sends one message, or keeps it for the next connection; waits while too many are not settled."""
        while len(self._unsettled) >= MAX_UNSETTLED:
            self._settled.clear()
            await self._settled.wait()
        key = secrets.token_hex(8)
        self._unsettled[key] = content
        self._settled.clear()
        await self._send_message(key, content)

    async def typing(self, is_typing: bool) -> bool:
        """Tells the others that a line is being typed, or no more; False if there was no connection."""
        return await self._write({"type": "typing", "isTyping": is_typing})

    async def finish(self, patience: float = LAST_WORDS) -> bool:
        """Waits at most `patience` seconds to get in and for what is not settled; True if then all is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._unsettled or not self.was_in:
                    self._settled.clear()
                    await self._settled.wait()
        return self.was_in and not self._unsettled

    async def stay(self) -> None:
        """Connects, and connects again, until the application says no."""
        attempt = 0
        while True:
            try:
                code, was_in = await self._attend()
            except (OSError, TimeoutError) as error:
                code, was_in = None, False
                trouble = str(error) or type(error).__name__
            else:
                trouble = self._trouble(code)
            if code in STOPPED:
                self.stopped = True
                self._show(f"* {trouble}")
                return
            attempt = 0 if was_in else attempt + 1
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1)  # noqa: S311 # nosec B311
            self._show(f"* {printable(trouble)}; trying again in {wait:.1f} s")
            await asyncio.sleep(wait)

    async def _attend(self) -> tuple[int | None, bool]:
        """One connection, from its opening to its end: the close code, and whether the server let us in."""
        from tornado.httpclient import HTTPClientError
        from tornado.websocket import WebSocketError, websocket_connect

        url = await self._source.url()
        if self._cursor:
            url += f"&cursor={quote(self._cursor, safe='')}"
        connecting = asyncio.ensure_future(
            websocket_connect(url, max_message_size=MAX_FRAME, ping_interval=25)
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                # Shielded, because Tornado complains of a connection that ends after nobody waits for it.
                socket = await asyncio.shield(connecting)
        except (HTTPClientError, WebSocketError) as error:
            raise OSError(f"the server refused ({error})") from error
        except BaseException:
            connecting.add_done_callback(_abandon)
            raise
        self._reason, was_in = "", False
        try:
            while (frame := await socket.read_message()) is not None:
                event = _decoded(frame)
                if event.get("type") == "connected":
                    was_in = self.was_in = True
                    self._settled.set()
                    self._socket = socket
                    self._show(f"* connected to the chat {printable(str(event.get('chatId')))}")
                    for key, content in list(self._unsettled.items()):
                        await self._send_message(key, content)
                self._handle(event)
        finally:
            self._socket = None
            socket.close(1000)
        self._reason = socket.close_reason or ""
        return socket.close_code, was_in

    def _trouble(self, code: int | None) -> str:
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
        """Shows one event, and settles what it settles."""
        if isinstance(event.get("cursor"), str):
            self._cursor = event["cursor"]
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        match event.get("type"):
            case "message" | "message_updated" as kind:
                content = str(data.get("content", ""))
                self._settle_content(content)
                mark = " (changed)" if kind == "message_updated" else ""
                self._show(f"{_name(data)}{mark}: {printable(content)}")
            case "typing" if data.get("isTyping"):
                self._show(f"* {printable(str(data.get('userId', 'somebody')))} is typing ...")
            case "agent_joined":
                self._show(f"* {printable(str(data.get('agentName', 'An agent')))} has joined")
            case "ack":
                self._settle(str(event.get("clientMessageId")))
            case "error":
                lost = self._unsettled.get(str(event.get("clientMessageId")))
                self._settle(str(event.get("clientMessageId")))
                # An answer that was lost is no refusal: the message may be there.
                fate = "perhaps sent" if event.get("code") == "outcome_unknown" else "not sent"
                what = f" ({fate}: {printable(lost)})" if lost is not None else ""
                self._show(f"! {printable(str(event.get('error', 'error')))}{what}")

    def _settle(self, key: str) -> None:
        self._unsettled.pop(key, None)
        self._settled.set()

    def _settle_content(self, content: str) -> None:
        # A server that knows no acks still shows us our own message.
        for key, waiting in self._unsettled.items():
            if waiting == content:
                self._settle(key)
                return

    async def _send_message(self, key: str, content: str) -> None:
        command = {"type": "message", "content": content, "role": self._role, "clientMessageId": key}
        await self._write(command)

    async def _write(self, command: dict[str, Any]) -> bool:
        from tornado.websocket import WebSocketClosedError

        if self._socket is None:
            return False
        try:
            await self._socket.write_message(json.dumps(command))
        except WebSocketClosedError:
            return False
        return True


async def chat(source: Source, role: str) -> int:
    """The client on this terminal, until its input ends: exit code 0, or 1 if it didn't get in or say all."""
    typed = _line_editor()

    def show(line: str) -> None:
        if typed is None:
            print(line, flush=True)
        else:  # above the line that is being typed
            print(f"\r\x1b[K{line}\n{PROMPT}{typed()}", end="", flush=True)

    me = Chat(source, role, show)
    staying = asyncio.create_task(me.stay())
    watching = asyncio.create_task(_watch_typing(me, typed)) if typed is not None else None
    reading = asyncio.create_task(_say_lines(me, PROMPT if typed is not None else ""))
    try:
        await asyncio.wait([staying, reading], return_when=asyncio.FIRST_COMPLETED)
        if staying.done():
            staying.result()  # it ends by itself only when it was told to stop, or by a problem of ours
        done = await me.finish(0 if me.stopped else LAST_WORDS)
        for content in me.unsettled:
            show(f"! {'perhaps ' if me.was_in else ''}not sent: {printable(content)}")
        return 0 if done and not me.stopped else 1
    finally:
        for task in (staying, reading, watching):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            *(t for t in (staying, reading, watching) if t is not None), return_exceptions=True
        )


async def _say_lines(me: Chat, prompt: str) -> None:
    async for line in lines(prompt):
        if line.strip():
            await me.say(line)


async def lines(prompt: str) -> AsyncIterator[str]:
    """The lines of stdin until its end; from a thread, since neither a terminal nor a file can be awaited."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue(1)

    def read() -> None:
        line: str | None = ""
        while line is not None:
            try:
                # What is no UTF-8 could not be sent as JSON.
                line = input(prompt).encode(errors="surrogateescape").decode(errors="replace")
            except (EOFError, ValueError, KeyboardInterrupt, RuntimeError):  # RuntimeError: there is no stdin
                line = None
            with contextlib.suppress(RuntimeError):  # the loop has ended before the input
                asyncio.run_coroutine_threadsafe(queue.put(line), loop).result()

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while (line := await queue.get()) is not None:
        yield line


async def _watch_typing(me: Chat, typed: Callable[[], str]) -> None:
    before = False
    while True:
        await asyncio.sleep(TYPING_EVERY)
        now = bool(typed().strip())
        if now != before and await me.typing(now):
            before = now


def _line_editor() -> Callable[[], str] | None:
    """What tells the line being typed so far; None where nobody types."""
    if not (sys.stdin and sys.stdout and sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline.get_line_buffer


def _abandon(connecting: asyncio.Future[Any]) -> None:
    """What to do with a connection for which nobody waits any more."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


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
