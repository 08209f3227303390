"""The terminal's chat client: it sends lines, shows events, and reconnects."""

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
FIRST_WAIT, MAX_WAIT = 0.5, 30.0  # s between attempts, doubled each time, with jitter
CONNECT_TIMEOUT = 10.0  # s
FINISH_TIMEOUT = 5.0  # s to wait for acks at the end of the input
TYPING_INTERVAL = 0.5  # s between checks of the input line
MAX_UNSETTLED = 100  # messages without an ack; further lines wait
MAX_FRAME = 1 << 22  # bytes of one event; a server's default is 2 MiB
STOPPED = frozenset(close.code for close in CloseCode if not close.comes_back)
NEW_TOKEN = frozenset(close.code for close in CloseCode if close.needs_token)


class Chat:
    """One participant: sends lines, shows events, and resends unsettled messages after a reconnect."""

    def __init__(self, source: Source, role: str, show: Callable[[str], None]) -> None:
        self._source = source
        self._role = role
        self._show = show
        self._socket: Any = None  # tornado's WebSocketClientConnection while connected
        self._unsettled: OrderedDict[str, str] = (
            OrderedDict()
        )  # clientMessageId -> content, in order of sending
        self._settled = asyncio.Event()
        self._settled.set()
        self._cursor = ""
        self._reason = ""  # of the last close
        self.stopped = False
        self.joined = False
        """Whether a server has ever accepted us."""

    @property
    def unsettled(self) -> list[str]:
        """Messages that are not known to be saved, oldest first."""
        return list(self._unsettled.values())

    async def send(self, content: str) -> None:
        """Send a message, or keep it for the next connection; wait while too many are unsettled."""
        while len(self._unsettled) >= MAX_UNSETTLED:
            self._settled.clear()
            await self._settled.wait()
        key = secrets.token_hex(8)
        self._unsettled[key] = content
        self._settled.clear()
        await self._send_message(key, content)

    async def typing(self, is_typing: bool) -> bool:
        """Send a typing event; False without a connection."""
        return await self._write({"type": "typing", "isTyping": is_typing})

    async def finish(self, timeout: float = FINISH_TIMEOUT) -> bool:
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

        url = await self._source.url()
        if self._cursor:
            url += f"&cursor={quote(self._cursor, safe='')}"
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
                    self._show(f"* connected to the chat {printable(str(event.get('chatId')))}")
                    for key, content in list(self._unsettled.items()):
                        await self._send_message(key, content)
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
                # A lost response is not a rejection: the message may be saved.
                fate = "perhaps sent" if event.get("code") == "outcome_unknown" else "not sent"
                what = f" ({fate}: {printable(lost)})" if lost is not None else ""
                self._show(f"! {printable(str(event.get('error', 'error')))}{what}")

    def _settle(self, key: str) -> None:
        self._unsettled.pop(key, None)
        self._settled.set()

    def _settle_content(self, content: str) -> None:
        # A server without acks still sends us our own message.
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
    """Run the client in this terminal until the input ends: 0, or 1 if it did not join or send all."""
    typed = _line_editor()

    def show(line: str) -> None:
        if typed is None:
            print(line, flush=True)
        else:  # above the line that is being typed
            print(f"\r\x1b[K{line}\n{PROMPT}{typed()}", end="", flush=True)

    me = Chat(source, role, show)
    running = asyncio.create_task(me.run())
    watching = asyncio.create_task(_watch_typing(me, typed)) if typed is not None else None
    reading = asyncio.create_task(_send_lines(me, PROMPT if typed is not None else ""))
    try:
        await asyncio.wait([running, reading], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # it ends only when the application disconnects us, or by a bug
        done = await me.finish(0 if me.stopped else FINISH_TIMEOUT)
        for content in me.unsettled:
            show(f"! {'perhaps ' if me.joined else ''}not sent: {printable(content)}")
        return 0 if done and not me.stopped else 1
    finally:
        for task in (running, reading, watching):
            if task is not None:
                task.cancel()
        await asyncio.gather(
            *(t for t in (running, reading, watching) if t is not None), return_exceptions=True
        )


async def _send_lines(me: Chat, prompt: str) -> None:
    async for line in lines(prompt):
        if line.strip():
            await me.send(line)


async def lines(prompt: str) -> AsyncIterator[str]:
    """The lines of stdin; read in a thread, because neither a terminal nor a file can be awaited."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue(1)

    def read() -> None:
        line: str | None = ""
        while line is not None:
            try:
                # Invalid UTF-8 could not be sent as JSON.
                line = input(prompt).encode(errors="surrogateescape").decode(errors="replace")
            except (EOFError, ValueError, KeyboardInterrupt, RuntimeError):  # RuntimeError: no stdin
                line = None
            with contextlib.suppress(RuntimeError):  # the loop has ended before the input
                asyncio.run_coroutine_threadsafe(queue.put(line), loop).result()

    threading.Thread(target=read, name="stdin", daemon=True).start()
    while (line := await queue.get()) is not None:
        yield line


async def _watch_typing(me: Chat, typed: Callable[[], str]) -> None:
    before = False
    while True:
        await asyncio.sleep(TYPING_INTERVAL)
        now = bool(typed().strip())
        if now != before and await me.typing(now):
            before = now


def _line_editor() -> Callable[[], str] | None:
    """A function that returns the current input line; None without a terminal."""
    if not (sys.stdin and sys.stdout and sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    try:
        import readline
    except ImportError:
        return None
    return readline.get_line_buffer


def _abandon(connecting: asyncio.Future[Any]) -> None:
    """Close a connection that was abandoned while connecting."""
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
