"""`scripts/setup` and what `make` does with it, on machines that lack something; real Python, venv and pip.

The checkout is a small one whose packages lie beside it, so that nothing is downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import needs

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WAIT = 300  # s after which a command counts as hanging
BACKEND = """
import pathlib, time, zipfile

def build_editable(folder, settings=None, metadata=None):
    hang = pathlib.Path("hang")
    while hang.exists():
        pathlib.Path("hanging").touch()
        time.sleep(0.01)
    about = "eclipse_ws-1.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, "eclipse_ws-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("eclipse_ws.py", "def main(): print('it runs')")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\\nName: eclipse-ws\\nVersion: 1\\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\\neclipse-ws = eclipse_ws:main\\n")
        wheel.writestr(f"{about}/RECORD", "")
    return "eclipse_ws-1-py3-none-any.whl"
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def wheel(folder: Path, name: str) -> str:
    """A wheel of one empty module, and the line of a lock that asks for it."""
    file = folder / f"{name}-1-py3-none-any.whl"
    about = f"{name}-1.dist-info"
    module = b""
    digest = base64.urlsafe_b64encode(hashlib.sha256(module).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", module)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", f"{name}.py,sha256={digest},0\n")
    return f"{name}==1 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"


class Checkout:
    """A small checkout, and the commands of somebody who has just cloned it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.wheels = folder / "wheels"
        for each in (self.wheels, self.folder / "scripts", self.folder / "requirements"):
            each.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", self.folder)
        shutil.copy(ROOT / "scripts" / "setup", self.folder / "scripts")
        for name, package in (("build", "builder"), ("runtime", "server"), ("dev", "tool")):
            line = wheel(self.wheels, f"lock_{package}")
            (self.folder / "requirements" / f"{name}.txt").write_text(line)
        (self.folder / "setup.py").touch()
        (self.folder / "pyproject.toml").write_text(PYPROJECT)
        (self.folder / "backend.py").write_text(BACKEND)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHON": sys.executable,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_NO_CACHE_DIR": "1",
        }

    def begin(self, *command: str) -> subprocess.Popen[str]:
        """A running command, in its own process group."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def call(self, *command: str) -> tuple[int, str]:
        """Its exit code, and what it printed."""
        running = self.begin(*command)
        try:
            printed = running.communicate(timeout=WAIT)[0]
        finally:
            if running.returncode is None:
                os.killpg(running.pid, signal.SIGKILL)
                running.communicate()
        return running.returncode, printed

    def stub(self, name: str, script: str) -> None:
        """A program of ours, before all others."""
        folder = self.folder.parent / "stubs"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        self.environment["PATH"] = f"{folder}:{os.environ['PATH']}"

    @property
    def installed(self) -> set[str]:
        """The packages of the lock that are there."""
        found = (self.folder / ".venv").glob("lib/python3*/site-packages/lock_*.py")
        return {file.stem.removeprefix("lock_") for file in found}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A small checkout that nobody has set up."""
    return Checkout(tmp_path)


@pytest.fixture(scope="module")
def empty_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without packages, made once."""
    folder = tmp_path_factory.mktemp("empty") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def begun(checkout: Checkout, empty_venv: Path) -> Checkout:
    """A checkout whose environment is there already, to spare the time of making one."""
    shutil.copytree(empty_venv, checkout.folder / ".venv", symlinks=True, copy_function=os.link)
    return checkout


def test_the_server_first_and_the_tools_when_they_are_asked_for(checkout: Checkout) -> None:
    """`make run` brings what the server needs and says so; `make setup` adds the tools; both only once."""
    code, printed = checkout.call("make", "run")
    assert (code, printed.splitlines()[-1]) == (0, "it runs")
    assert checkout.installed == {"builder", "server"}
    said = [line.partition(" ...")[0] for line in printed.splitlines()[:-1]]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert said == [
        f"Making .venv with Python {version}",
        "Installing what builds packages",
        "Installing the server's packages",
        "Installing eclipse-ws from this folder",
    ]
    assert checkout.call("make", "run") == (0, "it runs\n")
    code, printed = checkout.call("make", "setup")
    assert (code, checkout.installed) == (0, {"builder", "server", "tool"})
    assert len(printed.splitlines()) == 1
    assert "Nothing to be done" in checkout.call("make", "setup")[1]
    assert checkout.call("make", "run") == (0, "it runs\n")


def test_without_make(begun: Checkout) -> None:
    """The two commands that need no make do the same, from anywhere."""
    script = begun.folder / "scripts" / "setup"
    code, printed = begun.call("sh", "-c", f"cd / && {script} && {begun.folder}/.venv/bin/eclipse-ws")
    assert (code, printed.splitlines()[-1]) == (0, "it runs")


def test_an_interrupted_set_up_begins_anew(begun: Checkout) -> None:
    """A running one is left alone; one that was killed while pip worked is not considered done, nor kept."""
    (begun.folder / "hang").touch()
    running = begun.begin("sh", "scripts/setup")
    deadline = time.monotonic() + WAIT
    while not (begun.folder / "hanging").exists():
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (begun.folder / ".venv" / "left-over").touch()
    code, printed = begun.call("make", "run")
    assert (code != 0, f"by another command (process {running.pid})" in printed) == (True, True)
    assert (begun.folder / ".venv" / "left-over").exists()
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    (begun.folder / "hang").unlink()
    assert begun.call("make", "run")[1].endswith("it runs\n")
    assert not (begun.folder / ".venv" / "left-over").exists()


def test_an_environment_whose_python_has_gone(begun: Checkout) -> None:
    """After an upgrade that removed its Python, the environment is made again."""
    (begun.folder / ".venv" / ".runtime").touch()
    for link in (begun.folder / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nonexistent/python3")
    assert begun.call("make", "run")[1].endswith("it runs\n")


def test_a_changed_lock_is_installed(begun: Checkout) -> None:
    """A lock that is newer than the set-up brings its packages, without making all anew."""
    (begun.folder / ".venv" / ".runtime").touch()
    lock = begun.folder / "requirements" / "runtime.txt"
    lock.write_text(lock.read_text() + wheel(begun.wheels, "lock_more"))
    code, printed = begun.call("make", "run")
    assert (code, begun.installed) == (0, {"builder", "server", "more"})
    assert "Making" not in printed


def test_a_python_that_is_too_old(checkout: Checkout) -> None:
    """The sentence names the version that was found; another Python that will do is taken by itself."""
    del checkout.environment["PYTHON"]
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        checkout.stub(name, 'case $2 in *"< (3, 11)"*) exit 1 ;; *) echo 3.9 ;; esac')
    code, printed = checkout.call("make", "run")
    assert code != 0
    assert "eclipse-ws needs Python 3.11 or later; python3 is 3.9, which is too old." in printed
    assert "PYTHON=/path/to/python3.12 make run" in printed
    checkout.stub("python3.12", f'exec {sys.executable} "$@"')
    checkout.stub("python3.12", 'case $* in *"-m venv"*) echo "taken: $0" && exit 1 ;; *) exit 0 ;; esac')
    assert "taken: " in checkout.call("make", "run")[1]


def test_no_python(checkout: Checkout) -> None:
    """A name that leads nowhere is named."""
    checkout.environment["PYTHON"] = "python3.99"
    code, printed = checkout.call("make", "run")
    assert (code != 0, "python3.99 is not there" in printed) == (True, True)


def test_no_venv_module(checkout: Checkout) -> None:
    """A Debian without python3-venv has no ensurepip: the package to install is named."""
    stubs = checkout.folder.parent / "modules"
    stubs.mkdir()
    (stubs / "ensurepip.py").write_text("raise ImportError")
    checkout.environment["PYTHONPATH"] = str(stubs)
    code, printed = checkout.call("make", "run")
    assert code != 0
    assert "has no venv module" in printed
    assert f"sudo apt install python3.{sys.version_info.minor}-venv" in printed
    assert not (checkout.folder / ".venv").exists()


def in_a_mount(checkout: Checkout, mount: str) -> tuple[int, str]:
    """`scripts/setup` where the checkout lies in a mount of its own, which is gone afterwards."""
    unshare = shutil.which("unshare")
    own = [unshare or "unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if unshare is None or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        needs.missing("mounts", "they need root, or Linux with user namespaces")
    return checkout.call(*own, "sh", "-ec", mount, "sh", str(checkout.folder))


def test_a_full_disk(checkout: Checkout) -> None:
    """What doesn't fit is told as that, with how much room is needed."""
    mount = """
        cp -r "$1" "$1.copy"
        mount -t tmpfs -o size=4m none "$1"
        cp -r "$1.copy/." "$1"
        exec sh "$1/scripts/setup"
    """
    code, printed = in_a_mount(checkout, mount)
    assert code == 1
    assert f"The disk is full: {checkout.folder}/.venv needs about 100 MB" in printed
    assert "Traceback" not in printed


def test_a_read_only_checkout(checkout: Checkout) -> None:
    """A checkout that can't be written says so before anything is tried."""
    mount = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; exec sh "$1/scripts/setup"'
    code, printed = in_a_mount(checkout, mount)
    assert code == 1
    assert f"{checkout.folder}/.venv can't be written: Read-only file system." in printed
    assert len(printed.splitlines()) == 2


@pytest.fixture
def proxy() -> Iterator[str]:
    """A proxy that lets nobody out."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=refuse, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def test_a_proxy_that_blocks_the_index(begun: Checkout, proxy: str) -> None:
    """pip's retries are left out; one sentence says what was refused, the next what to set."""
    del begun.environment["PIP_NO_INDEX"], begun.environment["PIP_FIND_LINKS"]
    begun.environment |= {"HTTPS_PROXY": proxy, "PIP_INDEX_URL": "https://index.invalid/simple"}
    code, printed = begun.call("sh", "scripts/setup")
    assert code == 1
    assert "pip can't reach the package index (Tunnel connection failed: 403)." in printed
    assert "PIP_INDEX_URL=https://host/simple" in printed
    assert len(printed.splitlines()) == 4


def test_what_pip_says_is_shown_when_it_is_not_known(begun: Checkout) -> None:
    """A fault that nobody foresaw keeps pip's own words."""
    lock = begun.folder / "requirements" / "build.txt"
    lock.write_text(f"lock_builder==1 --hash=sha256:{'0' * 64}\n")
    code, printed = begun.call("sh", "scripts/setup")
    assert code == 1
    assert "HASHES" in printed
    assert "Setting up .venv failed." in printed


def test_clean_removes_what_was_made(checkout: Checkout) -> None:
    """Everything that git ignores goes, wherever it lies, but settings, secrets and messages stay."""
    ignored = [line.replace("*", "x") for line in (ROOT / ".gitignore").read_text().split()]
    kept = {name for name in ignored if name.startswith((".env", ".eclipse", "x.db", "x.sqlite3"))}
    for name in ignored:
        (checkout.folder / name).parent.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in checkout.folder.iterdir()}
    for name in ignored:
        path = checkout.folder / name
        path.mkdir() if name.endswith("/") else path.touch()
    (checkout.folder / "scripts" / "__pycache__").mkdir()
    code, printed = checkout.call("make", "clean")
    assert (code, printed) == (0, "Kept: .env x.db\n")
    assert {path.name for path in checkout.folder.iterdir()} == before | kept
    assert {name for name in ignored if (checkout.folder / name).exists()} == kept
    assert not (checkout.folder / "scripts" / "__pycache__").exists()


def test_another_folder_on_the_way(checkout: Checkout, tmp_path: Path) -> None:
    """CDPATH leads nowhere: what lies in a folder of the same name stays."""
    other = tmp_path / "other"
    (other / "scripts").mkdir(parents=True)
    (other / ".venv").mkdir()
    (other / ".venv" / "precious").touch()
    checkout.environment["CDPATH"] = str(other)
    code, printed = checkout.call("sh", "scripts/setup")
    assert code == 0, printed
    assert (other / ".venv" / "precious").exists()
    assert (checkout.folder / ".venv" / ".runtime").exists()


def test_two_at_once(checkout: Checkout) -> None:
    """One of two that begin at the same time does the work, and the other says so."""
    both = "sh scripts/setup >first 2>&1 & sh scripts/setup >second 2>&1 & wait"
    code, printed = checkout.call("sh", "-c", both)
    assert code == 0, printed
    said = [(checkout.folder / name).read_text() for name in ("first", "second")]
    assert sum("is being set up by another command" in each for each in said) == 1, said
    assert (checkout.folder / ".venv" / ".runtime").exists()
    assert not (checkout.folder / ".venv.lock").exists()


def test_a_lock_that_was_left(checkout: Checkout) -> None:
    """A process id in it that is some other program's holds nobody up."""
    needs.program("ps", "Debian: apt-get install procps")
    (checkout.folder / ".venv.lock").write_text(f"{os.getpid()}\n")
    code, printed = checkout.call("sh", "scripts/setup")
    assert code == 0, printed


def test_with_its_own_python(checkout: Checkout) -> None:
    """An environment that begins anew is made with the Python behind the one that goes."""
    assert checkout.call("sh", "scripts/setup")[0] == 0
    (checkout.folder / ".venv" / ".unfinished").touch()
    checkout.environment["PYTHON"] = ".venv/bin/python"
    code, printed = checkout.call("sh", "scripts/setup")
    assert code == 0, printed
