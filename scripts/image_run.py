"""Starts a built image's root file system as a platform does, and runs `eclipse-ws smoke` against it.

It has a read-only root, its own process namespace, the image's user, command and variables, and those of the
deployment plan; beside it run a Redis and a stand-in for the application. Called by ``scripts/image-test``.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts import image_labels
from tests.application.stub import SECRET, Stub
from tests.servers import RedisServer, default_server, free_port

MOST_MEGABYTES = 150
DRAIN_SECONDS = 3
LIVE = ["eclipse-ws", "health", "--live"]
LAUNCH = """
set -e
mount --bind "$ROOT" "$ROOT" && mount -o remount,bind,ro "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
exec chroot --userspec="$WHO" "$ROOT" "$@"
"""


def pip_volumes() -> list[str]:
    """Arguments for `buildah build`: this machine's pip configuration, and the folders that it names."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True)
    values = {}
    for line in shown.stdout.splitlines():
        name, _, quoted = line.partition("=")
        values[name.rpartition(".")[2]] = quoted.strip("'\"").replace("\\n", "\n").split()
    folder = Path(tempfile.mkdtemp(prefix="eclipse-pip-"))
    text = "\n".join(["[global]", *(f"{name} = {' '.join(words)}" for name, words in values.items()), ""])
    mounts = {f"{folder}/pip.conf:/etc/pip.conf:ro"}
    for word in (word for words in values.values() for word in words):
        path = Path(urlsplit(word).path if word.startswith("file:") else word)
        if path.is_absolute() and path.is_file():
            # Not at the same path, where the image may have such a file, too.
            mounts.add(f"{path}:/mnt/{path.name}:ro")
            text = text.replace(str(path), f"/mnt/{path.name}")
        elif path.is_absolute() and path.is_dir():
            # An index refers to the files beside it.
            above = path.parent if path.name == "simple" else path
            mounts.add(f"{above}:{above}:ro")
    (folder / "pip.conf").write_text(text)
    return [part for mount in sorted(mounts) for part in ("--volume", mount)]


def sizes(root: Path) -> tuple[float, float]:
    """Megabytes of the files, and of all of them in one compressed layer."""
    files = {path.lstat().st_ino: path.lstat().st_size for path in root.rglob("*") if not path.is_dir()}
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6) as layer,
        tarfile.open(fileobj=layer, mode="w|") as tar,
    ):
        tar.add(root, arcname="/")
    return sum(files.values()) / 1e6, packed.tell() / 1e6


def findings(root: Path, config: dict[str, Any]) -> list[str]:
    """What is wrong with the image, a sentence each."""
    found = []
    if not str(config.get("User", "")).startswith("10001"):
        found.append(f"its user is {config.get('User')!r}, not 10001")
    if config.get("Cmd", [""])[0] != "eclipse-ws":
        found.append(f"its command is {config.get('Cmd')}, not in exec form")
    if config.get("Healthcheck", {}).get("Test") != ["CMD", *LIVE]:
        found.append(f"its HEALTHCHECK is {config.get('Healthcheck')}, not {LIVE}")
    labels = config.get("Labels") or {}
    found += [
        f"its label {name} is {labels.get(name)!r}, not {value!r}"
        for name, value in image_labels.labels().items()
        if labels.get(name) != value
    ]
    datetime.fromisoformat(labels[f"{image_labels.LABEL}created"])
    for tool in ("gcc", "cc", "make", "pip", "pip3"):
        for folder in ("usr/bin", "usr/local/bin", "opt/eclipse/bin"):
            if (root / folder / tool).exists():
                found.append(f"it has {folder}/{tool}")
    for cache in ("root/.cache", "var/cache/apt", "var/lib/apt/lists"):
        if (root / cache).is_dir() and any((root / cache).iterdir()):
            found.append(f"it has a cache in /{cache}")
    for module in ("json/__init__", "site-packages/tornado/web", "site-packages/eclipse_ws/hub"):
        if not is_compiled(root, module):
            found.append(f"its {module}.py is not compiled by hash: each start would compile it")
    if not (root / "etc/ssl/certs/ca-certificates.crt").stat().st_size:
        found.append("it has no certificate authorities")
    if list((root / "srv").rglob(".env*")):
        found.append("it has a .env")
    return found


def is_compiled(root: Path, module: str) -> bool:
    """Whether a module is compiled so that Python never checks its source (PEP 552)."""
    folder, _, name = module.rpartition("/")
    found = [
        compiled.read_bytes()[4:8]
        for libraries in ("opt/eclipse/lib", "usr/lib", "usr/local/lib")
        for compiled in (root / libraries).glob(f"python3*/{folder}/__pycache__/{name}.cpython-*.pyc")
    ]
    return bool(found) and all(flags == b"\x01\0\0\0" for flags in found)


async def until_healthy(port: int, process: subprocess.Popen[bytes]) -> float:
    """Wait until the server accepts. Returns the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < 20:
        if process.poll() is not None:
            raise SystemExit(f"the image's command ended with {process.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return time.monotonic() - began
        except OSError:
            await asyncio.sleep(0.05)
    raise SystemExit("the image's command did not listen within 20 s")


async def run(root: Path, config: dict[str, Any]) -> int:
    """Start it, check it from inside and outside, stop it. Returns the number of faults."""
    faults = findings(root, config)
    plain, packed = sizes(root)
    print(f"size {plain:.1f} MB, {packed:.1f} MB compressed (at most {MOST_MEGABYTES} MB)", flush=True)
    if plain > MOST_MEGABYTES:
        faults.append(f"it has {plain:.1f} MB")
    redis = RedisServer(default_server()).start()
    application = Stub(SECRET)
    await application.start(0)
    port = free_port()
    variables = dict(entry.split("=", 1) for entry in config["Env"])
    variables |= {
        "JWT_SECRET": "a-secret-of-the-image-test-which-is-long-enough",
        "INTERNAL_API_SECRET": SECRET,
        "NEXT_API_URL": application.url,
        "REDIS_URL": redis.url,
        "PORT": str(port),
        "ECLIPSE_DRAIN_SECONDS": str(DRAIN_SECONDS),
        "ECLIPSE_METRICS_PORT": str(free_port()),
    }
    launch = {"ROOT": str(root), "WHO": config["User"], "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]

    def inside(command: list[str]) -> list[str]:
        pairs = [f"{name}={value}" for name, value in variables.items()]
        where = config.get("WorkingDir") or "/"
        words = f"cd {where} && exec env -i {shlex.join(pairs)} {shlex.join(command)}"
        return [*namespaces, "sh", "-c", LAUNCH, "sh", "/bin/sh", "-c", words]

    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this process
    process = subprocess.Popen(inside(config["Cmd"]), env=launch, stdout=subprocess.DEVNULL, stderr=log)
    try:
        print(f"listening after {await until_healthy(port, process):.2f} s", flush=True)
        touch = inside(["touch", "/srv/eclipse/x"])
        touching = subprocess.run(touch, env=launch, capture_output=True, check=False)
        if touching.returncode == 0:
            faults.append("its root file system can be written to")
        ask = inside(LIVE)
        health = subprocess.run(ask, env=launch, capture_output=True, text=True, check=False)
        print(f"HEALTHCHECK: {health.stdout.strip()}{health.stderr.strip()}", flush=True)
        if health.returncode != 0:
            faults.append(f"its HEALTHCHECK ends with {health.returncode}")
        smoke = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eclipse_ws",
            "smoke",
            f"http://127.0.0.1:{port}",
            env={**os.environ, **{k: variables[k] for k in ("JWT_SECRET", "INTERNAL_API_SECRET")}},
        )
        if await smoke.wait() != 0:
            faults.append(f"`eclipse-ws smoke` ends with {smoke.returncode}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        began = time.monotonic()
        os.kill(int(children[0]), signal.SIGTERM)  # the first process of its namespace, as on a platform
        code = await asyncio.to_thread(process.wait, DRAIN_SECONDS + 10)
        took = time.monotonic() - began
        print(f"SIGTERM: exit {code} after {took:.2f} s", flush=True)
        if code != 0 or took > DRAIN_SECONDS + 2:
            faults.append(f"it left with {code} after {took:.1f} s")
    finally:
        process.kill()
        process.wait()
        await application.stop()
        redis.stop()
    if faults:
        log.seek(0)
        print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    print("the image is as it should be" if not faults else f"{len(faults)} faults")
    return len(faults)


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pip-volumes", action="store_true", help="print arguments for buildah")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--config", type=Path)
    given = parser.parse_args()
    if given.pip_volumes:
        print("\n".join(pip_volumes()))
        return
    config = json.loads(given.config.read_text())["Docker"]["config"]
    sys.exit(1 if asyncio.run(run(given.root, config)) else 0)


if __name__ == "__main__":
    main()
