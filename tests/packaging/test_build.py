"""What is published: the wheel, the source archive, their metadata, and the wheel installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from eclipse_ws import __version__
from tests.packaging.conftest import ROOT, Built, tracked

pytestmark = pytest.mark.slow
SECRET = "k3Jd8-sQ0zLxV7bNm2Wc5RtYp9Ga1Hf4Ue6Io"


def wheel_files(built: Built) -> set[str]:
    """The names in the wheel."""
    with zipfile.ZipFile(built.wheel) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


@pytest.fixture(scope="session")
def metadata(built: Built) -> Metadata:
    """The wheel's metadata, checked against the specification."""
    with zipfile.ZipFile(built.wheel) as wheel:
        name = f"eclipse_ws-{__version__}.dist-info/METADATA"
        return Metadata.from_email(wheel.read(name), validate=True)


def test_no_warning(built: Built) -> None:
    """Neither setuptools nor Python warns while both are built."""
    assert "Successfully built" in built.printed
    assert re.findall(r".*(?:warning|deprecat).*", built.printed, re.IGNORECASE) == []


def test_metadata(metadata: Metadata) -> None:
    """The index gets name, version, authors, licence, addresses and the versions of Python."""
    assert (metadata.name, str(metadata.version)) == ("eclipse-ws", __version__)
    assert (metadata.author, metadata.license_expression) == ("The eclipse-ws authors", "MIT")
    assert metadata.license_files == ["LICENSE"]
    assert "The eclipse-ws authors" in (ROOT / "LICENSE").read_text()
    assert str(metadata.requires_python) == ">=3.11"
    versions = [f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13, 14)]
    assert set(versions) <= set(metadata.classifiers or ())
    assert not [name for name in metadata.classifiers or () if name.startswith("License ::")]
    repository = (metadata.project_urls or {})["Repository"]
    assert all(url.startswith(repository) for url in (metadata.project_urls or {}).values())
    needed = {requirement.name for requirement in metadata.requires_dist or () if requirement.marker is None}
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "runtime.txt").read_text(), re.MULTILINE)
    assert {name.lower() for name in needed} <= set(locked)


def test_the_wheel_has_the_package_and_nothing_else(built: Built) -> None:
    """Modules, Lua and SQL, pages, profiles and the mark of types; no tests, no hidden files."""
    dist_info = f"eclipse_ws-{__version__}.dist-info/"
    found = {name for name in wheel_files(built) if not name.startswith(dist_info)}
    kinds = (".py", ".lua", ".sql", "/py.typed")
    expected = {
        name
        for name in tracked()
        if name.startswith("eclipse_ws/") and (name.endswith(kinds) or name.startswith("eclipse_ws/static/"))
    }
    profiles = {f"eclipse_ws/{name}" for name in tracked() if re.fullmatch(r"conf/\w+\.toml", name)}
    assert found == expected | profiles
    assert f"{dist_info}licenses/LICENSE" in wheel_files(built)


def test_the_source_archive_has_the_repository_and_nothing_else(built: Built) -> None:
    """Every file that git tracks, so that its tests pass; a new kind of file belongs in MANIFEST.in."""
    with tarfile.open(built.archive) as archive:
        found = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in found if re.fullmatch(r"PKG-INFO|setup\.cfg|eclipse_ws\.egg-info/.*", name)}
    assert found - made == set(tracked())


def test_the_installed_wheel_works_elsewhere(built: Built, tmp_path: Path) -> None:
    """In a fresh environment and another folder, the command says its version and finds its profiles."""
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    installing = ["pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, built.wheel]
    subprocess.run([Path(sys.executable).with_name("uv"), *installing], check=True)
    # The dependencies of this environment, behind what was installed. Its own .pth files aren't read.
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    production = {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET[::-1],
        "NEXT_API_URL": "https://app.example.com",
        "REDIS_URL": "redis://redis.example.com:6379",
    }

    def say(*command: str | Path, **more: str) -> str:
        return subprocess.run(
            command, cwd=tmp_path, env={**environ, **more}, check=True, capture_output=True, text=True
        ).stdout

    program = python.with_name("eclipse-ws")
    where = say(python, "-c", "import eclipse_ws; print(eclipse_ws.__file__)")
    assert where.strip() == str(site / "eclipse_ws" / "__init__.py")
    assert say(program, "--version") == f"eclipse-ws, version {__version__}\n"
    settings = say(program, "config", "--profile", "prod", **production)
    assert re.search(r'^ECLIPSE_LOG_FORMAT +"json" +profile prod$', settings, re.MULTILINE)
