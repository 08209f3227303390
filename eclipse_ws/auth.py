"""Token -> Claims: who a session belongs to. Pure; no I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeGuard

import jwt
import msgspec

from eclipse_ws.protocol import CloseCode
from eclipse_ws.settings import Settings

MAX_NAME = 256
"""Longest user or chat id that is accepted, in characters."""


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says. ``expires_at`` is None for a token without ``exp``."""

    user_id: str
    chat_id: str
    is_authenticated: bool = False
    expires_at: datetime | None = None


class TokenError(Exception):
    """A token that is refused; ``close`` says what the client is told, the text what the log is."""

    def __init__(self, close: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.close = close


class Verifier:
    """Verifies tokens with the settings' secret."""

    def __init__(self, settings: Settings) -> None:
        self._key = settings.jwt_secret.get_secret_value()

    def verify(self, token: str) -> Claims:
        """Check a token's signature, times and claims. Raises TokenError."""
        if not token:
            raise TokenError(CloseCode.MISSING_TOKEN, "no token was sent")
        try:
            payload = jwt.decode(token, self._key, algorithms=["HS256"])
        except jwt.ExpiredSignatureError:
            raise TokenError(CloseCode.TOKEN_EXPIRED, "the token has expired") from None
        except jwt.InvalidTokenError as error:
            raise TokenError(
                CloseCode.INVALID_TOKEN, f"the token is invalid: {type(error).__name__}"
            ) from None
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            # Not PyJWT's own: what hostile headers and payloads bring its parts to.
            raise TokenError(
                CloseCode.INVALID_TOKEN, f"the token is malformed: {type(error).__name__}"
            ) from None
        user_id, chat_id = payload.get("userId"), payload.get("chatId")
        if not _is_name(user_id) or not _is_name(chat_id):
            raise TokenError(
                CloseCode.INVALID_CLAIMS,
                f"userId and chatId must be strings of 1 to {MAX_NAME} characters without control characters",
            )
        return Claims(user_id, chat_id, payload.get("isAuthenticated") is True, _expiry(payload.get("exp")))


def _is_name(value: object) -> TypeGuard[str]:
    """Whether a claim can name a user or a chat: in URLs, in Redis, in logs."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value.isspace():
        return False
    return not any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in value)


def _expiry(exp: object) -> datetime | None:
    if not isinstance(exp, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(exp, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # so far ahead that no calendar has it
