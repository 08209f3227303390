"""The scopes of idempotency keys, and the fingerprints of what was sent with them. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

_USER: Final = "user"
_VISITORS: Final = "visitors"
_APPLICATION: Final = "application"


def user_key(chat_id: str, user_id: str, key: str) -> str:
    """The name of a user's key in a chat: nobody else can use it."""
    return _digest(_USER, chat_id, user_id, key)


def visitors_key(chat_id: str, key: str) -> str:
    """The name of a key of a chat's visitors, who have another id with every token."""
    return _digest(_VISITORS, chat_id, key)


def application_key(chat_id: str, key: str) -> str:
    """The name of the application's own key for a chat."""
    return _digest(_APPLICATION, chat_id, key)


def fingerprint(*sent: str | bytes) -> str:
    """32 hexadecimal digits that identify what was sent with a key."""
    return _digest(*sent)


def _digest(*parts: str | bytes) -> str:
    """32 hexadecimal digits of the parts and their lengths, so that (ab, c) and (a, bc) differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(raw))
        digest.update(raw)
    return digest.hexdigest()
