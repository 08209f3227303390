"""Token -> Claims: who a session belongs to. Pure; no I/O."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

import jwt
import msgspec
from jwt.utils import base64url_decode

from eclipse_ws import protocol
from eclipse_ws.keys import previous_secrets, public_keys
from eclipse_ws.protocol import CloseCode
from eclipse_ws.settings import Settings

MAX_NAME = 256
"""Longest user or chat id that is accepted, in characters."""
MAX_TOKEN: Final = 16384
"""Longest token that is looked at, in characters."""
SYMMETRIC: Final = ("HS256", "HS384", "HS512")
FOR_VISITORS: Final = frozenset({"typing", "ping", "read", "refresh"})
"""Commands, besides messages in the role USER, that a user without an account may give."""


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says. ``expires_at`` is None for a token without ``exp``.

    ``roles`` are those that its claim ``roles`` narrows the user to; None without such a claim.
    """

    user_id: str
    chat_id: str
    is_authenticated: bool = False
    expires_at: datetime | None = None
    roles: tuple[str, ...] | None = None

    def permits(self, command: protocol.Command) -> bool:
        """Whether the user may give the command; the client's word about itself is not asked."""
        if type(command) is protocol.SendMessage:
            role = command.role
        elif type(command) is protocol.AgentJoined:
            role = "AGENT"
        else:
            return self.is_authenticated or command.__struct_config__.tag in FOR_VISITORS
        if role != "USER" and not self.is_authenticated:
            return False
        return self.roles is None or role in self.roles


class TokenError(Exception):
    """A token that is refused; ``close`` says what the client is told, the text what the log is."""

    def __init__(self, close: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.close = close


class Verifier:
    """Verifies tokens with the settings' secrets and public keys, each for its own algorithms alone."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.jwt_secret.get_secret_value()
        earlier = previous_secrets(settings.jwt_previous_secrets.get_secret_value())
        secrets = [value for value in (secret, *earlier) if value]
        self._keys: list[tuple[Any, Sequence[str]]] = [
            *((value, SYMMETRIC) for value in secrets),
            *public_keys(settings.jwt_public_key),
        ]
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._leeway = settings.jwt_leeway
        require = ["exp"] if settings.production or settings.jwt_require_exp else []
        if self._issuer is not None:
            require.append("iss")
        if self._audience is not None:
            require.append("aud")
        self._jwt = jwt.PyJWT(
            {
                "require": require,
                "verify_iss": self._issuer is not None,
                "verify_aud": self._audience is not None,
                # What the application's own library doesn't look at is no reason to refuse its tokens.
                "verify_iat": False,
                "verify_sub": False,
                "verify_jti": False,
            }
        )

    def _decode(self, token: str) -> dict[str, Any]:
        """The payload, if any key has signed it and its time is right. Raises what PyJWT raises."""
        _check_parts(token)
        fault: Exception = jwt.InvalidAlgorithmError("no key is configured")
        with warnings.catch_warnings():
            # How long a secret is was judged when the settings were read; here it would be a line per token.
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            for key, algorithms in self._keys:
                try:
                    return self._jwt.decode(
                        token,
                        key,
                        algorithms=algorithms,
                        issuer=self._issuer,
                        audience=self._audience,
                        leeway=self._leeway,
                    )
                except jwt.InvalidAlgorithmError as error:
                    fault = error if not isinstance(fault, jwt.InvalidSignatureError) else fault
                except (jwt.InvalidSignatureError, jwt.InvalidKeyError) as error:
                    fault = error
        raise fault

    def verify(self, token: str) -> Claims:
        """Check a token's signature, times and claims. Raises TokenError."""
        if not token:
            raise TokenError(CloseCode.MISSING_TOKEN, "no token was sent")
        if len(token) > MAX_TOKEN:
            raise TokenError(CloseCode.INVALID_TOKEN, f"the token has more than {MAX_TOKEN} characters")
        try:
            payload = self._decode(token)
        except jwt.ExpiredSignatureError:
            raise TokenError(CloseCode.TOKEN_EXPIRED, "the token has expired") from None
        except jwt.InvalidTokenError as error:
            raise TokenError(
                CloseCode.INVALID_TOKEN, f"the token is invalid: {type(error).__name__}"
            ) from None
        except (protocol.TooDeepError, ValueError, TypeError, OverflowError) as error:
            # Not PyJWT's own: what hostile headers and payloads bring its parts to.
            raise TokenError(
                CloseCode.INVALID_TOKEN, f"the token is malformed: {type(error).__name__}"
            ) from None
        user_id, chat_id = payload.get("userId"), payload.get("chatId")
        if not is_name(user_id) or not is_name(chat_id):
            raise TokenError(
                CloseCode.INVALID_CLAIMS,
                f"userId and chatId must be strings of 1 to {MAX_NAME} characters without control characters",
            )
        return Claims(
            user_id,
            chat_id,
            payload.get("isAuthenticated") is True,
            _expiry(payload.get("exp")),
            _roles(payload.get("roles")),
        )


def _check_parts(token: str) -> None:
    """Bound what PyJWT parses, the header even before the signature. Raises TooDeepError or ValueError."""
    for part in token.rpartition(".")[0].split(".", 1):
        text = base64url_decode(part)
        if b"\0" in text:  # no JSON in UTF-8 has one: it would be read as UTF-16
            raise ValueError("not UTF-8")
        protocol.check_depth(text)


def is_name(value: object) -> TypeGuard[str]:
    """Whether a claim can name a user or a chat: in URLs, in Redis, in logs."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value.isspace():
        return False
    return not any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in value)


def _roles(value: object) -> tuple[str, ...] | None:
    """The roles that a claim narrows to: none if it can't be read, None where there is no such claim."""
    if value is None:
        return None
    named = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(role for role in protocol.ROLES if role in named)


def _expiry(exp: object) -> datetime | None:
    if not isinstance(exp, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(exp, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # so far ahead that no calendar has it
