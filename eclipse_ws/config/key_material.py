"""Key material from settings: secrets, public keys, and TLS certificates."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from pathlib import Path
from typing import Any

MAX_SECRETS = 8
"""Maximum number of previous secrets; each costs every invalid token one more verification."""
MAX_KEY_FILE = 65536
MAX_AUTHORITIES = 1 << 22
"""Maximum bytes of a file with CA certificates; a system's has about 200,000."""
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class KeyMaterialError(ValueError):
    """An unusable key; the text describes it, and never contains it."""


def previous_secrets(text: str) -> list[str]:
    """The secrets of a list: JSON, or separated by commas or white space."""
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, list) and all(isinstance(part, str) for part in found):
                return [part for part in found if part]
    return [part for part in re.split(r"[\s,]+", text) if part]


def public_keys(source: str) -> list[tuple[Any, tuple[str, ...]]]:
    """Public keys, each with the algorithms that it may verify; ``source`` is PEM text or a file's path.

    Several blocks are several keys, for a rotation. Raises KeyMaterialError.
    """
    if not source:
        return []
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    text = source if "-----BEGIN" in source else _read(source)
    # Environments often have it in one line.
    blocks = list(_PEM.finditer(text.replace("\\n", "\n")))
    if not blocks:
        raise KeyMaterialError("contains no PEM block (-----BEGIN PUBLIC KEY-----)")
    found: list[tuple[Any, tuple[str, ...]]] = []
    for block in blocks:
        if "PRIVATE" in block[1]:
            raise KeyMaterialError("contains a private key, which this server must not have")
        try:
            key = load_pem_public_key(block[0].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyMaterialError(f"contains a block {block[1]!r} that is not a public key") from None
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                raise KeyMaterialError(f"contains an RSA key of {key.key_size} bits, expected at least 2048")
            found.append((key, ("RS256", "RS384", "RS512")))
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            found.append((key, (_CURVES[key.curve.name],)))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            found.append((key, ("EdDSA",)))
        else:
            raise KeyMaterialError("contains a key that is not RSA, ECDSA on a NIST curve, or EdDSA")
    return found


def client_context(source: str) -> ssl.SSLContext:
    """A client's context. Raises KeyMaterialError.

    ``source`` is a setting's PEM file of authorities, which replaces all others. Without it they are
    OpenSSL's: SSL_CERT_FILE and SSL_CERT_DIR, or else the system's.
    """
    if not source:
        return ssl.create_default_context()
    _read(source, MAX_AUTHORITIES)
    try:
        return ssl.create_default_context(cafile=source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise KeyMaterialError(f"names a file without a certificate ({reason})") from None


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context for TLS 1.2 and later, from two PEM files. Raises KeyMaterialError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake costs us far more than the peer
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load a certificate and its key into a context, for later handshakes. Raises KeyMaterialError."""
    for path in (certificate, key):
        _read(path)
    # Into another context first: a mismatched pair must not leave the running one half changed.
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            target.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise KeyMaterialError(f"is not a certificate with a matching key for TLS ({reason})") from None


def _no_password() -> str:
    # Otherwise OpenSSL would prompt in the terminal.
    raise ValueError("the key is encrypted")


def _read(path: str, most: int = MAX_KEY_FILE) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such path"
        raise KeyMaterialError(f"names a file that can't be read ({reason})") from None
    if len(raw) > most:
        raise KeyMaterialError(f"names a file of more than {most} bytes")
    return raw.decode("utf-8", "replace")
