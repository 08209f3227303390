"""A chat server as one writes it with picows: its core API, the payload made once, `send` to each member.

PORT, JWT_SECRET; with EVENT_LOOP=uvloop on that loop.
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import jwt
from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

SECRET = os.environ["JWT_SECRET"]
chats: dict[str, set[WSTransport]] = {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Chat(WSListener):
    """One session."""

    def __init__(self, claims: dict[str, str] | None) -> None:
        super().__init__()
        self.claims = claims

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Join, or refuse."""
        if self.claims is None:
            transport.send_close(WSCloseCode.POLICY_VIOLATION, b"Invalid token")
            transport.disconnect()
            return
        self.user_id, self.chat_id = self.claims["userId"], self.claims["chatId"]
        chats.setdefault(self.chat_id, set()).add(transport)
        greeting = {"type": "connected", "chatId": self.chat_id, "timestamp": _now()}
        transport.send(WSMsgType.TEXT, json.dumps(greeting).encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Tell the others."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()
            return
        command = json.loads(frame.get_payload_as_utf8_text())
        if command["type"] != "typing":
            return
        data = {"userId": self.user_id, "isTyping": command["isTyping"]}
        event = json.dumps({"type": "typing", "data": data, "timestamp": _now()}).encode()
        for member in chats[self.chat_id]:
            if member is not transport:
                member.send(WSMsgType.TEXT, event)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Leave."""
        if self.claims is not None:
            chats[self.chat_id].discard(transport)


def session(request: WSUpgradeRequest) -> Chat:
    """Verify the token of an upgrade."""
    token = parse_qs(urlsplit(request.path.decode()).query).get("token", [""])[0]
    try:
        return Chat(jwt.decode(token, SECRET, algorithms=["HS256"]))
    except jwt.InvalidTokenError:
        return Chat(None)


async def main() -> None:
    """Serve until killed."""
    server = await ws_create_server(session, "127.0.0.1", int(os.environ["PORT"]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    if os.environ.get("EVENT_LOOP") == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
