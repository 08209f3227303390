"""Key material from settings: secrets, public keys, and the certificate of TLS in this process."""

from __future__ import annotations

import contextlib
import json
import re
import ssl
from pathlib import Path
from typing import Any

MAX_SECRETS = 8
"""Previous secrets; each one more costs every wrong token one more try."""
MAX_KEY_FILE = 65536
MAX_AUTHORITIES = 1 << 22
"""Bytes of a file with certificates of authorities; a system's has about 200,000."""
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}


class KeyMaterialError(ValueError):
    """A key that can't be used; the text says what it is instead, never what is in it."""


def previous_secrets(text: str) -> list[str]:
    """The secrets of a list: in JSON, or one that commas or white space separate."""
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
    # One line, as environments like to have it.
    blocks = list(_PEM.finditer(text.replace("\\n", "\n")))
    if not blocks:
        raise KeyMaterialError("holds no PEM block (-----BEGIN PUBLIC KEY-----)")
    found: list[tuple[Any, tuple[str, ...]]] = []
    for block in blocks:
        if "PRIVATE" in block[1]:
            raise KeyMaterialError("holds a private key, which this server must not have")
        try:
            key = load_pem_public_key(block[0].encode())
        except (ValueError, UnsupportedAlgorithm):
            raise KeyMaterialError(f"holds a block {block[1]!r} that is no public key") from None
        if isinstance(key, rsa.RSAPublicKey):
            if key.key_size < 2048:
                raise KeyMaterialError(f"holds an RSA key of {key.key_size} bits, at least 2048 are expected")
            found.append((key, ("RS256", "RS384", "RS512")))
        elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            found.append((key, (_CURVES[key.curve.name],)))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            found.append((key, ("EdDSA",)))
        else:
            raise KeyMaterialError("holds a key that is neither RSA, nor of a NIST curve, nor Ed25519")
    return found


def authorities(source: str) -> tuple[str | None, str | None]:
    """The PEM file and the folder of the authorities that a certificate is held to.

    ``source`` is a setting's file, which is all that counts then. Without it they are what OpenSSL goes by:
    SSL_CERT_FILE and SSL_CERT_DIR, or else the system's own; each is None where it isn't there.
    """
    if source:
        return source, None
    found = ssl.get_default_verify_paths()
    return found.cafile, found.capath


def client_context(source: str) -> ssl.SSLContext:
    """A client's context that trusts the ``authorities``. Raises KeyMaterialError."""
    if not source:
        return ssl.create_default_context()
    _read(source, MAX_AUTHORITIES)
    try:
        return ssl.create_default_context(cafile=source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise KeyMaterialError(f"names a file that holds no certificate ({reason})") from None


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context for TLS 1.2 and later, from two PEM files. Raises KeyMaterialError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a handshake costs us far more than whoever asks for one
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Put a certificate and its key into a context; later handshakes show it. Raises KeyMaterialError."""
    for path in (certificate, key):
        _read(path)
    # Into another context first: a pair that does not fit must not leave the running one half changed.
    for target in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            target.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise KeyMaterialError(f"is no certificate with its key that TLS can use ({reason})") from None


def _no_password() -> str:
    # Without this OpenSSL would ask at the terminal.
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
