"""The file with a development server's secrets: private from its first moment, and complete."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from eclipse_ws.config import dev_secrets
from eclipse_ws.config.loading import Loaded, load
from eclipse_ws.config.problems import SettingsError

NAMES = ("jwt_secret", "internal_api_secret")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The file's path."""
    return tmp_path / dev_secrets.NAME


def start(folder: Path, profile: str | None = None, **environ: str) -> Loaded:
    """The settings of a server that starts in the folder."""
    return load(profile, environ=environ, dotenv=folder / ".env", starting=True)


def values(loaded: Loaded) -> list[str]:
    """Both secrets."""
    return [getattr(loaded.settings, name).get_secret_value() for name in NAMES]


def test_a_start_saves_what_it_generates(tmp_path: Path, place: Path) -> None:
    """The next start, and every command, has the same secrets, with the file as their source and no note."""
    first, second = start(tmp_path), load(environ={}, dotenv=tmp_path / ".env")
    assert values(first) == values(second)
    assert len({*values(first)}) == 2
    assert [second.sources[name] for name in NAMES] == [dev_secrets.NAME] * 2
    assert (first.notes, second.notes) == ([], [])
    assert not second.generated & {*NAMES}
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [dev_secrets.NAME]


def test_commands_save_nothing(tmp_path: Path) -> None:
    """A command that only reads leaves no file."""
    assert load(environ={}, dotenv=tmp_path / ".env").generated >= {*NAMES}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("profile", ["test", "prod"])
def test_other_profiles_save_nothing(tmp_path: Path, place: Path, profile: str) -> None:
    """Only development saves secrets, and only development reads the saved ones."""
    dev_secrets.keep(place)
    kept = place.read_text()
    try:
        found = values(start(tmp_path, profile))
    except SettingsError as error:
        assert profile == "prod"
        assert "JWT_SECRET is not set" in str(error)
        found = []
    assert not [secret for secret in found if secret in kept]
    place.unlink()
    if profile == "test":
        start(tmp_path, profile)
    assert not list(tmp_path.iterdir())


def test_set_secrets_override_the_file(tmp_path: Path, place: Path) -> None:
    """`.env` and the environment override the file, which isn't written if both secrets are set."""
    a, b, c = ("a" * 32, "b" * 32, "c" * 32)
    (tmp_path / ".env").write_text(f"JWT_SECRET={a}\nINTERNAL_API_SECRET={b}\n")
    assert values(start(tmp_path)) == [a, b]
    assert not place.exists()
    (tmp_path / ".env").write_text(f"JWT_SECRET={a}\n")
    loaded = start(tmp_path, JWT_SECRET=c)
    assert values(loaded)[0] == c
    assert [loaded.sources[name] for name in NAMES] == ["environment", dev_secrets.NAME]


def test_the_file_is_never_open_to_others(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any umask, others can never read it, or read half of it."""
    before, seen = os.umask(0), set()
    link = os.link

    def watched(source: str, target: Path) -> None:
        seen.add((stat.S_IMODE(Path(source).stat().st_mode), Path(source).read_text().count("=")))
        assert not place.exists()
        link(source, target)

    monkeypatch.setattr(os, "link", watched)
    try:
        dev_secrets.keep(place)
    finally:
        os.umask(before)
    assert seen == {(0o600, 2)}
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


def test_starts_at_the_same_time_share_one_file(place: Path) -> None:
    """Of many starts one makes the file, and the others read it whole."""
    found, barrier = [], threading.Barrier(8)

    def begin() -> None:
        barrier.wait()
        dev_secrets.keep(place)
        found.append(dev_secrets.read(place))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(values == found[0][0] and len(values) == 2 and not problems for values, problems in found)
    assert [path.name for path in place.parent.iterdir()] == [dev_secrets.NAME]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, place: Path, mode: int) -> None:
    """The sentence says what is wrong with it and what to do, and no secret."""
    dev_secrets.keep(place)
    place.chmod(mode)
    with pytest.raises(SettingsError) as refused:
        start(tmp_path)
    text = str(refused.value)
    assert f"is accessible to others (its mode is {mode:04o}, expected 0600)" in text
    assert "delete it; `eclipse-ws run` generates new secrets" in text
    assert place.read_text().split("=")[1].splitlines()[0] not in text


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "owner"])
def test_a_file_that_is_not_ours_is_refused(
    tmp_path: Path, place: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, a folder, a pipe or a file of another user is not read, and never blocks."""
    if kind == "link":
        dev_secrets.keep(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    elif kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place, 0o600)
    else:
        dev_secrets.keep(place)
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SettingsError) as refused:
        start(tmp_path)
    said = {"link": "can't be read", "owner": f"belongs to another user (uid {os.geteuid() - 1}"}
    assert said.get(kind, "is not a regular file") in str(refused.value)


@pytest.mark.parametrize("where", ["missing/folder", "shared drive"])
def test_a_start_that_cannot_save(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start continues with its own secrets, and says why: no such folder, a drive without permissions."""
    folder = tmp_path / where
    if where == "shared drive":
        folder.mkdir()
        about, result = os.fstat, os.stat_result
        monkeypatch.setattr(os, "fstat", lambda file: result([about(file)[0] | 0o777, *about(file)[1:]]))
    loaded = start(folder)
    monkeypatch.undo()
    assert loaded.generated >= {*NAMES}
    assert loaded.notes[0].startswith(f"can't save secrets in {folder / dev_secrets.NAME}: ")
    assert "JWT_SECRET is not set: a new one was generated" in loaded.notes[1]
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("text", ["", "JWT_SECRET=abcdefghijklmnopqrstuvwxyz0123456789\n"])
def test_an_incomplete_file_is_refused(tmp_path: Path, place: Path, text: str) -> None:
    """A file that a crash left empty, or that lost a line, is reported rather than skipped."""
    place.touch(mode=0o600)
    place.write_text(text)
    with pytest.raises(SettingsError, match=f"{dev_secrets.NAME} does not contain both"):
        start(tmp_path)
