"""Centrifugo as a peer: built from the Go module proxy, configured as its documentation recommends.

A chat is a channel of the namespace `chat`. The token's `channels` claim subscribes to it on the server, so
that a session needs one round trip; its members may publish. With `history` a channel keeps what is
published, and clients recover from it. Everything else has its default, batching included.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt

from benchmarks.processes import SERVER_CORE, NotInstalledError, Process, redis
from benchmarks.servers import CACHE, INTERNAL_SECRET, JWT_SECRET, PEERS, Running, Server, processes

MODULE = "github.com/centrifugal/centrifugo/v6"
PROGRAM = CACHE / "centrifugo"
PREPARE = "run `make bench-peers`"
PATH = "/connection/websocket"
HISTORY_SIZE, HISTORY_TTL = 100, "300s"
"""What a chat of ours keeps by default."""


def build() -> str:
    """Build it as it is locked in `peers/centrifugo`; what was done, in a line. Raises NotInstalledError."""
    go = shutil.which("go")
    if go is None:
        raise NotInstalledError("Go is not installed (apt-get install golang-go, 1.26 or newer)")
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [go, "build", "-o", str(PROGRAM), MODULE]
    done = subprocess.run(command, cwd=PEERS / "centrifugo", capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotInstalledError(f"go build failed: {done.stderr.strip()[-300:]}")
    return f"Centrifugo {version()}: {PROGRAM}"


def version() -> str:
    """The locked version."""
    lines = (PEERS / "centrifugo" / "go.mod").read_text(encoding="utf-8").split("\n")
    return next(line.split()[1].removeprefix("v") for line in lines if line.strip().startswith(f"{MODULE} "))


def settings(port: int, redis_url: str = "", history: bool = False) -> dict[str, Any]:
    """Its configuration."""
    namespace: dict[str, Any] = {"name": "chat", "allow_publish_for_subscriber": True}
    if history:
        namespace |= {"history_size": HISTORY_SIZE, "history_ttl": HISTORY_TTL, "force_recovery": True}
    engine: dict[str, Any] = {"type": "memory"}
    if redis_url:
        engine = {"type": "redis", "redis": {"address": redis_url}}
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "client": {"token": {"hmac_secret_key": JWT_SECRET}},
        "http_api": {"key": INTERNAL_SECRET},
        "channel": {"namespaces": [namespace]},
        "engine": engine,
        "log": {"level": "error"},
    }


@functools.cache
def token(chat_id: str, user_id: str) -> str:
    """A connection token (HS256) that subscribes to the chat."""
    now = int(time.time())
    claims = {"sub": user_id, "channels": [f"chat:{chat_id}"], "iat": now, "exp": now + 7200}
    return jwt.encode(claims, JWT_SECRET, algorithm="HS256")


def start(port: int, folder: Path, redis_url: str = "", history: bool = False) -> Process:
    """One node."""
    if not PROGRAM.exists():
        raise NotInstalledError(f"Centrifugo is not built: {PREPARE}")
    written = folder / f"centrifugo-{port}.json"
    written.write_text(json.dumps(settings(port, redis_url, history)), encoding="utf-8")
    return Process([str(PROGRAM), "--config", str(written)], port, SERVER_CORE, {}, folder)


@contextlib.contextmanager
def running(count: int, with_redis: bool = False) -> Iterator[Running]:
    """So many nodes."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(redis()) if with_redis else ""
        yield stack.enter_context(processes(count, lambda port: start(port, folder, url)))


def target(chat_id: str, user_id: str) -> str:
    """A member's request target, its first command, and what it sends."""
    connect = {"id": 1, "connect": {"token": token(chat_id, user_id)}}
    publish = {
        "id": 2,
        "publish": {"channel": f"chat:{chat_id}", "data": {"type": "typing", "isTyping": True}},
    }
    return "\t".join([PATH, *(json.dumps(each, separators=(",", ":")) for each in (connect, publish))])


OPTIONS = ["--centrifugo", "--ready", '"connect":']
CENTRIFUGO = Server("Centrifugo (memory)", running, target, OPTIONS)
CENTRIFUGO_REDIS = Server("Centrifugo (Redis)", lambda count: running(count, True), target, OPTIONS)
