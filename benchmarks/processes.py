"""Processes of a benchmark: started on a core, measured from /proc, and always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.servers import NoServerError, default_server, free_port, server_binary

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_SECONDS = 20


class CannotRunError(Exception):
    """A measurement failed; the text says why."""


class NotInstalledError(CannotRunError):
    """Something that a benchmark needs is not there; the text says what and how to get it."""


def machine() -> dict[str, str | int]:
    """What this machine is, for a report."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next(
        (line.partition(":")[2].strip() for line in info if line.startswith("model name")), "an unknown CPU"
    )
    memory = PAGE * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {"cpu": cpu, "cores": len(CORES), "memory": f"{memory:.0f} GB"}


def measured(measuring: Coroutine[Any, Any, int]) -> int:
    """Run a benchmark that opens many sockets. Returns its exit code, or says why it can't run: 2."""
    raise_file_limit()
    try:
        return asyncio.run(measuring)
    except (CannotRunError, TimeoutError, OSError) as error:
        print(str(error) or "no answer in time", file=sys.stderr)
        return 2


def raise_file_limit(wanted: int = 60_000) -> None:
    """Let this process and its children open that many files, as far as the machine allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), max(hard, wanted)))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def pinned(argv: list[str], core: int | None) -> list[str]:
    """The command on one core; for None, on a machine with one core, or without `taskset`, as it is."""
    if core is None or len(CORES) < 2 or shutil.which("taskset") is None:
        return argv
    return ["taskset", "-c", str(core), *argv]


class Process:
    """A server of a benchmark; listens on `port` when it has started."""

    def __init__(
        self, argv: list[str], port: int, core: int | None, env: Mapping[str, str], folder: Path | None = None
    ) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            pinned(argv, core),
            env={**os.environ, **env},
            cwd=folder,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + START_SECONDS
        while not _listens(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.said()
                self.stop()
                raise CannotRunError(f"{' '.join(argv[:3])} did not start: {said or 'it said nothing'}")
            time.sleep(0.01)

    def pids(self) -> list[int]:
        """The process and its children."""
        return family(self._process.pid)

    def memory(self) -> int:
        """Bytes resident: of the process, or of its child where it only watches over one (nginx)."""
        pids = self.pids()
        return int(Path(f"/proc/{pids[-1]}/statm").read_text().split()[1]) * PAGE

    def log_bytes(self) -> int:
        """Bytes that the process has written to its output."""
        return os.fstat(self._log.fileno()).st_size

    def stop(self, patience: float = 5) -> None:
        """End it, kindly first, and after `patience` seconds by force."""
        self._process.terminate()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._process.wait(5)
        self._log.close()

    def said(self) -> str:
        """The end of what it printed."""
        self._log.seek(0)
        return self._log.read()[-2000:].decode("utf-8", "replace").strip()


def family(pid: int) -> list[int]:
    """A process and those that come from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            found += [int(child) for child in children]
    return found


def cpu_seconds(pids: list[int]) -> float:
    """CPU seconds that the processes have used, those that they have waited for included."""
    return sum(_ticks(pid) for pid in pids) / TICKS


def strangers_seconds(ours: list[int]) -> float:
    """CPU seconds of every process that is not ours: what else the machine had to do."""
    known = {*ours, os.getpid(), os.getppid()}
    others = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return cpu_seconds([pid for pid in others if pid not in known])


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def nginx(conf: Path, core: int, modules: tuple[str, ...] = ()) -> Iterator[Process]:
    """An nginx with a configuration of ours, its files in a folder that goes with it."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        raise NotInstalledError("nginx is not installed (apt-get install nginx-light libnginx-mod-nchan)")
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        text = conf.read_text(encoding="utf-8").replace("{{port}}", str(port)).replace("{{folder}}", name)
        for module in modules:
            path = next((p for p in Path("/usr/lib/nginx/modules").glob(module)), None)
            if path is None:
                raise NotInstalledError(f"{module} is not installed (apt-get install libnginx-mod-nchan)")
            text = text.replace("{{module}}", str(path))
        written = Path(name) / "nginx.conf"
        written.write_text(text, encoding="utf-8")
        # As root, nginx's worker is another user, who has to reach its folder.
        Path(name).chmod(0o755)
        process = Process([program, "-p", name, "-c", str(written)], port, core, {})
        try:
            yield process
        finally:
            process.stop()


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A Redis (or Valkey) of our own, in memory alone, on the load's core; its URL."""
    try:
        program = server_binary(default_server())
    except NoServerError as error:
        raise NotInstalledError(str(error)) from None
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = Process(argv, port, LOAD_CORE, {}, Path(tempfile.gettempdir()))
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.stop()


def command() -> list[str]:
    """How this checkout's `eclipse-ws` is started."""
    script = Path(sys.executable).with_name("eclipse-ws")
    return [str(script)] if script.exists() else [sys.executable, "-m", "eclipse_ws"]
