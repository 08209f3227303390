"""This server and its peers: how each is started, and what its clients say."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    NotInstalledError,
    Process,
    command,
    nginx,
    redis,
)
from eclipse_ws.commands.tokens import mint
from tests.servers import free_port

PEERS = Path(__file__).parent / "peers"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eclipse-ws-bench"
"""Where the peers are that are built or installed outside of this tree."""
JWT_SECRET = secrets.token_urlsafe(48)
INTERNAL_SECRET = secrets.token_urlsafe(48)
TYPING = '{"type":"typing","isTyping":true}'
MESSAGE = '{"type":"message","content":"hello","role":"USER"}'

_tokens: dict[tuple[str, str], str] = {}


@dataclass
class Running:
    """A server that has started: its nodes, and what stands beside it."""

    nodes: list[Process]

    @property
    def ports(self) -> list[int]:
        """Where members connect, over the nodes in turn."""
        return [node.port for node in self.nodes]

    def pids(self) -> list[int]:
        """The server's processes, without what stands beside it."""
        return [pid for node in self.nodes for pid in node.pids()]

    def memory(self) -> int:
        """Bytes resident, over the nodes."""
        return sum(node.memory() for node in self.nodes)


def with_token(chat_id: str, user_id: str) -> str:
    """The request target of most: the token in the query."""
    return f"/?token={_token(chat_id, user_id)}"


def _token(chat_id: str, user_id: str) -> str:
    key = (chat_id, user_id)
    if key not in _tokens:
        _tokens[key] = mint(JWT_SECRET, chat_id, user_id, True)
    return quote(_tokens[key])


@dataclass(frozen=True)
class Server:
    """One line of the tables."""

    name: str
    start: Callable[[int], contextlib.AbstractContextManager[Running]]
    """Starts so many nodes."""
    target: Callable[[str, str], str] = with_token
    """The request target of a chat's member; after tabs its own greeting and payload, see `load.c`."""
    options: list[str] = field(default_factory=list)
    """What the load generator has to know of its protocol."""
    typing: str = TYPING


@contextlib.contextmanager
def processes(count: int, start: Callable[[int], Process]) -> Iterator[Running]:
    """So many nodes, each started on a port of its own."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(count):
            node = start(free_port())
            stack.callback(node.stop)
            nodes.append(node)
        yield Running(nodes)


@contextlib.contextmanager
def _ours(count: int, with_redis: bool = False, workers: int = 0, **more: str) -> Iterator[Running]:
    if workers and not has_option("--workers"):
        raise NotInstalledError("this `eclipse-ws run` has no option --workers")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(nginx(PEERS / "api.conf", LOAD_CORE))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # where there is no .env
        env = environment(api.port) | more
        if with_redis:
            env["REDIS_URL"] = stack.enter_context(redis())

        def start(port: int) -> Process:
            argv = [*command(), "run", "--profile", "bench", "--port", str(port)]
            if not workers:
                return Process(argv, port, SERVER_CORE, env, folder)
            return Process([*argv, "--workers", str(workers)], port, None, env, folder)

        yield stack.enter_context(processes(count, start))


def has_option(name: str) -> bool:
    """Whether `eclipse-ws run` has the option."""
    done = subprocess.run([*command(), "run", "--help"], capture_output=True, text=True, check=False)
    return name in done.stdout.split()


def environment(api_port: int) -> dict[str, str]:
    """What the profile `bench` wants of the environment."""
    return {
        "JWT_SECRET": JWT_SECRET,
        "INTERNAL_API_SECRET": INTERNAL_SECRET,
        "NEXT_API_URL": f"http://127.0.0.1:{api_port}",
        "REDIS_URL": "",
        "NODE_ENV": "",
        "LOG_LEVEL": "",
    }


def _node(
    script: str, with_api: bool = False, with_redis: bool = False
) -> Callable[[int], contextlib.AbstractContextManager[Running]]:
    @contextlib.contextmanager
    def running(count: int) -> Iterator[Running]:
        node = install_peers()
        with contextlib.ExitStack() as stack:
            env = {"JWT_SECRET": JWT_SECRET, "NODE_ENV": "production"}
            if with_api:
                api = stack.enter_context(nginx(PEERS / "api.conf", LOAD_CORE))
                env |= environment(api.port) | {"NODE_ENV": "production"}
            if with_redis:
                env["REDIS_URL"] = stack.enter_context(redis())

            def start(port: int) -> Process:
                return Process([node, str(PEERS / script)], port, SERVER_CORE, {**env, "PORT": str(port)})

            yield stack.enter_context(processes(count, start))

    return running


def install_peers() -> str:
    """The path of Node, its packages installed as they are locked."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalledError("Node is not installed (apt-get install nodejs npm)")
    installed, locked = PEERS / "node_modules" / ".package-lock.json", PEERS / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < locked.stat().st_mtime:
        print("Installing Node's peers (npm ci, once for each lock) ...", flush=True)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=PEERS, check=False
        )
        if done.returncode:
            raise NotInstalledError("npm ci failed in benchmarks/peers")
    return node


def _python(
    script: str, *needs: str, **more: str
) -> Callable[[int], contextlib.AbstractContextManager[Running]]:
    def start(port: int) -> Process:
        for module in needs:
            if importlib.util.find_spec(module) is None:
                raise NotInstalledError(f"{module} is not installed (pip install -r requirements/bench.txt)")
        env = {"JWT_SECRET": JWT_SECRET, "PORT": str(port), **more}
        return Process([sys.executable, str(PEERS / script)], port, SERVER_CORE, env)

    return lambda count: processes(count, start)


@contextlib.contextmanager
def _nchan(count: int) -> Iterator[Running]:
    with nginx(PEERS / "nchan.conf", SERVER_CORE, ("ngx_nchan_module.so",)) as node:
        yield Running([node])


OURS = Server("eclipse-ws (memory)", _ours)
OURS_REDIS = Server("eclipse-ws (Redis)", lambda count: _ours(count, with_redis=True))
OURS_UVLOOP = Server(
    "eclipse-ws (memory), on uvloop", lambda count: _ours(count, ECLIPSE_EVENT_LOOP="uvloop")
)
OURS_WORKERS = Server(
    "eclipse-ws (Redis), two workers", lambda count: _ours(count, with_redis=True, workers=2)
)
NCHAN = Server("nchan", _nchan, lambda chat_id, user_id: f"/c/{chat_id}", ["--ready", ""])
TORNADO = Server("Tornado write_message", _python("tornado_plain.py"))
PICOWS = Server("picows", _python("picows_plain.py", "picows"))
PICOWS_UVLOOP = Server(
    "picows, on uvloop", _python("picows_plain.py", "picows", "uvloop", EVENT_LOOP="uvloop")
)
NODE = Server("Node ws", _node("ws.mjs"))
NODE_FETCH = Server("Node ws + fetch", _node("ws.mjs", with_api=True))
NODE_REDIS = Server("Node ws + ioredis + fetch", _node("ws.mjs", with_api=True, with_redis=True))
SOCKETIO = Server(
    "Socket.IO + Redis adapter",
    _node("socketio.mjs", with_redis=True),
    lambda chat_id, user_id: f"/socket.io/?EIO=4&transport=websocket&token={_token(chat_id, user_id)}",
    ["--greeting", "40", "--engine-io", "--ready", '"connected"'],
    '42["typing",true]',
)
