"""A chat server as one writes it with Tornado: `write_message` to each member of the chat, in a loop.

PORT, JWT_SECRET.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from datetime import UTC, datetime

import jwt
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

chats: dict[str, set[Chat]] = {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Chat(WebSocketHandler):
    """One session."""

    def open(self) -> None:
        """Verify the token and join."""
        try:
            claims = jwt.decode(self.get_argument("token"), os.environ["JWT_SECRET"], algorithms=["HS256"])
        except jwt.InvalidTokenError:
            self.close(4002, "Invalid token")
            return
        self.user_id, self.chat_id = claims["userId"], claims["chatId"]
        chats.setdefault(self.chat_id, set()).add(self)
        self.write_message({"type": "connected", "chatId": self.chat_id, "timestamp": _now()})

    def on_message(self, message: str | bytes) -> None:
        """Tell the others."""
        command = json.loads(message)
        if command["type"] != "typing":
            return
        data = {"userId": self.user_id, "isTyping": command["isTyping"]}
        event = json.dumps({"type": "typing", "data": data, "timestamp": _now()})
        for member in chats[self.chat_id]:
            if member is not self:
                with contextlib.suppress(WebSocketClosedError):
                    member.write_message(event)

    def on_close(self) -> None:
        """Leave."""
        members = chats.get(getattr(self, "chat_id", ""), set())
        members.discard(self)


async def main() -> None:
    """Serve until killed."""
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    application = Application([("/.*", Chat)])
    application.listen(int(os.environ["PORT"]), "127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
