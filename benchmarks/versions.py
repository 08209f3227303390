"""What ran."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import shutil
import subprocess

import tornado

import eclipse_ws
from benchmarks import centrifugo, uws
from benchmarks.servers import PEERS


def versions() -> dict[str, str]:
    """What ran."""
    found = {
        "eclipse-ws": eclipse_ws.__version__,
        "Python": platform.python_version(),
        "Tornado": tornado.version,
        "Linux": platform.release(),
    }
    lines = {
        "Node": (["node", "--version"], "v"),
        "nginx": (["nginx", "-v"], "nginx/"),
        "nchan": (["dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan"], ""),
        "Redis": (["redis-server", "--version"], "v="),
    }
    for name, (argv, before) in lines.items():
        if shutil.which(argv[0]):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            said = (done.stdout + done.stderr).strip()
            found[name] = (said.partition(before)[2] if before else said).split()[0] if said else "?"
    for module in ("picows", "uvloop"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[module] = importlib.metadata.version(module)
    for package in (
        "ws",
        "jsonwebtoken",
        "ioredis",
        "socket.io",
        "@socket.io/redis-adapter",
        "@socket.io/redis-streams-adapter",
    ):
        path = PEERS / "node_modules" / package / "package.json"
        if path.exists():
            found[package] = json.loads(path.read_text(encoding="utf-8"))["version"]
    if centrifugo.PROGRAM.exists():
        found["Centrifugo"] = centrifugo.version()
    path = uws.folder() / "node_modules" / "@btc-vision" / "uwebsockets.js" / "package.json"
    if path.exists():
        found["uWebSockets.js"] = json.loads(path.read_text(encoding="utf-8"))["version"]
    return found
