"""`eclipse-ws chat`: the chat client in a terminal, or fed by a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence

from eclipse_ws.commands.chat_client import Chat
from eclipse_ws.commands.tokens import Source
from eclipse_ws.config.problems import printable

PROMPT = "> "
FINISH_TIMEOUT = 5.0  # s to wait for acks at the end of the input
TYPING_INTERVAL = 0.5  # s between checks of the input line


async def chat(source: Source, role: str, further: Sequence[str] = ()) -> int:
    """Run the client in this terminal until the input ends: 0, or 1 if it did not join or send all.

    ``further``: ids of chats that it joins besides the one that the token names.
    """
    typed = _line_editor()

    def show(line: str) -> None:
        if typed is None:
            print(line, flush=True)
        else:  # above the line that is being typed
            print(f"\r\x1b[K{line}\n{PROMPT}{typed()}", end="", flush=True)

    me = Chat(source, role, show, further)
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
    """Send each line, except for those that begin with a slash and are commands of this client."""
    async for line in lines(prompt):
        word, _, rest = line.strip().partition(" ")
        if word == "/chat" and rest:
            await me.switch(rest)
        elif word == "/who":
            me.tell_who_is_here()
        elif word:
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
