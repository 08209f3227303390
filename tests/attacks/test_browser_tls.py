"""wss without a proxy, as a real Chromium sees it: it trusts the certificate's own key, and no other."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from tests import needs
from tests.attacks.test_tls import Authority
from tests.client import token
from tests.conftest import SECRET
from tests.servers import free_port

pytestmark = pytest.mark.browser
TALK = """async ([port, one, two]) => {
  const open = (token) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://localhost:${port}/ws?token=${token}`);
    socket.onerror = () => reject(new Error("refused"));
    socket.onmessage = () => { socket.onmessage = null; resolve(socket); };
  });
  const [a, b] = [await open(one), await open(two)];
  const heard = new Promise((resolve) => { b.onmessage = (event) => resolve(JSON.parse(event.data)); });
  a.send(JSON.stringify({ type: "message", content: "over TLS", role: "USER" }));
  const event = await heard;
  a.close(); b.close();
  return event.data.content;
}"""


def pin(certificate: Path) -> str:
    """The pin that Chromium trusts: the hash of the public key of the file's first certificate."""
    key = load_pem_x509_certificate(certificate.read_bytes()).public_key()
    raw = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(raw).digest()).decode()


def test_a_chat_in_chromium_over_tls_and_after_a_reload(tmp_path: Path) -> None:
    """Two sockets of a page talk over wss; after SIGHUP the new certificate is the one that is shown."""
    from playwright.sync_api import Error, sync_playwright

    program = needs.chromium()
    authority, port = Authority(tmp_path), free_port()
    first = pin(authority.certificate)
    server = subprocess.Popen(
        [sys.executable, "-m", "eclipse_ws", "run", "--profile", "test", "--port", str(port)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "ECLIPSE_TLS_CERT": str(authority.certificate),
            "ECLIPSE_TLS_KEY": str(authority.key),
            "ECLIPSE_LOG_FORMAT": "json",
            "JWT_SECRET": SECRET,
        },
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert server.stderr is not None

    def wait_for(what: str) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if what in (server.stderr.readline() if server.stderr else ""):
                return
        raise AssertionError(f"{what!r} was never logged")

    def visit(trusted: str) -> str:
        """What a browser hears that trusts only this key."""
        options = ["--no-sandbox", "--disable-gpu", f"--ignore-certificate-errors-spki-list={trusted}"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=program, args=options)
            try:
                page = browser.new_page()
                page.goto(f"https://localhost:{port}/health")
                answer = page.evaluate(TALK, [port, token(user="u1"), token(user="u2")])
                return str(answer)
            finally:
                browser.close()

    try:
        wait_for('"server started"')
        assert visit(first) == "over TLS"
        authority.issue()
        server.send_signal(signal.SIGHUP)
        wait_for('"settings reloaded"')
        assert visit(pin(authority.certificate)) == "over TLS"
        with pytest.raises(Error, match="ERR_CERT"):
            visit(first)
    finally:
        server.terminate()
        server.wait(10)
        server.stderr.close()
